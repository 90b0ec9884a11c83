"""Commands and mixtures with records in bricks: what is built, shown, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.codec.boxwise import read_boxes
from llava.data.build import default_output
from llava.data.draw import DrawSettings
from llava.data.mixture import MixtureDataset
from llava.data.mixture_file import open_mixture
from llava.data.record_form import Form, form_for, form_of
from llava.data.records import read_records, write_records
from llava.settings import SegmentationSettings
from llava.train.data import open_draws
from llava.train.dataset import check_answers, load_records

REPOSITORY = Path(__file__).resolve().parents[1]
FORM = {"height": 8, "width": 8, "codec": "bricks", "brick_order": "snake", "brick_tail": True}
SNAKE = {"grid_hw": (8, 8), "codec": "bricks", "brick_order": "snake", "brick_tail": True}
"""Settings of this form."""
SHIFTED = [value + 8 for value in SQUARE]


@pytest.fixture
def commands(monkeypatch):
    """(create, show): the builder of gRefCOCO and show_json by their arguments."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "playground" / "data" / "create_json"))
    import create
    import show_json

    def run(main):
        return lambda *arguments: main([str(argument) for argument in arguments])

    return run(lambda words: create.main("grefcoco", ["--keep-test-images", *words])), run(show_json.main)


@pytest.fixture
def root(tmp_path):
    """An image with two dogs, and one without."""
    refs = [
        ref(1, [5, 6], ["both dogs"], split="train", no_target=False),
        ref(2, [-1], ["a dog"], split="train", image_id=2, no_target=True),
    ]
    annotations = [annotation(5, [SQUARE]), annotation(6, [SHIFTED])]
    folder = tmp_path / "refer_seg"
    return write_dataset(folder, refs, annotations, dataset="grefcoco", refs_name="grefs(unc).json")


def record(number=0, **form):
    text = "<ref>dog</ref><box>(0,0),(500,999)</box><seg><f63><f1></seg>"
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": f"Here:\n{text}"}]
    return {"id": f"r{number}", "image": "a.png", **form, "conversations": turns}


def test_records_in_bricks_are_built_on_64_cells_with_a_box_for_each_object(commands, root, tmp_path):
    create, _ = commands
    output = tmp_path / "out.json"
    asked = ("--root", root, "--codec", "bricks", "--rounds", "1", "--output", output)
    assert create(*asked) == 0
    both, none = read_records(output)
    assert form_of(both) == form_of(none) == Form((64, 64), "raster", True)
    found = read_boxes(both["conversations"][1]["value"], (64, 64))
    squares = np.zeros((20, 30), dtype=bool)
    squares[2:10, 2:10] = squares[10:18, 10:18] = True
    assert len(found.blocks) == 2 and not found.faults
    assert np.array_equal(found.mask((20, 30)), squares)
    assert none["conversations"][1]["value"].endswith("\n<ref>a dog</ref><box></box><seg></seg>")


def test_order_tail_and_grid_of_the_command_are_those_of_the_records(commands, root, tmp_path):
    create, _ = commands
    output = tmp_path / "out.jsonl"
    order = ("--brick-order", "columns", "--no-brick-tail", "--grid", "8x12", "--max-blocks", "1")
    assert create("--root", root, "--codec", "bricks", *order, "--output", output) == 0
    both = read_records(output)[0]
    assert form_of(both) == Form((8, 12), "columns", False)
    found = read_boxes(both["conversations"][1]["value"], (8, 12), order="columns", tail=False)
    assert len(found.blocks) == 1 and not found.faults


def test_the_usual_file_name_tells_codec_order_and_tail():
    for changes, ending in (
        ({"codec": "rrle"}, "16x16_r2_c1.json"),
        ({"codec": "bricks"}, "16x16_r2_c1_bricks.json"),
        ({"codec": "bricks", "brick_order": "snake", "brick_tail": False}, "_c1_bricks_snake_no_tail.json"),
    ):
        path = default_output(["refcoco|train"], "json", DrawSettings((16, 16), **changes), 1)
        assert path.name.endswith(ending)


def test_a_store_says_that_bricks_come_from_the_checkpoint(commands, root, tmp_path, capsys):
    create, _ = commands
    words = ("--root", root, "--format", "store", "--output", tmp_path / "store", "--codec", "bricks")
    assert create(*words, "--brick-order", "snake", "--max-blocks", "9") == 0
    printed = capsys.readouterr().out
    assert "no effect      --brick-order: comes from the checkpoint" in printed
    assert "draw: {max_blocks: 9}" in printed


