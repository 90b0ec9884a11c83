import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
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
def commands(monkeypatch):
    monkeypatch.syspath_prepend(str(CREATE_JSON))
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import check_data
    import create_refcoco
    import show_json

    return create_refcoco.main, show_json.main, check_data.main


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


def test_the_command_writes_records_and_prints_what_it_left_out(commands, root, tmp_path, capsys):
    create, _, _ = commands
    output = tmp_path / "out.json"
    assert create(["--root", str(root), "--grid", "4", "--copies", "3", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "expressions    4 of 3 targets in 2 images; no target: 0" in printed
    assert "vanished       1 cover no cell of the 4x4 grid (cell policy centre); left out" in printed
    assert "records        6 conversations, 12 questions, 2 images" in printed
    records = read_records(output)
    assert len(records) == 6
    assert (root / records[0]["image"]).is_file()


def test_the_same_command_twice_writes_the_same_bytes(commands, root, tmp_path):
    create, _, _ = commands
    outputs = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for output, seed in zip(outputs, ("1", "1", "2"), strict=True):
        assert create(["--root", str(root), "--seed", seed, "--output", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes() != outputs[2].read_bytes()


def test_unequal_grids_policies_and_folders_reach_the_records(commands, root, tmp_path):
    create, _, _ = commands
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


def test_several_specs_go_into_one_file_and_excluded_images_stay_out(commands, root, tmp_path, capsys):
    create, _, _ = commands
    output = tmp_path / "out.json"
    usual = ["--root", str(root), "--copies", "1", "--output", str(output)]
    assert create([*usual, "--spec", "refcoco|train", "refcoco|unc|val", "--cell-policy", "keep_small"]) == 0
    assert len(read_records(output)) == 4
    assert create([*usual, "--exclude", "refcoco|unc|val"]) == 0
    assert "excluded       1 expressions on images of refcoco|unc|val" in capsys.readouterr().out
    assert all("000000000002" not in entry["image"] for entry in read_records(output))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "testC"], "unknown split 'testC' for refcoco|unc; known: train, val, testA, testB"),
        (["--dataset", "refcocoo"], "unknown dataset 'refcocoo'; known: refcoco, refcoco+"),
        (["--exclude", "refcoco|x"], "unknown split 'x'"),
        (["--dataset", "refcocog"], "refs(umd).p not found"),
        (["--rounds", "0"], "rounds 0: at least 1"),
        (["--image-folder", "elsewhere"], "does not lie under the image folder elsewhere"),
    ],
)
def test_wrong_input_ends_in_one_sentence_and_writes_nothing(
    commands, root, tmp_path, capsys, arguments, message
):
    create, _, _ = commands
    output = tmp_path / "out.json"
    assert create(["--root", str(root), "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not output.exists()


@pytest.mark.parametrize("grid", ["0", "4x", "axb", "4x4x4", "-3"])
def test_a_wrong_grid_says_how_to_write_one(commands, capsys, grid):
    create, _, _ = commands
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
    assert "1 refs without sentences" in done.stderr
    records = read_records(output)
    assert len(records) == 2
    assert (records[0]["height"], records[0]["width"]) == (24, 24)
    both = read_answer(records[0]["conversations"][1]["value"], (24, 24))
    absent = read_answer(records[1]["conversations"][1]["value"], (24, 24))
    assert (both.outcome, absent.outcome) == ("mask", "empty")


def environment():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def test_show_json_draws_the_mask_that_the_text_describes(commands, root, tmp_path, capsys):
    create, show, _ = commands
    output = tmp_path / "out.json"
    create(["--root", str(root), "--grid", "4x6", "--copies", "1", "--rounds", "1", "--output", str(output)])
    shown = tmp_path / "shown"
    assert show([str(output), "--image-folder", str(root), "--count", "5", "--output", str(shown)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in shown.iterdir()) == ["record_000000.png", "record_000001.png"]
    assert "fault" not in printed
    sheet = np.asarray(Image.open(shown / "record_000000.png")).astype(int)
    height, left = 280, 8 + 420 + 8
    panel = sheet[8 : 8 + height, left : left + 420]
    reddish = panel[..., 0] > panel[..., 1] + 20
    target = np.kron(read_answer_cells(output), np.ones((70, 70), dtype=bool))
    away_from_borders = np.kron(np.ones((4, 6), dtype=bool), np.pad(np.ones((60, 60), dtype=bool), 5))
    assert np.array_equal(reddish[away_from_borders], target[away_from_borders])


def read_answer_cells(path):
    return read_answer(read_records(path)[0]["conversations"][1]["value"], (4, 6)).foreground


def test_show_json_tells_the_faults_of_an_answer(commands, root, tmp_path, capsys):
    create, show, _ = commands
    output = tmp_path / "out.json"
    create(["--root", str(root), "--grid", "4", "--copies", "1", "--output", str(output)])
    records = read_records(output)
    records[0]["conversations"][1]["value"] = "Sure:\n<seg>others *4\n dog *3\n others *4\n others *4\n</seg>"
    output.write_text(json.dumps(records[:1]))
    assert show([str(output), "--image-folder", str(root), "--output", str(tmp_path / "shown")]) == 0
    assert "fault: " in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "count"])
def test_show_json_names_an_image_that_it_cannot_read(commands, root, tmp_path, capsys, damage):
    create, show, _ = commands
    output = tmp_path / "out.json"
    create(["--root", str(root), "--copies", "1", "--output", str(output)])
    image = root / read_records(output)[0]["image"]
    content = image.read_bytes()
    if damage == "missing":
        image.unlink()
    elif damage != "count":
        image.write_bytes(b"no image" if damage == "text" else content[: len(content) - 200])
    count = "0" if damage == "count" else "9"
    arguments = [
        str(output),
        "--image-folder",
        str(root),
        "--count",
        count,
        "--output",
        str(tmp_path / "shown"),
    ]
    assert show(arguments) == 1
    expected = {"missing": "not found - is --image-folder", "count": "count 0: at least 1"}
    assert expected.get(damage, "is not a readable image") in capsys.readouterr().err


def test_check_data_tells_what_is_there_and_what_is_missing(commands, root, capsys):
    _, _, check = commands
    assert check(["--root", str(root), "--dataset", "refcoco"]) == 0
    assert "refcoco: found" in capsys.readouterr().out
    assert check(["--root", str(root), "--dataset", "refclef"]) == 1
    printed = capsys.readouterr().out
    assert "refclef: incomplete" in printed
    assert "refclef/refs(unc).p not found" in printed
    assert "https://github.com/lichengunc/refer" in printed
    assert "images/saiapr_tc-12 under" in printed
    assert check(["--root", str(root)]) == 0


def test_check_data_reads_every_split_when_asked(commands, root, capsys):
    _, _, check = commands
    assert check(["--root", str(root), "--dataset", "refcoco", "--read"]) == 1
    printed = capsys.readouterr().out
    assert "refcoco|unc|train: 3 refs, 4 expressions, 2 images" in printed
    assert "has no refs of split 'testA'; it holds train 3, val 1" in printed
    next((root / "images").rglob("*1.jpg")).unlink()
    check(["--root", str(root), "--dataset", "refcoco", "--read"])
    assert "1 of 2 images are missing or empty" in capsys.readouterr().out


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
def test_records_of_real_refcoco_describe_the_real_masks(
    commands, tmp_path, capsys, dataset, refs, sentences
):
    create, _, _ = commands
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
