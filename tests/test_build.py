"""Every builder command, on drawn folders in the real layouts and on what is real."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from dataset_folders import FOLDERS, held_out_refs, label_map, llava, refer
from PIL import Image
from refer_folder import SQUARE, annotation, ref

from llava.codec import read_answer
from llava.codec.boxwise import read_boxes
from llava.constants import SEG_OPEN
from llava.data.mixture_file import open_mixture
from llava.data.readers import DATASETS
from llava.data.readers.refer_sources import REFER_DATASETS
from llava.data.records import read_records
from llava.data.store import open_store

REPOSITORY = Path(__file__).resolve().parents[1]
CREATE_JSON = REPOSITORY / "playground" / "data" / "create_json"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command by name; returns (exit code, printed, errors)."""
    monkeypatch.syspath_prepend(str(CREATE_JSON))

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(CREATE_JSON / f"{name}.py"), run_name="__main__")
        return (ended.value.code, *capsys.readouterr())

    return call


def parsed(command, arguments=()):
    """Arguments of a command, its dataset taken from its source."""
    import create

    dataset = (CREATE_JSON / f"{command}.py").read_text().split('main("')[1].split('"')[0]
    return create.parse(dataset, list(arguments))


def test_every_dataset_has_its_command_and_every_command_its_folder_here(run):
    commands = {path.stem for path in CREATE_JSON.glob("create_*.py")}
    assert commands == set(FOLDERS) and len(commands) == 20
    built = {parsed(command).dataset for command in commands}
    assert built | set(REFER_DATASETS) == {*DATASETS, "llava"}


@pytest.mark.parametrize("command", FOLDERS)
def test_the_command_writes_records_whose_answers_read_back(run, tmp_path, command):
    FOLDERS[command](tmp_path)
    output = tmp_path / "out.json"
    arguments = ("--root", tmp_path, "--grid", "4x6", "--copies", "2", "--output", output)
    code, printed, errors = run(command, *arguments)
    assert code == 0, errors
    records = read_records(output)
    assert f"records        {len(records)} conversations" in printed
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert "image" not in record or (tmp_path / record["image"]).is_file()
        answers = [turn["value"] for turn in record["conversations"][1::2]]
        if command != "create_llava":
            assert all(SEG_OPEN in answer for answer in answers)
            assert not [fault for answer in answers for fault in read_answer(answer, (4, 6)).faults]


@pytest.mark.parametrize("command", sorted({*FOLDERS} - {"create_llava"}))
def test_the_command_writes_records_in_bricks_that_read_back(run, tmp_path, command):
    FOLDERS[command](tmp_path)
    output = tmp_path / "out.json"
    code, _, errors = run(command, "--root", tmp_path, "--codec", "bricks", "--output", output)
    assert code == 0, errors
    drawn = []
    for record in read_records(output):
        assert (record["codec"], record["height"], record["width"]) == ("bricks", 64, 64)
        form = {"order": record["brick_order"], "tail": record["brick_tail"], "strict": True}
        for turn in record["conversations"][1::2]:
            answer = read_boxes(turn["value"], (64, 64), **form)
            assert answer.blocks and not answer.faults
            drawn += [block for block in answer.blocks if block.box is not None]
    assert drawn and all(block.cells.any() for block in drawn)


@pytest.mark.parametrize("command", FOLDERS)
def test_the_command_writes_a_store_that_training_opens(run, tmp_path, command):
    FOLDERS[command](tmp_path)
    code, printed, errors = run(
        command, "--root", tmp_path, "--format", "store", "--output", tmp_path / "store"
    )
    assert code == 0, errors
    store = open_store(tmp_path / "store")
    assert f"stored         {len(store)} records to draw, {store.image_count} images" in printed
    dataset = parsed(command).dataset
    assert store.classes == (DATASETS[dataset].classes if dataset in DATASETS else ())
    assert store.about["command"].startswith(f"{command}.py --root")
    line = next(line for line in printed.splitlines() if line.startswith("in a mixture"))
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": yaml.safe_load(line[15:])}))
    assert len(open_mixture([tmp_path / "mix.yaml"])) == len(store) * parsed(command).copies