def test_show_json_draws_the_boxes_of_a_file_and_of_a_store(commands, root, tmp_path, capsys):
    create, show = commands
    create("--root", root, "--codec", "bricks", "--rounds", "1", "--output", tmp_path / "out.json")
    create("--root", root, "--format", "store", "--output", tmp_path / "store")
    seen = ("--image-folder", root, "--rounds", "1", "--output", tmp_path / "shown")
    pictures = []
    for source in (tmp_path / "out.json", tmp_path / "store"):
        assert show(source, *seen, "--codec", "bricks") == 0
        pictures.append(np.asarray(Image.open(tmp_path / "shown" / "record_000000.png")).astype(int))
    assert "fault" not in capsys.readouterr().out
    panel = pictures[0][8:288, 436:856]
    assert np.array_equal(panel, pictures[1][8:288, 436:856])
    reddish = panel[..., 0] > panel[..., 1] + 20
    expected = np.zeros((20, 30), dtype=bool)
    expected[2:10, 2:10] = expected[10:18, 10:18] = True
    agree = reddish == np.kron(expected, np.ones((14, 14), dtype=bool))
    assert agree.mean() > 0.98


def test_show_json_tells_the_faults_of_bricks(commands, tmp_path, capsys):
    _, show = commands
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    write_records(tmp_path / "r.json", [record(**FORM | {"height": 4, "width": 4})])
    assert show(tmp_path / "r.json", "--image-folder", tmp_path, "--output", tmp_path / "shown") == 0
    assert "  fault: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"codec": "rrle"},
            r"have a 8x8 grid in bricks \(snake, with tail\), first 'r0'; .* 8x8 grid: .*--grid",
        ),
        ({"brick_order": "raster"}, "--brick-order raster --brick-tail, or build a store"),
        ({"brick_tail": False}, "--brick-order snake --no-brick-tail"),
        ({"grid_hw": (9, 8)}, "--codec bricks --grid 9x8"),
    ],
)
def test_records_of_another_form_are_refused(tmp_path, changes, told):
    write_records(tmp_path / "r.json", [record(**FORM)])
    mixture = open_mixture([tmp_path / "r.json"])
    assert MixtureDataset(mixture, DrawSettings(**SNAKE), 0).record(0, 0)["id"] == "r0"
    with pytest.raises(ValueError, match=told):
        MixtureDataset(mixture, DrawSettings(**SNAKE | changes), 0)


def test_image_wise_records_are_refused_where_boxes_are_asked_for(tmp_path):
    write_records(tmp_path / "r.json", [record(height=8, width=8)])
    with pytest.raises(ValueError, match=r"1 of 1 records have a 8x8 grid, first .* in bricks"):
        MixtureDataset(open_mixture([tmp_path / "r.json"]), DrawSettings((8, 8), codec="bricks"), 0)


@pytest.mark.parametrize(
    "wrong",
    [{"codec": "rrle"}, {"brick_order": "zigzag"}, {"brick_tail": 1}, {"height": None, "width": None}],
)
def test_a_record_names_all_of_its_form_or_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"the codec must be 'bricks', the order one of raster, .*leave all"):
        write_records(tmp_path / "r.json", [record(**FORM | wrong)])


@pytest.mark.parametrize("key", ["codec", "brick_order", "brick_tail"])
def test_a_mixture_file_leaves_the_form_to_the_checkpoint(tmp_path, commands, root, key):
    create, _ = commands
    create("--root", root, "--format", "store", "--output", tmp_path / "store")
    entry = {"store": str(tmp_path / "store"), "draw": {key: FORM[key]}}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    with pytest.raises(ValueError, match=f"draw: {key} belongs to the checkpoint and is the same for all"):
        open_mixture([tmp_path / "mix.yaml"])


def test_draws_and_checkpoints_of_one_form_agree():
    assert form_for(DrawSettings(**SNAKE)) == form_for(SegmentationSettings(**SNAKE)) == form_of(FORM)
    assert form_for(DrawSettings((8, 8), brick_order="snake", brick_tail=True)) == Form((8, 8))
    assert json.loads(json.dumps(Form((8, 8), "snake", True).fields())) == FORM


def test_training_draws_from_a_store_in_the_form_of_the_checkpoint(commands, root, tmp_path):
    create, _ = commands
    create("--root", root, "--format", "store", "--output", tmp_path / "store")
    settings = SegmentationSettings(**SNAKE)
    draws = open_draws([str(tmp_path / "store")], image_folder=root, settings=settings, seed=0)
    drawn = draws.record(0, 0)
    assert form_of(drawn) == Form((8, 8), "snake", True)
    check_answers("store", [drawn], settings)
    assert draws.record(1, 0) != drawn == draws.record(0, 0)


def test_training_refuses_a_file_of_another_form(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    write_records(tmp_path / "r.json", [record(**FORM)])
    paths = [str(tmp_path / "r.json")]
    settings = SegmentationSettings(**SNAKE)
    assert load_records(paths, image_folder=tmp_path, settings=settings)[0]["id"] == "r0"
    for changes in ({"brick_order": "columns"}, {"codec": "rrle"}):
        other = SegmentationSettings(**SNAKE | changes)
        with pytest.raises(ValueError, match=r"8x8 grid in bricks .*train the checkpoint for the form"):
            load_records(paths, image_folder=tmp_path, settings=other)
