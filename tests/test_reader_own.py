"""One's own data: what a row of the table means, and everything that can be wrong with one."""

import csv
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.data.annotated import collect
from llava.data.draw import DrawSettings, draw_record, generator
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.rle import decode_rle

EXAMPLE = Path(__file__).resolve().parents[1] / "playground" / "data" / "own_example"
SIZE_WH = (40, 30)
COLUMNS = ["image", "sentence", "mask", "value", "split", "question", "answer"]
LEFT, RIGHT = (slice(5, 20), slice(2, 15)), (slice(5, 20), slice(22, 36))


def row(image, sentence, mask, **more):
    return {"image": image, "sentence": sentence, "mask": mask, **more}


ROWS = [
    row("a.jpg", "the red cup, on the left", "left.png"),
    row("a.jpg", "a cup", "left.png", split="train"),
    row("a.jpg", "both cups", "all.png", value="1 7"),
    row("a.jpg", "a fork", "none"),
    row("deep/b.png", "the right one", "all.png", value="7"),
    row("c.jpg", "the left one", "left.png", split="val"),
]


def save(path, pixels, mode=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **more)


def pixels_of(*marked):
    """Mask uint8 (30, 40) with (value, place) painted."""
    mask = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    for value, place in marked:
        mask[place] = value
    return mask


def write(root, rows, table="sentences.csv"):
    """Folder with the table, three images and the masks left, all and soft."""
    for name in ("a.jpg", "deep/b.png", "c.jpg"):
        save(root / "images" / name, np.full((*SIZE_WH[::-1], 3), 99, dtype=np.uint8))
    save(root / "masks/left.png", pixels_of((255, LEFT)))
    save(root / "masks/all.png", pixels_of((1, LEFT), (7, RIGHT)), "P")
    if table.endswith(".csv"):
        with (root / table).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    elif table.endswith(".jsonl"):
        (root / table).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        (root / table).write_text(json.dumps(rows), encoding="utf-8")
    return root


def read(root, split="train", problems=None):
    return list(read_dataset(root, f"own|{split}", problems or Problems()))


def pixels(sample):
    return decode_rle(sample.mask)


def test_rows_become_samples_with_the_pixels_that_they_name(tmp_path):
    samples = read(write(tmp_path, ROWS))
    assert [(sample.id, sample.expression) for sample in samples] == [
        ("own|train|a.jpg|0|0", "the red cup, on the left"),
        ("own|train|a.jpg|0|1", "a cup"),
        ("own|train|a.jpg|1|0", "both cups"),
        ("own|train|a.jpg|2|0", "a fork"),
        ("own|train|deep/b.png|0|0", "the right one"),
    ]
    left, both = pixels_of((1, LEFT)) > 0, pixels_of((1, LEFT), (1, RIGHT)) > 0
    assert (pixels(samples[0]) == left).all() and (pixels(samples[1]) == left).all()
    assert (pixels(samples[2]) == both).all()
    assert (pixels(samples[4]) == (both & ~left)).all()
    assert [sample.no_target for sample in samples] == [False, False, False, True, False]
    assert not pixels(samples[3]).any()
    assert samples[0].boxes_xyxy == ((2.0, 5.0, 15.0, 20.0),)
    assert {sample.size_hw for sample in samples} == {(30, 40)}
    assert samples[4].image_path == tmp_path / "images/deep/b.png"


def test_wordings_of_one_mask_are_one_target(tmp_path):
    root = write(tmp_path, ROWS)
    first, second = collect(read(root), DATASETS["own"], root)
    assert [target.names for target in first.targets] == [
        ("the red cup, on the left", "a cup"),
        ("both cups",),
        ("a fork",),
    ]
    assert first.targets[2].mask is None
    assert second.image == "images/deep/b.png"