PUBLISHED = {
    "create_refcoco": ((16, 16), 2, 2, 0.0),
    "create_grefercoco": ((24, 24), 2, 1, 0.0),
    "create_d_cube": ((16, 16), 1, 2, 0.0),
    "create_cocostuff": ((32, 32), 2, 10, 1.0),
    "create_ade20k": ((32, 32), 2, 5, 1.0),
    "create_ade20k847": ((32, 32), 2, 5, 1.0),
    "create_paco_lvis": ((32, 32), 2, 1, 0.0),
    "create_pascal_part": ((32, 32), 2, 1, 0.0),
}


@pytest.mark.parametrize("command", PUBLISHED)
def test_defaults_are_the_published_ones(run, command):
    found = parsed(command)
    assert (found.grid, found.rounds, found.copies, found.crop) == PUBLISHED[command]


def test_defaults_follow_the_dataset_that_is_named_not_the_command(run):
    assert parsed("create_refcoco", ["--dataset", "cocostuff"]).grid == (32, 32)
    assert parsed("create_refcoco", ["--spec", "dcube|abs", "refcoco|val"]).rounds == 1
    assert parsed("create_refcoco", ["--dataset", "cocostuff", "--grid", "8"]).grid == (8, 8)


def test_roots_and_outputs_have_their_usual_places(run):
    import create

    data = REPOSITORY / "playground/data"
    for command, root, output in (
        ("create_refcoco", "refer_seg", "json_files/refcoco_train_16x16_r2_c2.json"),
        ("create_coco_panoptic", "", "json_files/coco_panoptic_train_32x32_r1_c1.json"),
        ("create_llava", "", "json_files/llava_llava_v1_5_mix665k_16x16_r2_c1.json"),
    ):
        options = create.options_of(parsed(command), "")
        assert (options.root, options.image_folder) == (data / root, data / root)
        assert options.output == data / output
    store = create.options_of(parsed("create_refcoco", ["--format", "store", "--dataset", "refcoco+"]), "")
    assert store.output == data / "stores/refcoco+_train"


# images that no training may see


@pytest.mark.parametrize(
    ("command", "image_id"),
    [("create_cocostuff", 9), ("create_coco_panoptic", 7), ("create_pix2cap", 7), ("create_muse", 9)],
)
@pytest.mark.parametrize("folder", ["", "refer_seg"])
def test_training_sets_over_coco_go_without_test_images_of_refcoco(
    run, tmp_path, caplog, command, image_id, folder
):
    FOLDERS[command](tmp_path)
    held_out_refs(tmp_path / folder, image_id)
    arguments = ("--root", tmp_path, "--output", tmp_path / "out.json", "--grid", "8", "--copies", "1")
    code, _, errors = run(command, *arguments)
    assert (code, (tmp_path / "out.json").exists()) == (1, False)
    assert "no record to write" in errors and "kept out       1 images" in errors
    assert "no refs file of refcoco+, refcocog, grefcoco, refzom" in caplog.text
    code, printed, _ = run(command, *arguments, "--keep-test-images")
    assert code == 0 and len(read_records(tmp_path / "out.json")) == 1
    assert "val and test images of the RefCOCO family too (--keep-test-images)" in printed


def test_what_is_left_out_is_counted_and_stands_in_the_store(run, tmp_path):
    refer(tmp_path)
    held_out_refs(tmp_path, 2, dataset="refcoco+")
    arguments = ("--root", tmp_path, "--format", "store", "--output", tmp_path / "store")
    _, printed, _ = run("create_refcoco", *arguments)
    assert "kept out       1 images with 1 targets, which are val or test images" in printed
    assert "refcoco+|unc|val 1" in printed and "NOT known" in printed
    held_out = open_store(tmp_path / "store").about["held_out"]
    assert (held_out["left_out_images"], held_out["splits"]) == (1, {"refcoco+|unc|val": 1})
    assert open_store(tmp_path / "store").image_count == 1


