"""Pictures of records: what is painted is what the record's own text says, on what the model is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import label_map
from PIL import Image
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.codec import read_answer
from llava.data.records import read_records, write_records

REPOSITORY = Path(__file__).resolve().parents[1]
PANEL, MARGIN = 420, 8


@pytest.fixture
def commands(monkeypatch):
    """(create, show): a builder by dataset and arguments, and show_json."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "playground" / "data" / "create_json"))
    import create
    import show_json

    def build(arguments, dataset="refcoco"):
        assert create.main(dataset, [str(argument) for argument in arguments]) == 0

    return build, lambda arguments: show_json.main([str(argument) for argument in arguments])


@pytest.fixture
def root(tmp_path):
    """Two images, a dog in the first and a cat in the second."""
    refs = [ref(1, 5, ["left dog"], split="train"), ref(3, 7, ["cat"], split="train", image_id=2)]
    annotations = [annotation(5, [SQUARE]), annotation(7, [SQUARE], image_id=2)]
    return write_dataset(tmp_path / "refer_seg", refs, annotations)


def test_show_json_draws_the_mask_that_the_text_describes(commands, root, tmp_path, capsys):
    create, show = commands
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
    create, show = commands
    output = tmp_path / "out.json"
    create(["--root", str(root), "--grid", "4", "--copies", "1", "--output", str(output)])
    records = read_records(output)
    records[0]["conversations"][1]["value"] = "Sure:\n<seg>others *4\n dog *3\n others *4\n others *4\n</seg>"
    output.write_text(json.dumps(records[:1]))
    assert show([str(output), "--image-folder", str(root), "--output", str(tmp_path / "shown")]) == 0
    assert "fault: " in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "count"])
def test_show_json_names_an_image_that_it_cannot_read(commands, root, tmp_path, capsys, damage):
    create, show = commands
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
    expected = {
        "missing": "not found - is --image-folder",
        "count": "count 0: at least 1",
        "text": "is not an image that Pillow can read",
        "cut": "is damaged or cut off",
    }
    assert expected[damage] in capsys.readouterr().err


def panel(path, number):
    """Pixels of the n-th picture of a sheet, int (height, 420, 3), its height told by the record's grid."""
    left = MARGIN + number * (PANEL + MARGIN)
    return np.asarray(Image.open(path)).astype(int)[MARGIN:, left : left + PANEL]


def coloured(path, image, *, crop=None, flip=False):
    """A record of a 2x4 grid with two labels and the image (20, 40) that it shows."""
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(image)
    answer = "Here:\n<seg>dog *1| others *1| cat *2\n others *2| cat *2\n</seg>"
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
    record = {"id": "a", "image": image.name, "height": 2, "width": 4, "conversations": turns}
    record |= {"crop_size": crop} if crop else {}
    record |= {"flip": True} if flip else {}
    write_records(path, [record])
    return path


def test_every_label_has_its_colour_and_a_line(commands, tmp_path):
    _, show = commands
    path = coloured(tmp_path / "r.jsonl", tmp_path / "a.png")
    assert show([path, "--image-folder", tmp_path, "--output", tmp_path / "shown"]) == 0
    sheet = panel(tmp_path / "shown/record_000000.png", 1)
    middles = [sheet[y, x] for y, x in ((50, 50), (50, 155), (50, 260), (150, 50), (150, 370))]
    dog, between, cat, below, low_cat = middles
    assert dog[0] > dog[1] + 50 and dog[0] > dog[2] + 50
    assert between.tolist() == below.tolist() == [127, 127, 127]
    assert np.array_equal(cat, low_cat) and cat[2] > cat[0] + 50
    marks = sheet[210:, :12].reshape(-1, 3)
    import show_json

    assert {tuple(colour) for colour in marks.tolist()} >= {show_json.label_colour(n) for n in (0, 1)}


@pytest.mark.parametrize(
    ("crop", "flip", "left_side", "right_side"),
    [
        (None, False, 255, 0),
        (None, True, 0, 255),
        ([20, 0, 40, 10], False, 0, 0),
        ([10, 0, 30, 20], True, 0, 255),
    ],
)
def test_the_picture_is_cropped_and_mirrored_as_training_does_it(
    commands, tmp_path, crop, flip, left_side, right_side
):
    _, show = commands
    path = coloured(tmp_path / "r.json", tmp_path / "a.png", crop=crop, flip=flip)
    assert show([path, "--image-folder", tmp_path, "--output", tmp_path / "shown"]) == 0
    shown = panel(tmp_path / "shown/record_000000.png", 0)
    assert [shown[100, x, 0] for x in (20, 400)] == [left_side, right_side]


@pytest.mark.parametrize("source", ["store", "mixture"])
def test_records_of_a_store_are_drawn_as_training_draws_them(commands, tmp_path, capsys, source):
    create, show = commands
    label_map("ade20k")(tmp_path)
    store = tmp_path / "store"
    create(["--root", tmp_path, "--format", "store", "--output", store], dataset="ade20k")
    if source == "mixture":
        store = tmp_path / "mix.yaml"
        store.write_text(json.dumps({"datasets": [{"store": str(tmp_path / "store")}]}))
    arguments = [store, "--image-folder", tmp_path, "--grid", "4x6", "--flip", "1", "--crop", "1"]
    for epoch in ("0", "0", "1"):
        assert show([*arguments, "--epoch", epoch, "--output", tmp_path / "shown"]) == 0
        (tmp_path / "shown/record_000000.png").rename(tmp_path / f"{len(list(tmp_path.glob('*.png')))}.png")
    assert "fault" not in capsys.readouterr().out
    first, again, other = ((tmp_path / f"{number}.png").read_bytes() for number in range(3))
    assert first == again != other


def test_a_source_that_is_not_there_says_how_to_make_one(commands, tmp_path, capsys):
    _, show = commands
    assert show([tmp_path / "none.json", "--image-folder", tmp_path]) == 1
    assert (
        "none.json not found - make it with playground/data/create_json/create_*.py"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(("flag", "least"), [("count", 1), ("seed", 0), ("epoch", 0)])
def test_a_number_below_the_least_is_refused(commands, tmp_path, capsys, flag, least):
    _, show = commands
    assert show([tmp_path / "r.json", "--image-folder", tmp_path, f"--{flag}", least - 1]) == 1
    assert capsys.readouterr().err == f"error: {flag} {least - 1}: at least {least}\n"


def test_text_alone_is_told_and_not_drawn(commands, tmp_path, capsys):
    _, show = commands
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    write_records(tmp_path / "r.json", [{"id": 1, "conversations": turns}])
    assert show([tmp_path / "r.json", "--image-folder", tmp_path, "--output", tmp_path / "shown"]) == 0
    assert capsys.readouterr().out == "record 0 has no image\n"