@pytest.mark.parametrize("table", ["sentences.json", "sentences.jsonl"])
def test_json_reads_as_csv_does(tmp_path, table):
    expected = read(write(tmp_path / "csv", ROWS))
    rows = [entry | {"value": [7, 1]} if entry.get("value") == "1 7" else entry for entry in ROWS]
    rows = [entry | {"value": 7} if entry.get("value") == "7" else entry for entry in rows]
    rows[:2] = [row("a.jpg", [entry["sentence"] for entry in ROWS[:2]], "left.png")]
    found = read(write(tmp_path / "json", rows, table))
    assert [(sample.id, sample.expression, sample.mask) for sample in found] == [
        (sample.id, sample.expression, sample.mask) for sample in expected
    ]


def test_masks_of_rows_with_the_same_sentence_are_joined(tmp_path):
    rows = [row("a.jpg", "a scratch", "left.png"), row("a.jpg", "A scratch", "all.png", value="7")]
    (sample,) = read(write(tmp_path, rows))
    assert (pixels(sample) == (pixels_of((1, LEFT), (1, RIGHT)) > 0)).all()
    assert len(sample.boxes_xyxy) == 2


def test_a_row_may_bring_its_own_question_and_answer(tmp_path):
    rows = [
        row("a.jpg", "leak", "left.png", question="Where does it leak?", answer="At the seal."),
        row("a.jpg", "leak", "none", question="Where is rust?"),
    ]
    first, second = read(write(tmp_path, rows))
    assert (first.question, first.answer, first.expression) == ("Where does it leak?", "At the seal.", "leak")
    assert second.no_target and second.question == "Where is rust?"


def test_the_answer_of_a_row_stands_before_its_mask_with_and_without_a_question(tmp_path):
    rows = [
        row("a.jpg", "leak", "left.png", question="Where does it leak?", answer="At the seal."),
        row("a.jpg", "the cup", "left.png", answer="The cup is left."),
        row("a.jpg", "a cup", "left.png"),
    ]
    root = write(tmp_path, rows)
    (image,) = collect(read(root), DATASETS["own"], root)
    assert [(target.names, target.answer) for target in image.targets] == [
        (("leak",), "At the seal."),
        (("the cup",), "The cup is left."),
        (("a cup",), ""),
    ]
    for anchor, begins in ((0, "At the seal.\n<seg>"), (1, "The cup is left.\n<seg>")):
        record = draw_record(image, anchor, DrawSettings((6, 8), rounds=1), rng=generator(0, 0, anchor))
        assert record["conversations"][1]["value"].startswith(begins)


def test_other_ends_of_line_inside_a_sentence_are_no_new_row(tmp_path):
    odd = "the cup\u2028on the\x85left"
    for table in ("sentences.csv", "sentences.jsonl"):
        root = write(tmp_path / table, [], table)
        text = f"image,sentence,mask\r\na.jpg,{odd},left.png\r\n"
        if table == "sentences.jsonl":
            text = json.dumps(row("a.jpg", odd, "left.png"), ensure_ascii=False) + "\n"
        (root / table).write_bytes(text.encode())
        assert [sample.expression for sample in read(root)] == ["the cup on the left"]


def test_one_image_under_two_spellings_of_its_path_is_one_image(tmp_path):
    rows = [row("./c.jpg", "the cup", "./left.png"), row("c.jpg", "the cup", "left.png", split="val")]
    with pytest.raises(ValueError, match=r"c\.jpg is also in split val"):
        read(write(tmp_path, rows))


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_every_one_channel_mask_reads_the_same(tmp_path, mode):
    root = write(tmp_path, [row("a.jpg", "the cup", "m.png")])
    if mode == "I;16":
        save(root / "masks/m.png", pixels_of((1, LEFT)).astype(np.uint16) * 65535)
    else:
        save(root / "masks/m.png", pixels_of((255, LEFT)), mode)
    with Image.open(root / "masks/m.png") as stored:
        assert stored.mode == mode
    (sample,) = read(root)
    assert (pixels(sample) == (pixels_of((1, LEFT)) > 0)).all()


def test_the_folder_may_lie_as_own_under_the_data_root(tmp_path):
    write(tmp_path / "own", ROWS)
    assert len(read(tmp_path)) == 5