def test_conversations_on_test_images_are_left_out_too(run, tmp_path):
    llava(tmp_path)
    held_out_refs(tmp_path, 9)
    output = tmp_path / "out.json"
    _, printed, _ = run("create_llava", "--root", tmp_path, "--output", output)
    assert "kept out       1 images with 1 targets" in printed
    assert ["image" in record for record in read_records(output)] == [False]


def test_splits_that_are_not_for_training_keep_their_images(run, tmp_path):
    refs = [ref(1, 5, ["dog"], split="train"), ref(2, 5, ["left dog"], split="val")]
    refer(tmp_path, refs=refs, annotations=[annotation(5, [SQUARE])])
    output = tmp_path / "out.json"
    usual = ("--root", tmp_path, "--copies", "1", "--output", output)
    _, printed, _ = run("create_refcoco", *usual, "--split", "val")
    assert "kept out" not in printed
    run("create_refcoco", *usual, "--spec", "refcoco|train", "refcoco|unc|val")
    assert [record["id"] for record in read_records(output)] == ["refcoco|unc|val|2|0"]


def test_sets_without_coco_images_do_not_look_for_test_images(run, tmp_path):
    label_map("ade20k")(tmp_path)
    code, printed, errors = run("create_ade20k", "--root", tmp_path, "--output", tmp_path / "out.json")
    assert (code, errors) == (0, "")
    assert "RefCOCO" not in printed


# settings


def test_crop_flip_wording_and_codec_reach_the_records(run, tmp_path):
    label_map("ade20k")(tmp_path)
    own = yaml.safe_load((REPOSITORY / "llava/data/wording.yaml").read_text())
    for name in ("answer_all", "answer_partial", "answer_condition"):
        own[name] = [f"{entry} Voilà." for entry in own[name]]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    arguments = ("--wording", tmp_path / "own.yaml", "--flip", "1", "--codec", "irle")
    output = tmp_path / "out.json"
    assert run("create_ade20k", "--root", tmp_path, "--output", output, *arguments)[0] == 0
    records = read_records(output)
    assert len(records) == 5
    assert all(record["flip"] and len(record["crop_size"]) == 4 for record in records)
    answers = [turn["value"] for record in records for turn in record["conversations"][1::2]]
    assert all("Voilà.\n<seg>" in answer for answer in answers)
    assert not [fault for each in answers for fault in read_answer(each, (32, 32), codec="irle").faults]


def test_a_store_says_which_arguments_it_does_not_keep(run, tmp_path):
    refer(tmp_path)
    usual = ("--root", tmp_path, "--format", "store", "--output", tmp_path / "store")
    _, printed, _ = run("create_refcoco", *usual, "--grid", "24", "--seed", "3", "--flip", "0.5")
    assert "no effect      --grid: comes from the checkpoint" in printed
    assert "no effect      --seed: belongs into the mixture file" in printed
    assert "--codec" not in printed
    assert f"- {{store: {tmp_path / 'store'}, repeat: 2, draw: {{flip: 0.5}}}}" in printed


@pytest.mark.parametrize(
    ("command", "arguments", "flags"),
    [
        ("create_refcoco", ["--crop", "0.5", "--brick-order", "snake", "--max-blocks", "3"],
         {"crop", "brick-order", "max-blocks"}),
        ("create_refcoco", ["--codec", "bricks", "--cell-policy", "keep_small"], {"cell-policy"}),
        ("create_refcoco", ["--format", "store", "--crop", "0.5", "--max-blocks", "3"], {"crop"}),
        ("create_refcoco", ["--spec", "refcoco|train", "--split", "val"], {"split"}),
        ("create_ade20k", ["--crop", "0.5", "--flip", "0.5", "--vanished", "keep"], set()),
        ("create_llava", ["--grid", "8", "--rounds", "3"], {"grid", "rounds"}),
    ],
)  # fmt: skip
def test_arguments_that_change_nothing_are_told(run, tmp_path, command, arguments, flags):
    FOLDERS[command](tmp_path)
    code, printed, errors = run(command, "--root", tmp_path, "--output", tmp_path / "out", *arguments)
    assert code == 0, errors
    told = [line.split("--")[1].split(":")[0] for line in printed.splitlines() if line.startswith("no eff")]
    assert sorted(told) == sorted(flags)


