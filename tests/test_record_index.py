import json
import pickle

import pytest

from llava.data import record_index
from llava.data.held_out import HeldOut
from llava.data.record_files import read_records, write_records
from llava.data.record_form import Form
from llava.data.record_index import RecordFile


def record(number, text="Hello é – “x” 狗", **more):
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": f"No. {number}"}]
    return {"id": number, "image": f"{number}.jpg", **more, "conversations": turns}


def text_only(number):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    return {"id": f"t{number}", "conversations": turns}


RECORDS = [record(0), text_only(1), record(2, height=4, width=5), record(3, text='a, [b] {c} \\ "d" ]')]


def as_written(path):
    write_records(path, RECORDS)


def indented(path):
    path.write_text(json.dumps(RECORDS, indent=4, ensure_ascii=False), encoding="utf-8")


def one_line(path):
    path.write_text("\n " + json.dumps(RECORDS) + "\n")


def windows_lines(path):
    lines = (json.dumps(item, ensure_ascii=False) + "\r\n\r\n" for item in RECORDS)
    path.write_bytes("".join(lines).encode())


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", as_written),
        ("a.jsonl", as_written),
        ("a.json", indented),
        ("a.json", one_line),
        ("a.jsonl", windows_lines),
    ],
)
def test_records_of_any_layout_are_read_by_number(tmp_path, monkeypatch, chunk, name, write):
    monkeypatch.setattr(record_index, "_CHUNK", chunk)
    write(tmp_path / name)
    found = RecordFile(tmp_path / name)
    assert [found[index] for index in (3, 1, 0, 2)] == [RECORDS[index] for index in (3, 1, 0, 2)]
    assert len(found) == 4 and read_records(tmp_path / name) == RECORDS


def test_what_a_mixture_needs_to_know_is_noted(tmp_path):
    write_records(tmp_path / "a.json", [*RECORDS, record(4, height=4, width=5), record(5, height=8, width=8)])
    found = pickle.loads(pickle.dumps(RecordFile(tmp_path / "a.json")))
    assert found.has_image().tolist() == [True, False, True, True, True, True]
    assert found.extents()[1].tolist() == [4]
    assert found.forms == {Form((4, 5)): (2, 2), Form((8, 8)): (1, 5)}
    assert list(found.image_names())[:3] == ["0.jpg", "", "2.jpg"]


def test_records_on_held_out_images_are_left_out_and_counted(tmp_path):
    kept_out = {**record(9), "image": "coco/train2017/000000000025.jpg"}
    write_records(tmp_path / "a.json", [RECORDS[0], kept_out, *RECORDS[1:]])
    found = RecordFile(tmp_path / "a.json", HeldOut(frozenset({25})))
    assert [found[index] for index in range(len(found))] == RECORDS and found.left_out == 1
    assert "coco/train2017/000000000025.jpg" not in set(found.image_names())
    write_records(tmp_path / "b.json", [kept_out])
    with pytest.raises(ValueError, match="holds no record to train on"):
        RecordFile(tmp_path / "b.json", HeldOut(frozenset({25})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no record"),
        ("", "holds no record"),
        (json.dumps(RECORDS)[:-20], r"a.json, record 3: not valid JSON .* write it again"),
        (json.dumps(RECORDS)[:-1], "record 4: not valid JSON .the list has no end"),
        (json.dumps([RECORDS]), "record 0 is a list"),
        (json.dumps([RECORDS[0], {"id": 1}]), "record 1: conversations must be a list"),
        ('{"id": 1', "record 0: not valid JSON"),
    ],
)
def test_a_wrong_file_is_named_with_its_record(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        RecordFile(tmp_path / "a.json")


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes('[{"id": "é"}]'.encode("cp1252"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        RecordFile(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.json not found"):
        RecordFile(tmp_path / "a.json")


def test_a_file_that_changes_behind_our_back_is_told(tmp_path):
    write_records(tmp_path / "a.json", RECORDS)
    found = RecordFile(tmp_path / "a.json")
    write_records(tmp_path / "a.json", RECORDS[1:])
    with pytest.raises(ValueError, match="has changed since it was opened"):
        found[2]
    with pytest.raises(IndexError, match=r"record 4 of .* which has 4"):
        found[4]