WRONG = {
    "row with an empty field": row("a.jpg", "the cup", " "),
    "unknown split": row("a.jpg", "the cup", "left.png", split="trian"),
    "value that is no number": row("a.jpg", "the cup", "all.png", value="one"),
    "path that leads out": row("a.jpg", "the cup", "../left.png"),
    "missing image": row("no.jpg", "the cup", "left.png"),
    "missing mask": row("a.jpg", "the cup", "no.png"),
    "mask of another size": row("a.jpg", "the cup", "small.png"),
    "mask of another mode": row("a.jpg", "the cup", "colour.png"),
    "damaged mask": row("a.jpg", "the cup", "text.png"),
    "mask of several values": row("a.jpg", "the cup", "all.png"),
    "mask without a pixel": row("a.jpg", "the cup", "all.png", value="3"),
    "image of more than 8 bits": row("deep16.png", "the cup", "left.png"),
    "image that is to be turned": row("turned.jpg", "the cup", "left.png"),
    "image of training and test": row("c.jpg", "the cup", "left.png"),
}


def with_wrong_files(root):
    save(root / "masks/small.png", pixels_of((255, LEFT))[:20])
    save(root / "masks/colour.png", pixels_of((255, LEFT)), "RGB")
    (root / "masks/text.png").write_text("no image")
    save(root / "images/deep16.png", pixels_of((255, LEFT)).astype(np.uint16) * 16)
    turned = Image.Exif()
    turned[274] = 6
    save(root / "images/turned.jpg", np.zeros((*SIZE_WH[::-1], 3), dtype=np.uint8), exif=turned)
    return root


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_row_is_named_or_left_out_and_counted(tmp_path, kind):
    root = with_wrong_files(write(tmp_path, [WRONG[kind], *ROWS]))
    with pytest.raises(ValueError, match=r"sentences\.csv: line 2|masks/"):
        read(root)
    problems = Problems("skip")
    assert len(read(root, problems=problems)) == 5
    assert {name: n for name, n in problems.counts.items() if "no row names" not in name} == {kind: 1}


def test_a_mask_with_a_garbled_middle_is_damaged(tmp_path):
    root = write(tmp_path, [row("a.jpg", "the cup", "left.png"), ROWS[4]])
    noise = np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8)
    save(root / "masks/left.png", noise)
    content = bytearray((root / "masks/left.png").read_bytes())
    second = content.find(b"IDAT", content.find(b"IDAT") + 4)
    content[second : second + 4] = b"\0\1\2\3"
    (root / "masks/left.png").write_bytes(content)
    problems = Problems("skip")
    assert [sample.expression for sample in read(root, problems=problems)] == ["the right one"]
    assert problems.counts["damaged mask"] == 1


def test_an_image_with_more_pixels_than_can_be_read_is_named(tmp_path):
    root = write(tmp_path, [row("huge.png", "the cup", "left.png")])
    kind = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + kind + struct.pack(">I", zlib.crc32(kind))
    (root / "images/huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IDAT")
    with pytest.raises(ValueError, match=r"line 2: .*huge\.png is too large .*; cut it into tiles"):
        read(root)


