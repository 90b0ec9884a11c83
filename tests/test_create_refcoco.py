import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.codec import mask_to_grid, read_answer
from llava.data.readers.refer import read_refer
from llava.data.records import read_records
from llava.data.rle import decode_rle

REPOSITORY = Path(__file__).resolve().parents[1]
CREATE_JSON = REPOSITORY / "playground" / "data" / "create_json"

REAL = Path(os.environ.get("TEXT4SEG_REAL_DATA", "")) / "refcoco_mini"
needs_real_data = pytest.mark.skipif(
    "TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set"
)


@pytest.fixture
def create(monkeypatch):
    """The command of create_refcoco.py; its train and val split share an image, which stays in."""
    monkeypatch.syspath_prepend(str(CREATE_JSON))
    from create import main

    return lambda arguments: main("refcoco", ["--keep-test-images", *arguments])


@pytest.fixture
def root(tmp_path):
    refs = [
        ref(1, 5, ["left dog", "dog"], split="train"),
        ref(2, 6, ["fly"], split="train"),
        ref(3, 7, ["cat"], split="train", image_id=2),
        ref(4, 7, ["grey cat"], image_id=2),
    ]
    fly = [20.0, 1.0, 21.0, 1.0, 21.0, 2.0, 20.0, 2.0]
    annotations = [annotation(5, [SQUARE]), annotation(6, [fly]), annotation(7, [SQUARE], image_id=2)]
    return write_dataset(tmp_path / "refer_seg", refs, annotations)