def test_a_store_of_two_families_is_refused_before_anything_is_read(run, tmp_path):
    specs = ("--spec", "ade20k|train", "dcube|full")
    code, _, errors = run("create_ade20k", "--root", tmp_path, "--format", "store", *specs)
    assert code == 1
    assert "a store holds one family of datasets (ade20k is semantic, dcube is referring)" in errors


def test_a_linked_folder_keeps_its_place_under_the_data_folder(run, tmp_path, monkeypatch):
    import create

    from llava.data import build

    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/refer_seg").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(build, "DATA", tmp_path / "data")
    words = ["--format", "store", "--root", str(tmp_path / "data/refer_seg")]
    options = create.options_of(parsed("create_grefercoco", words), "")
    assert build._mixture_entry(options).endswith("images: refer_seg}")


def test_a_store_under_the_data_folder_says_where_its_image_paths_start(run):
    import create

    from llava.data.build import _mixture_entry

    options = create.options_of(parsed("create_grefercoco", ["--format", "store"]), "")
    assert _mixture_entry(options).endswith("stores/grefcoco_train, images: refer_seg}")


# wrong input


WRONG = {
    "missing image": ({}, "1.jpg is missing or empty"),
    "image of another size": ({"size": (31, 20)}, "has (20, 31)"),
    "odd polygon": ({"polygon": SQUARE[:-1]}, "has 7 numbers"),
    "polygon outside the image": ({"polygon": [500, 500, 510, 500, 510, 510]}, "500"),
    "id that stands twice": ({"twice": True}, "stands twice"),
    "damaged segmentation": ({"polygon": "PYk0"}, "segmentation"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_records_stop_with_file_and_record_or_are_left_out_and_counted(run, tmp_path, kind):
    change, message = WRONG[kind]
    first = ref(1, 5, ["left dog"], split="train")
    refs = [*[first] * (1 + change.get("twice", False)), ref(3, 7, ["cat"], split="train", image_id=2)]
    wrong = annotation(5, [change.get("polygon", SQUARE)])
    refer(tmp_path, refs=refs, annotations=[wrong, annotation(7, [SQUARE], image_id=2)])
    picture = tmp_path / "images/mscoco/images/train2014/COCO_train2014_000000000001.jpg"
    if kind == "missing image":
        picture.unlink()
    if "size" in change:
        Image.new("RGB", change["size"]).save(picture)
    usual = ("--root", tmp_path, "--copies", "1", "--output", tmp_path / "out.json")
    code, _, errors = run("create_refcoco", *usual)
    assert code == 1 and not (tmp_path / "out.json").exists()
    assert "refs(unc).p" in errors and "ref 1" in errors
    assert message in errors and "--on-error skip" in errors
    code, printed, _ = run("create_refcoco", *usual, "--on-error", "skip")
    assert code == 0
    assert f"left out       1 x {kind}" in printed
    kept = ["refcoco|unc|train|1|0"] if "twice" in change else []
    assert [each["id"] for each in read_records(tmp_path / "out.json")] == [*kept, "refcoco|unc|train|3|0"]


def test_a_text_of_another_encoding_is_read_and_told(run, tmp_path):
    FOLDERS["create_reasonseg"](tmp_path)
    path = tmp_path / "reason_seg/ReasonSeg/train/a.json"
    content = json.loads(path.read_text()) | {"text": ["Where is the café’s door?"]}
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("cp1252"))
    _, printed, _ = run("create_reasonseg", "--root", tmp_path, "--output", tmp_path / "out.json")
    assert "noted          1 x text in cp1252 read as such" in printed
    assert "Where is the café’s door?" in read_records(tmp_path / "out.json")[0]["conversations"][0]["value"]


def test_a_build_of_wrong_records_alone_says_what_was_wrong_with_them(run, tmp_path):
    llava(tmp_path)
    (tmp_path / "coco/train2017/000000000009.jpg").unlink()
    content = json.loads((tmp_path / "llava_v1_5_mix665k.json").read_text())
    (tmp_path / "llava_v1_5_mix665k.json").write_text(json.dumps(content[:1]))
    usual = ("--root", tmp_path, "--on-error", "skip", "--output")
    for form, output, message in (
        ("json", "out.json", "no record to write"),
        ("store", "store", "no image with a target"),
    ):
        code, _, errors = run("create_llava", *usual, tmp_path / output, "--format", form)
        assert code == 1 and not (tmp_path / output).exists()
        assert "left out       1 x missing image" in errors
        assert message in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("create_muse", [], "muse/MUSE_train.json not found"),
        ("create_cocostuff", ["--split", "trian"], "unknown split 'trian' for cocostuff; known: train, val"),
        ("create_cocostuff", ["--spec", "cocostuff"], "give dataset|split"),
        ("create_llava", ["--split", "none.json"], "none.json not found"),
        ("create_ade20k", ["--crop", "2"], "crop 2.0: from 0 to 1"),
        ("create_ade20k", ["--wording", "none.yaml"], "none.yaml not found"),
        ("create_voc20", ["--dataset", "voc"], "unknown dataset 'voc'; known: refcoco, "),
    ],
)
def test_wrong_arguments_end_in_one_sentence(run, tmp_path, command, arguments, message):
    output = tmp_path / "out.json"
    code, _, errors = run(command, "--root", tmp_path, "--output", output, *arguments)
    assert code == 1 and not output.exists()
    assert errors.splitlines()[-1].startswith("error: ") and message in errors