CONTRADICTIONS = {
    "row that stands twice": [row("a.jpg", "the cup", "left.png")] * 2,
    "sentence with a mask and without": [
        row("a.jpg", "the cup", "left.png"),
        row("a.jpg", "The cup", "none"),
    ],
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_rows_that_contradict_each_other_are_told(tmp_path, kind):
    root = write(tmp_path, [*CONTRADICTIONS[kind], ROWS[4]])
    with pytest.raises(ValueError, match=r"sentences\.csv: line 3: 'the cup'"):
        read(root)
    problems = Problems("skip")
    assert [sample.expression for sample in read(root, problems=problems)] == ["the right one"]
    assert problems.counts[kind] == 1


def test_one_wrong_mask_of_several_leaves_out_the_whole_sentence(tmp_path):
    rows = [row("a.jpg", "a scratch", "left.png"), row("a.jpg", "a scratch", "no.png"), ROWS[4]]
    assert [s.expression for s in read(write(tmp_path, rows), problems=Problems("skip"))] == ["the right one"]


def test_a_sentence_with_commas_and_no_quotes_is_no_row_about_something_else(tmp_path):
    root = write(tmp_path, [])
    (root / "sentences.csv").write_text("image,sentence,mask\na.jpg,the red, tall cup,left.png\n")
    with pytest.raises(ValueError, match=r"line 2: 4 fields, the first line names 3; .* quotes"):
        read(root)


def test_files_that_no_row_names_and_odd_columns_are_noted(tmp_path):
    root = write(tmp_path, [row("a.jpg", "the cup", "left.png", annotator="x")], "sentences.json")
    problems = Problems()
    assert len(read(root, problems=problems)) == 1
    assert read(root, "val", problems) == []
    assert problems.counts == {
        "columns that are not read": 2,
        "images that no row names": 4,
        "masks that no row names": 2,
        "splits without a row": 1,
    }


TABLES = {
    "image,sentence\na.jpg,x\n": "no mask among 'image', 'sentence'; columns are",
    "image;sentence;mask\n": "no image, sentence, mask among 'image;sentence;mask'",
    "image,sentence,mask,spilt\n": "unknown column 'spilt', did you mean split?",
    'image,sentence,mask\na.jpg,"x,left.png\n': "line 2 is no CSV",
    "image,sentence,mask,mask\n": "first line names mask twice; keep one column of each",
    "": "no image, sentence, mask among none",
}


@pytest.mark.parametrize("text", TABLES)
def test_a_table_that_cannot_be_read_says_why(tmp_path, text):
    root = write(tmp_path, [])
    (root / "sentences.csv").write_text(text)
    with pytest.raises(ValueError, match=TABLES[text]):
        read(root)


JSON_TABLES = {
    '{"image": "a.jpg"}': "holds a dict, needed a list",
    '[{"image": "a.jpg"': "not valid JSON",
    '["a.jpg"]': "record 0 is 'a.jpg', needed an object",
    '[{"image": "a.jpg", "sentence": 3, "mask": "left.png"}]': "record 0: .*needed texts",
    '[{"image": "a.jpg", "sentence": [], "mask": "left.png"}]': "record 0: .*needed texts",
    '[{"image": "a.jpg", "sentence": "x", "mask": "all.png", "value": true}]': "value True: give numbers",
}


@pytest.mark.parametrize("text", JSON_TABLES)
def test_a_json_table_that_cannot_be_read_says_why(tmp_path, text):
    root = write(tmp_path, [], "sentences.json")
    (root / "sentences.json").write_text(text)
    with pytest.raises(ValueError, match=JSON_TABLES[text]):
        read(root)


def test_two_tables_and_none_are_refused(tmp_path):
    root = write(tmp_path, ROWS)
    (root / "sentences.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sentences\.csv and sentences\.json; keep one"):
        read(root)
    with pytest.raises(FileNotFoundError, match=r"sentences\.csv not found .*check_data\.py"):
        read(tmp_path / "elsewhere")


def test_a_table_in_another_encoding_is_refused(tmp_path):
    root = write(tmp_path, [])
    (root / "sentences.csv").write_bytes("image,sentence,mask\na.jpg,café,left.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        read(root)


def test_the_shipped_example_is_whole_and_what_its_command_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    from create_own_example import main

    main(["--root", str(tmp_path)])
    problems = Problems()
    for split, images, expressions in (("train", 6, 50), ("val", 2, 20)):
        shipped, written = read(EXAMPLE, split, problems), read(tmp_path, split)
        assert [(s.id, s.expression, s.mask) for s in shipped] == [
            (s.id, s.expression, s.mask) for s in written
        ]
        assert len({sample.image_path for sample in shipped}) == images
        assert len(shipped) >= expressions and any(sample.no_target for sample in shipped)
    assert not problems.counts
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*")) < 100_000
