import errno
import json

import numpy as np
import pytest
from eval_fakes import box_mask

from llava.data.rle import decode_rle, encode_mask
from llava.eval.predictions import (
    PREDICTIONS_FILE,
    Record,
    RecordWriter,
    merge,
    rank_path,
    read_records,
    read_run,
)


def record(name, **changes):
    rle = encode_mask(box_mask(1, 1, 5, 5))
    fields = {
        "id": f"refcoco|unc|val|{name}|0",
        "image": "images/1.jpg",
        "expression": "the dög",
        "group": "",
        "no_target": False,
        "truth": rle,
        "answer": "Sure:\n<seg>dög *2\n</seg>",
        "absent": False,
        "coarse": rle,
        "refined": rle,
        "faults": ("row 1 of 2 is missing",),
        "seconds": {"generate": 0.25},
    }
    return Record(**{**fields, **changes})


def write(folder, names, rank=0):
    with RecordWriter(rank_path(folder, rank)) as writer:
        writer.append([record(name) for name in names])


def ids(*names):
    return [f"refcoco|unc|val|{name}|0" for name in names]


def test_a_record_comes_back_as_it_was_written(tmp_path):
    records = [record("a"), record("b", refined=None, faults=(), note="coarse is empty")]
    with RecordWriter(tmp_path / "x.jsonl") as writer:
        writer.append(records)
    assert read_records(tmp_path / "x.jsonl") == records
    assert np.array_equal(decode_rle(records[0].coarse), box_mask(1, 1, 5, 5))


def test_a_record_is_one_line_of_plain_json():
    line = record("a").to_line()
    assert line.count(b"\n") == 1
    assert json.loads(line)["answer"] == "Sure:\n<seg>dög *2\n</seg>"


def test_the_split_is_read_from_the_id():
    assert record("a").split == "refcoco|unc|val"


def test_every_cut_of_the_last_line_is_left_out_and_then_replaced(tmp_path):
    path = rank_path(tmp_path, 0)
    write(tmp_path, ["a", "b"])
    whole = path.read_bytes()
    first_line = len(record("a").to_line())
    for end in (first_line, first_line + 1, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [one.id for one in read_records(path)] == ids("a")
        write(tmp_path, ["b"])
        assert path.read_bytes() == whole


def test_two_processes_cannot_write_one_file(tmp_path):
    with RecordWriter(rank_path(tmp_path, 0)) as writer:
        writer.append([record("a")])
        with pytest.raises(ValueError, match=r"another process is writing .*predictions\.rank0\.jsonl"):
            RecordWriter(rank_path(tmp_path, 0))
    with RecordWriter(rank_path(tmp_path, 0)) as writer:
        writer.append([record("b")])
    assert len(read_run(tmp_path)) == 2


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_used_without_them(tmp_path, monkeypatch, number, goes_on):
    def no_lock(file, how):
        if not goes_on:
            file.close()
        raise OSError(number, "no lock")

    monkeypatch.setattr("llava.eval.predictions.fcntl.flock", no_lock)
    if goes_on:
        write(tmp_path, ["a"])
        assert len(read_run(tmp_path)) == 1
    else:
        with pytest.raises(OSError, match="no lock"):
            write(tmp_path, ["a"])


@pytest.mark.parametrize("line", [b'{"id": 1}', b"{", b"5", b"null", b'["id"]'])
def test_a_damaged_line_is_named_with_its_file_and_number(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(record("a").to_line() + line + b"\n" + record("b").to_line())
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2 is not a prediction record"):
        read_records(path)
    path.write_bytes(b"\xff\xfe nonsense\n")
    with pytest.raises(ValueError, match=r"line 1 .* delete that line"):
        read_records(path)


def test_the_merge_puts_ranks_into_the_order_of_the_samples(tmp_path):
    write(tmp_path, ["c", "a"], rank=0)
    write(tmp_path, ["b"], rank=1)
    merged = merge(tmp_path, ids("a", "b", "c"))
    assert [one.id for one in merged] == ids("a", "b", "c")
    assert read_records(tmp_path / PREDICTIONS_FILE) == merged
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS_FILE]


def test_a_second_merge_changes_nothing(tmp_path):
    write(tmp_path, ["a"])
    merge(tmp_path, ids("a"))
    before = (tmp_path / PREDICTIONS_FILE).stat().st_mtime_ns
    assert [one.id for one in merge(tmp_path, ids("a"))] == ids("a")
    assert (tmp_path / PREDICTIONS_FILE).stat().st_mtime_ns == before


def test_a_kill_between_merging_and_clearing_up_loses_and_doubles_nothing(tmp_path):
    write(tmp_path, ["a", "b"])
    kept = rank_path(tmp_path, 0).read_bytes()
    merge(tmp_path, ids("a", "b"))
    rank_path(tmp_path, 0).write_bytes(kept)
    assert [one.id for one in merge(tmp_path, ids("a", "b"))] == ids("a", "b")
    assert not rank_path(tmp_path, 0).exists()


def test_a_missing_sample_is_an_error_and_keeps_the_files(tmp_path):
    write(tmp_path, ["a"])
    with pytest.raises(
        ValueError, match=r"1 of 2 samples have no prediction \(first: refcoco\|unc\|val\|b\|0\)"
    ):
        merge(tmp_path, ids("a", "b"))
    assert rank_path(tmp_path, 0).is_file()
    assert not (tmp_path / PREDICTIONS_FILE).exists()


def test_a_prediction_without_a_sample_is_an_error(tmp_path):
    write(tmp_path, ["a", "b"])
    with pytest.raises(
        ValueError, match=r"1 predictions belong to no sample \(first: refcoco\|unc\|val\|b\|0\)"
    ):
        merge(tmp_path, ids("a"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_doubled_prediction_is_an_error(tmp_path, rank):
    write(tmp_path, ["a"])
    write(tmp_path, ["a"], rank=rank)
    with pytest.raises(ValueError, match=r"holds refcoco\|unc\|val\|a\|0 a second time"):
        read_run(tmp_path)


@pytest.mark.parametrize("boxes", [None, (None,), ((0.5, 1.0, 20.25, 7.0), None)])
def test_boxes_of_the_answer_come_back_as_they_were(tmp_path, boxes):
    with RecordWriter(rank_path(tmp_path, 0)) as writer:
        writer.append([record("a", boxes=boxes)])
    (read,) = read_records(rank_path(tmp_path, 0))
    assert read == record("a", boxes=boxes) and read.boxes == boxes


def test_other_files_of_the_folder_are_left_alone(tmp_path):
    write(tmp_path, ["a"])
    (tmp_path / "predictions.rank0.old.jsonl").write_text("kept")
    merge(tmp_path, ids("a"))
    assert (tmp_path / "predictions.rank0.old.jsonl").read_text() == "kept"


def test_a_rank_file_that_another_process_just_merged_is_no_error(tmp_path, monkeypatch):
    write(tmp_path, ["a"])
    merged = [record("a").to_line()]

    def vanish(path):
        if path.name != PREDICTIONS_FILE:
            path.unlink(missing_ok=True)
            (tmp_path / PREDICTIONS_FILE).write_bytes(b"".join(merged))
            raise FileNotFoundError(path)
        return [record("a")]

    monkeypatch.setattr("llava.eval.predictions.read_records", vanish)
    assert list(read_run(tmp_path)) == ids("a")