# real data


def panoptic_root(base, root):
    """COCO's layout over the real images and panoptic maps; nothing is copied."""
    (root / "coco/annotations").mkdir(parents=True)
    (root / "coco/annotations/panoptic_train2017.json").symlink_to(base / "panoptic.json")
    (root / "coco/annotations/panoptic_train2017").symlink_to(base / "panoptic")
    (root / "coco/train2017").symlink_to(base / "images")
    return root


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.parametrize("form", ["json", "store"])
def test_real_panoptic_images_become_records_and_a_store(run, tmp_path, form):
    real = Path(os.environ["TEXT4SEG_REAL_DATA"])
    root = panoptic_root(real / "coco128_mini", tmp_path)
    (root / "refer_seg").symlink_to(real / "refcoco_mini")
    output = tmp_path / "out"
    code, printed, errors = run(
        "create_coco_panoptic", "--root", root, "--format", form, "--rounds", "2", "--output", output
    )
    assert code == 0, errors
    assert "kept out       0 images with 0 targets" in printed
    if form == "store":
        assert (len(open_store(output)), open_store(output).image_count) == (29, 29)
        return
    records = read_records(output)
    assert len(records) == 29 and any("crop_size" in record for record in records)
    answers = [turn["value"] for record in records for turn in record["conversations"][1::2]]
    assert all(not read_answer(each, (32, 32)).faults for each in answers)
    assert all(read_answer(each, (32, 32)).outcome == "mask" for each in answers)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_a_real_store_of_the_refcoco_series_holds_every_ref(run, tmp_path):
    real = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    specs = [f"{name}|{split}" for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")]
    specs += ["refcocog|val", "refcocog|test", "refcocog|google|val"]
    arguments = ("--root", real, "--format", "store", "--output", tmp_path / "store", "--spec", *specs)
    code, printed, errors = run("create_refcoco", *arguments)
    assert code == 0, errors
    assert "stored         105 records to draw" in printed
    assert open_store(tmp_path / "store").about["left_out"] == {}