def test_the_command_writes_records_and_prints_what_it_left_out(create, root, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert create(["--root", str(root), "--grid", "4", "--copies", "3", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "expressions    4 of 3 targets in 2 images; no target: 0" in printed
    assert "vanished       1 cover no cell of the 4x4 grid (cell policy centre); left out" in printed
    assert "records        6 conversations, 12 questions, 2 images" in printed
    records = read_records(output)
    assert len(records) == 6
    assert (root / records[0]["image"]).is_file()


def test_the_same_command_twice_writes_the_same_bytes(create, root, tmp_path):
    outputs = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for output, seed in zip(outputs, ("1", "1", "2"), strict=True):
        assert create(["--root", str(root), "--seed", seed, "--output", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes() != outputs[2].read_bytes()


def test_unequal_grids_policies_and_folders_reach_the_records(create, root, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = ["--root", root, "--grid", "4x6", "--cell-policy", "keep_small", "--codec", "full"]
    arguments += ["--rounds", "1", "--copies", "1", "--image-folder", tmp_path, "--output", output]
    assert create([str(argument) for argument in arguments]) == 0
    records = read_records(output)
    assert len(records) == 3
    assert {(entry["height"], entry["width"], len(entry["conversations"])) for entry in records} == {
        (4, 6, 2)
    }
    assert records[0]["image"].startswith("refer_seg/images/")
    for entry in records:
        read = read_answer(entry["conversations"][1]["value"], (4, 6), codec="full")
        assert read.outcome == "mask"
        assert not read.faults


def test_several_specs_go_into_one_file(create, root, tmp_path):
    output = tmp_path / "out.json"
    usual = ["--root", str(root), "--copies", "1", "--output", str(output)]
    assert create([*usual, "--spec", "refcoco|train", "refcoco|unc|val", "--cell-policy", "keep_small"]) == 0
    assert len(read_records(output)) == 4


def test_training_images_that_are_val_images_stay_out_and_are_counted(root, tmp_path, capsys, create):
    from create import main

    output = tmp_path / "out.json"
    assert main("refcoco", ["--root", str(root), "--copies", "1", "--output", str(output)]) == 0
    assert "kept out       1 images with 1 targets" in capsys.readouterr().out
    assert all("000000000002" not in entry["image"] for entry in read_records(output))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "testC"], "unknown split 'testC' for refcoco|unc; known: train, val, testA, testB"),
        (["--dataset", "refcocoo"], "unknown dataset 'refcocoo'; known: refcoco, refcoco+"),
        (["--on-error", "skip", "--spec", "refcoco|x"], "unknown split 'x'"),
        (["--dataset", "refcocog"], "refs(umd).p not found"),
        (["--rounds", "0"], "rounds 0: at least 1"),
        (["--copies", "0", "--format", "store"], "copies 0: at least 1"),
        (["--seed", "-1"], "seed -1: a whole number from 0"),
        (["--spec", "refcoco|train", "refcocog|tset"], "unknown split 'tset' for refcocog|umd; known: train"),
        (["--image-folder", "elsewhere"], "does not lie under the image folder elsewhere"),
    ],
)
def test_wrong_input_ends_in_one_sentence_and_writes_nothing(
    create, root, tmp_path, capsys, arguments, message
):
    output = tmp_path / "out.json"
    assert create(["--root", str(root), "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not output.exists()


def test_a_wrong_split_is_told_before_any_other_is_read(create, tmp_path, capsys):
    arguments = ["--root", str(tmp_path), "--spec", "refcoco|train", "cocostuff|tset"]
    assert create(arguments) == 1
    assert capsys.readouterr().err == "error: unknown split 'tset' for cocostuff; known: train, val\n"


def test_root_and_image_folder_may_be_written_in_different_ways(create, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out.json"
    assert create(["--root", "refer_seg", "--image-folder", str(tmp_path), "--output", str(output)]) == 0
    folders = {Path(record["image"]).parent.as_posix() for record in read_records(output)}
    assert folders == {"refer_seg/images/mscoco/images/train2014"}


@pytest.mark.parametrize("grid", ["0", "4x", "axb", "4x4x4", "-3"])
def test_a_wrong_grid_says_how_to_write_one(create, capsys, grid):
    with pytest.raises(SystemExit):
        create([f"--grid={grid}"])
    assert f"grid '{grid}': give one side as 16, or rows x columns as 12x16" in capsys.readouterr().err


def test_grefcoco_runs_as_a_script_with_its_own_defaults(tmp_path):
    second = [value + 10 for value in SQUARE]
    refs = [
        ref(1, [5, 6], ["both dogs"], split="train", no_target=False),
        ref(2, [-1], ["a cow"], split="train", no_target=True),
        ref(3, [5], [], split="train", no_target=False),
    ]
    annotations = [annotation(5, [SQUARE]), annotation(6, [second])]
    root = write_dataset(tmp_path, refs, annotations, dataset="grefcoco", refs_name="grefs(unc).json")
    output = tmp_path / "out.json"
    command = [
        sys.executable,
        str(CREATE_JSON / "create_grefercoco.py"),
        "--root",
        str(root),
        "--output",
        str(output),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "no target: 1" in done.stdout
    assert "noted          1 x refs without sentences" in done.stdout
    records = read_records(output)
    assert len(records) == 2
    assert (records[0]["height"], records[0]["width"]) == (24, 24)
    both = read_answer(records[0]["conversations"][1]["value"], (24, 24))
    absent = read_answer(records[1]["conversations"][1]["value"], (24, 24))
    assert (both.outcome, absent.outcome) == ("mask", "empty")


def environment():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


REAL_SPLITS = {
    "refcoco": ["val", "testA", "testB"],
    "refcoco+": ["val", "testA", "testB"],
    "refcocog": ["val", "test"],
}


@pytest.mark.real_data
@needs_real_data
@pytest.mark.parametrize(
    ("dataset", "refs", "sentences"), [("refcoco", 33, 96), ("refcoco+", 33, 96), ("refcocog", 20, 37)]
)
def test_records_of_real_refcoco_describe_the_real_masks(create, tmp_path, capsys, dataset, refs, sentences):
    output = tmp_path / "out.json"
    splits = REAL_SPLITS[dataset]
    arguments = ["--root", str(REAL), "--dataset", dataset, "--split", *splits, "--output", str(output)]
    assert create(arguments) == 0
    assert f"expressions    {sentences} of {refs} targets" in capsys.readouterr().out
    records = read_records(output)
    assert len(records) == 2 * refs
    truth = {
        sample.id.rpartition("|")[0]: mask_to_grid(decode_rle(sample.mask), (16, 16)).astype(bool)
        for split in splits
        for sample in read_refer(REAL, f"{dataset}|{split}")
    }
    for entry in records:
        read = read_answer(entry["conversations"][1]["value"], (16, 16))
        assert not read.faults
        assert np.array_equal(read.foreground, truth[entry["id"].rpartition("|")[0]])
