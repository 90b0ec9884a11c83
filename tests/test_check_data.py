"""What check_data says about every dataset: found, incomplete or missing, and what is wrong in it."""

import os
import shutil
from pathlib import Path

import pytest
from dataset_folders import FOLDERS, llava, refer
from refer_folder import SQUARE, annotation, ref

from llava.data.readers import DATASETS

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs check_data; returns (exit code, printed)."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import check_data

    def call(*arguments):
        return check_data.main([str(argument) for argument in arguments]), capsys.readouterr().out

    return call


def test_a_complete_set_is_found_and_a_missing_one_says_where_to_get_it(check, tmp_path):
    refer(tmp_path)
    code, printed = check("--root", tmp_path, "--dataset", "refcoco")
    assert (code, printed.splitlines()[0]) == (0, f"refcoco: found under {tmp_path}")
    assert "  ok       refcoco/refs(unc).p" in printed
    code, printed = check("--root", tmp_path, "--dataset", "refclef")
    assert code == 1
    assert f"refclef: missing under {tmp_path}" in printed
    assert "  missing  refclef/refs(unc).p or refclef/refs(unc).json" in printed
    assert "https://github.com/lichengunc/refer" in printed
    assert "images/saiapr_tc-12" in printed


def test_every_dataset_is_reported_and_a_lack_is_no_error_unless_it_was_named(check, tmp_path):
    refer(tmp_path)
    code, printed = check("--root", tmp_path)
    assert code == 0
    for name in (*DATASETS, "llava"):
        assert f"\n{name}: " in f"\n{printed}"
    assert "refcoco+: incomplete, 1 of 3" in printed
    assert f"1 of {len(DATASETS) + 1} datasets are complete" in printed


def test_without_a_root_every_kind_has_its_usual_one(check):
    _, printed = check("--dataset", "refcoco", "muse")
    assert f"{Path('playground/data/refer_seg')}\n" in printed
    assert f"{Path('playground/data')}\n" in printed


def test_every_place_is_named_for_a_dataset_that_was_asked_for(check, tmp_path):
    _, short = check("--root", tmp_path)
    assert "ADEChallengeData2016/annotations/training or 2 more places" in short
    _, full = check("--root", tmp_path, "--dataset", "ade20k")
    assert "ade/ADEChallengeData2016/annotations/training" in full and "more places" not in full


def test_empty_folders_and_files_are_missing(check, tmp_path):
    refer(tmp_path)
    shutil.rmtree(tmp_path / "images/mscoco/images/train2014")
    (tmp_path / "images/mscoco/images/train2014").mkdir()
    (tmp_path / "refcoco/instances.json").write_text("")
    _, printed = check("--root", tmp_path, "--dataset", "refcoco")
    assert "refcoco: incomplete, 1 of 3" in printed
    assert "missing  refcoco/instances.json" in printed


def test_every_split_is_read_when_asked(check, tmp_path):
    refs = [ref(1, 5, ["left dog", "dog"], split="train"), ref(4, 7, ["grey cat"], image_id=2)]
    refer(tmp_path, refs=refs, annotations=[annotation(5, [SQUARE]), annotation(7, [SQUARE], image_id=2)])
    code, printed = check("--root", tmp_path, "--dataset", "refcoco", "--read")
    assert code == 1
    assert "ok       refcoco|unc|train: 1 targets, 2 samples, 1 images" in printed
    assert "has no refs of split 'testA'; it holds train 1, val 1" in printed
    next((tmp_path / "images").rglob("*1.jpg")).unlink()
    _, printed = check("--root", tmp_path, "--dataset", "refcoco", "--read")
    assert "wrong    refcoco|unc|train: 0 targets, 0 samples, 0 images" in printed
    assert "left out       1 x missing image" in printed


def test_what_a_documented_rule_leaves_out_is_told_and_not_wrong(check, tmp_path):
    FOLDERS["create_grefercoco"](tmp_path)
    _, printed = check("--root", tmp_path, "--dataset", "grefcoco", "--read")
    assert "ok       grefcoco|unc|train: 2 targets, 2 samples, 1 images" in printed
    assert "noted          1 x refs without sentences" in printed


def test_other_split_files_are_read_where_they_are(check, tmp_path):
    refer(tmp_path, refs_name="refs(google).p", dataset="refcocog")
    _, printed = check("--root", tmp_path, "--dataset", "refcocog", "--read")
    assert "refcocog|google|train: 2 targets" in printed
    assert "refcocog|umd|" not in printed


def test_a_part_of_a_dataset_is_read_and_the_rest_said_to_be_missing(check, tmp_path):
    FOLDERS["create_coco_panoptic"](tmp_path)
    code, printed = check("--root", tmp_path, "--dataset", "coco_panoptic", "--read")
    assert code == 1
    assert "coco_panoptic: incomplete, 3 of 6" in printed
    assert "ok       coco_panoptic|train: 2 targets, 2 samples, 1 images" in printed
    assert "coco_panoptic|val: not read, files are missing" in printed


def test_conversations_are_looked_at_like_a_dataset(check, tmp_path):
    llava(tmp_path)
    code, printed = check("--root", tmp_path, "--dataset", "llava", "--read")
    assert code == 1
    assert "llava: incomplete, 2 of 7" in printed
    assert "2 conversations, 1 images" in printed
    (tmp_path / "coco/train2017/000000000009.jpg").unlink()
    _, printed = check("--root", tmp_path, "--dataset", "llava", "--read")
    assert "1 x missing image" in printed


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_refcoco_is_found_and_read(check):
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    _, printed = check("--root", root, "--dataset", "refcoco", "refcoco+", "refcocog", "--read")
    for line in (
        "refcoco|unc|val: 16 targets, 45 samples, 5 images",
        "refcoco|unc|testB: 11 targets, 33 samples",
        "refcoco+|unc|testA: 6 targets, 16 samples",
        "refcocog|umd|val: 13 targets, 24 samples",
        "refcocog|google|val: 19 targets, 38 samples, 18 images",
    ):
        assert f"ok       {line}" in printed
