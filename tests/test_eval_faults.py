"""What an evaluation does when memory runs out, when files are cut, and when folders are mixed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, FakeRefiner, FakeSegmenter, drawn_samples, make_sample, still_clock

from llava.eval.confidence import certainty, pack, unpack
from llava.eval.loop import evaluate, make_batches
from llava.eval.memory import Halving, is_out_of_memory
from llava.eval.predictions import PREDICTIONS_FILE, rank_path, read_records
from llava.eval.report import main, write_report
from llava.eval.run import fingerprint


@pytest.fixture
def samples(tmp_path):
    return drawn_samples(tmp_path / "data")


def run(samples, out, segmenter=None, **options):
    options = {"settings": SETTINGS, "batch_size": 4, "clock": still_clock, **options}
    return evaluate(segmenter or FakeSegmenter(), samples, out, **options)


class Small(FakeSegmenter):
    """A segmenter on a device with room for so many queries."""

    def __init__(self, room, error=None):
        super().__init__()
        self.room = room
        self.tried = []
        self.error = error or RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def segment(self, queries):
        self.tried.append(len(queries))
        if len(queries) > self.room:
            raise self.error
        return super().segment(queries)


def test_a_batch_that_does_not_fit_is_halved_with_a_word(samples, tmp_path, capsys):
    run(samples, tmp_path / "roomy")
    segmenter = Small(1)
    run(samples, tmp_path / "small", segmenter, batch_size=6)
    assert segmenter.tried[:7] == [6, 3, 2, 1, 1, 1, 1]
    assert max(segmenter.tried[3:]) == 1
    assert sorted(segmenter.asked) == sorted(one.expression.lower() for one in samples)
    names = [tmp_path / name / PREDICTIONS_FILE for name in ("small", "roomy")]
    assert names[0].read_bytes() == names[1].read_bytes()
    told = capsys.readouterr()
    assert "out of memory with 6 questions at once: from now on 3 at a time" in told.out + told.err


def test_memory_that_runs_out_in_the_refiner_halves_too(samples, tmp_path):
    class Tight(FakeRefiner):
        def refine(self, image, masks, *, soft=None):
            if len(masks) > 1:
                raise MemoryError
            return super().refine(image, masks)

    run(samples, tmp_path / "roomy", refiner=FakeRefiner())
    run(samples, tmp_path / "tight", refiner=Tight())
    names = [tmp_path / name / PREDICTIONS_FILE for name in ("tight", "roomy")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_question_that_does_not_fit_alone_is_told_and_the_rest_is_kept(samples, tmp_path):
    with pytest.raises(
        MemoryError, match=r"one question alone does not fit into memory .* with another --out"
    ):
        run(samples, tmp_path / "run", Small(0))
    assert len(run(samples, tmp_path / "run")) == len(samples)


def test_other_errors_of_a_model_are_not_taken_for_memory(samples, tmp_path):
    segmenter = Small(1, error=RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        run(samples, tmp_path / "run", segmenter)
    assert segmenter.tried == [3]


def test_errors_of_memory_are_known_by_kind_and_by_words():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))


def test_halves_keep_the_order_of_a_batch_of_any_length():
    for length in range(1, 12):
        for room in range(1, 12):

            def answer(part, room=room):
                if len(part) > room:
                    raise MemoryError
                return [10 * one for one in part]

            ask = Halving(answer, tell=lambda words: None)
            assert ask(range(length)) == [10 * one for one in range(length)]
            assert ask.most is None or ask.most <= room


def test_a_record_carries_all_that_the_system_told(samples, tmp_path):
    class Talkative(FakeSegmenter):
        def answer(self, query):
            soft = np.full((1, 6, 8), 0.25, dtype=np.float32)
            return replace(super().answer(query), mode="forced", confidence=soft, stats={"tokens": 9})

    asked = [replace(one, category="square") for one in samples]
    run(asked, tmp_path / "run", Talkative())
    record = read_records(tmp_path / "run" / PREDICTIONS_FILE)[0]
    assert (record.mode, record.stats, record.category) == ("forced", {"tokens": 9}, "square")
    assert unpack(record.confidence) == pytest.approx(np.full((6, 8), 0.25), abs=0.002)
    assert certainty(record.confidence) == pytest.approx(0.75, abs=0.002)
    assert len(record.run) == 12


def test_confidence_is_kept_to_one_part_in_255():
    soft = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    assert np.abs(unpack(pack(soft)) - soft).max() <= 0.5 / 255 + 1e-6
    assert unpack(pack(np.float32([[1.0005, -0.0005]]))).tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        pack(soft * 2)
    with pytest.raises(ValueError, match="35 cells for a grid of 5 x 6"):
        unpack({**pack(soft), "size": [5, 6]})


def foreign_line(folder, samples, **changes):
    """A record line of the same samples, answered under other settings."""
    settings = replace(SETTINGS, **changes)
    run(samples, folder, settings=settings)
    return (folder / PREDICTIONS_FILE).read_bytes().splitlines(keepends=True)[3]


@pytest.mark.parametrize("changes", [{"weights": "xyz"}, {"refiner": "sam"}, {"checkpoint": "/models/b"}])
def test_predictions_of_another_checkpoint_are_refused_before_the_model_is_asked(samples, tmp_path, changes):
    line = foreign_line(tmp_path / "other", samples, **changes)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(samples, out, FakeSegmenter(stop_after=4))
    rank_path(out, 7).write_bytes(line.replace(b"|3|0", b"|11|0"))
    segmenter = FakeSegmenter()
    with pytest.raises(ValueError, match=r"1 predictions belong to another run .* another checkpoint"):
        run(samples, out, segmenter)
    assert segmenter.asked == []


def test_predictions_of_another_split_are_refused_before_the_model_is_asked(samples, tmp_path):
    other = make_sample(0, samples[0].image_path, "square 0 0 4 4", split="drawn|unc|testA")
    line = foreign_line(tmp_path / "other", [*samples[:3], other])
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(samples, out, FakeSegmenter(stop_after=4))
    fields = {**json.loads(line), "run": ""}
    rank_path(out, 1).write_text(json.dumps(fields) + "\n")
    segmenter = FakeSegmenter()
    with pytest.raises(ValueError, match=r"of no sample of this run \(first: drawn\|unc\|testA\|0\|0\)"):
        run(samples, out, segmenter)
    assert segmenter.asked == []


def test_a_report_refuses_predictions_of_another_checkpoint(samples, tmp_path):
    run(samples, tmp_path / "a", settings=replace(SETTINGS, weights="xyz"))
    run(samples, tmp_path / "b")
    path = tmp_path / "b" / PREDICTIONS_FILE
    path.write_bytes((tmp_path / "a" / PREDICTIONS_FILE).read_bytes())
    with pytest.raises(ValueError, match="12 predictions belong to another run"):
        write_report(tmp_path / "b")
    with pytest.raises(SystemExit, match=r"error: .* belong to another run"):
        main([str(tmp_path / "b")])


def test_a_batch_that_a_kill_cut_is_asked_whole_and_written_once(samples, tmp_path):
    whole = run(samples, tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(samples, out, FakeSegmenter(stop_after=8))
    path = rank_path(out, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    segmenter = FakeSegmenter()
    assert run(samples, out, segmenter) == whole
    second, third, *_ = make_batches(samples, 4)[1:]
    expected = [one.expression.lower() for one in (*second, *third)]
    assert segmenter.asked[: len(expected)] == expected


def test_batches_made_otherwise_before_ask_only_what_is_missing(samples, tmp_path):
    whole = run(samples, tmp_path / "run")
    path = tmp_path / "run" / PREDICTIONS_FILE
    path.write_bytes(b"".join(whole[place].to_line() for place in (0, 5, 10)))
    segmenter = FakeSegmenter()
    assert run(samples, tmp_path / "run", segmenter) == whole
    assert len(segmenter.asked) == len(samples) - 3


def test_a_cut_file_of_a_finished_run_loses_its_last_line_only(samples, tmp_path):
    records = run(samples, tmp_path / "run")
    path = tmp_path / "run" / PREDICTIONS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="holds 11 predictions for 11 samples, the run has 12; restore"):
        write_report(tmp_path / "run")
    assert run(samples, tmp_path / "run") == records
    assert path.read_bytes() == whole


def test_the_fingerprint_of_one_file_of_weights_follows_it(tmp_path):
    path = tmp_path / "sam_vit_b.pth"
    path.write_bytes(b"abc")
    before = fingerprint(path)
    path.write_bytes(b"abd")
    assert len({"none", before, fingerprint(path)}) == 3
