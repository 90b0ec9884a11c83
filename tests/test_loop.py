import json
from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, FakeRefiner, FakeSegmenter, drawn_samples, make_sample, still_clock
from PIL import Image

from llava.eval import loop
from llava.eval.loop import SOFT_PROMPTS, Shard, evaluate, make_batches
from llava.eval.predictions import PREDICTIONS_FILE, rank_path, read_records
from llava.eval.report import RESULTS_FILE, write_report
from llava.eval.run import RUN_FILE, code_version, fingerprint, open_run, read_settings
from llava.types import Prediction


@pytest.fixture
def samples(tmp_path):
    return drawn_samples(tmp_path / "data")


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    monkeypatch.setattr("llava.eval.report.SHEET_CARDS", 1)


def run(samples, out, segmenter=None, **options):
    options = {
        "settings": SETTINGS,
        "refiner": FakeRefiner(),
        "batch_size": 4,
        "clock": still_clock,
        **options,
    }
    return evaluate(segmenter or FakeSegmenter(), samples, out, **options)


class Slow(FakeSegmenter):
    """Moves a clock by ten seconds a batch, one of them for decoding."""

    decode_seconds = 0.0

    def __init__(self, now):
        super().__init__()
        self.now = now

    def segment(self, queries):
        self.now[0] += 10
        self.decode_seconds += 1
        return super().segment(queries)


def results_of(out):
    write_report(out)
    return (out / RESULTS_FILE).read_bytes()


def test_every_sample_is_answered_once_in_order(samples, tmp_path):
    records = run(samples, tmp_path / "run")
    assert [one.id for one in records] == [one.id for one in samples]
    assert read_records(tmp_path / "run" / PREDICTIONS_FILE) == records


def test_a_record_holds_what_the_systems_said(samples, tmp_path):
    square, nothing, broken = (run(samples, tmp_path / "run")[place] for place in (0, 4, 8))
    assert (square.absent, square.faults, square.note) == (False, (), "")
    assert square.answer == "<seg>square 4 4 12 12</seg>"
    assert (nothing.absent, nothing.note) == (True, "coarse is empty")
    assert broken.faults == ("row 1 of 6 describes 7 cells, needed 8",)
    assert square.coarse != square.refined
    assert square.refined == square.truth


def test_without_a_refiner_there_is_no_refined_mask(samples, tmp_path):
    assert {one.refined for one in run(samples, tmp_path / "run", refiner=None)} == {None}


def test_expressions_are_normalised_as_in_training(samples, tmp_path):
    segmenter = FakeSegmenter()
    run(samples, tmp_path / "run", segmenter)
    assert samples[0].expression == "Square 4 4 12 12"
    assert segmenter.asked[0] == "square 4 4 12 12"


def test_the_expressions_of_one_image_stay_in_one_batch(samples):
    batches = make_batches(samples, 7)
    assert [len(batch) for batch in batches] == [6, 6]
    for batch in batches:
        paths = [one.image_path for one in batch]
        assert paths == sorted(paths)
    images = [{one.image_path for one in batch} for batch in batches]
    assert not images[0] & images[1]


def test_an_image_with_many_expressions_is_spread_over_batches(samples):
    assert [len(batch) for batch in make_batches(samples, 2)] == [2, 1, 2, 1, 2, 1, 2, 1]


def test_the_refiner_sees_each_image_once(samples, tmp_path):
    refiner = FakeRefiner()
    run(samples, tmp_path / "run", refiner=refiner, batch_size=6)
    assert [number for _, number in refiner.calls] == [3, 3, 3, 3]
    assert len({image for image, _ in refiner.calls}) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_changes_no_score(samples, tmp_path, batch_size):
    run(samples, tmp_path / "a")
    run(samples, tmp_path / "b", batch_size=batch_size)
    assert results_of(tmp_path / "a") == results_of(tmp_path / "b")


@pytest.mark.parametrize("stop_after", [0, 1, 3, 9])
@pytest.mark.parametrize("torn", [b"", b'{"id": "drawn|unc|val|5|0", "imag'])
def test_a_killed_run_resumes_with_the_same_result(samples, tmp_path, stop_after, torn):
    run(samples, tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(samples, out, FakeSegmenter(stop_after=stop_after), batch_size=3)
    with rank_path(out, 0).open("ab") as file:
        file.write(torn)
    kept = len(read_records(rank_path(out, 0)))
    segmenter = FakeSegmenter()
    run(samples, out, segmenter)
    assert len(segmenter.asked) == len(samples) - kept
    assert kept >= stop_after
    assert results_of(out) == results_of(tmp_path / "whole")
    assert (out / PREDICTIONS_FILE).read_bytes() == (tmp_path / "whole" / PREDICTIONS_FILE).read_bytes()


def test_a_finished_run_asks_the_model_nothing(samples, tmp_path):
    run(samples, tmp_path / "run")
    segmenter = FakeSegmenter()
    assert len(run(samples, tmp_path / "run", segmenter)) == len(samples)
    assert segmenter.asked == []


@pytest.mark.parametrize("count", [2, 3, 20])
def test_several_processes_give_the_scores_of_one(samples, tmp_path, count):
    run(samples, tmp_path / "one")
    asked = []
    for rank in reversed(range(count)):
        segmenter = FakeSegmenter()
        records = run(samples, tmp_path / "many", segmenter, shard=Shard(rank, count))
        assert (records is None) == (rank > 0)
        asked += segmenter.asked
    assert sorted(asked) == sorted(one.expression.lower() for one in samples)
    assert results_of(tmp_path / "many") == results_of(tmp_path / "one")


def test_a_run_may_resume_with_another_number_of_processes(samples, tmp_path):
    run(samples, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(samples, tmp_path / "many", FakeSegmenter(stop_after=3), shard=Shard(1, 2), batch_size=3)
    run(samples, tmp_path / "many", shard=Shard(2, 3), batch_size=3)
    run(samples, tmp_path / "many", shard=Shard(1, 3), batch_size=3)
    run(samples, tmp_path / "many", shard=Shard(0, 3), batch_size=3)
    assert results_of(tmp_path / "many") == results_of(tmp_path / "one")


def test_rank_0_waits_for_the_others(samples, tmp_path, monkeypatch):
    out = tmp_path / "run"
    waited = []

    def other_process(seconds):
        waited.append(seconds)
        run(samples, out, shard=Shard(1, 2))

    monkeypatch.setattr(loop.time, "sleep", other_process)
    assert len(run(samples, out, shard=Shard(0, 2))) == len(samples)
    assert waited == [loop.POLL_SECONDS]


def test_rank_0_gives_up_on_a_process_that_stopped(samples, tmp_path, monkeypatch):
    ticks = iter(range(0, 10**9, 700))
    monkeypatch.setattr(loop.time, "sleep", lambda seconds: None)
    with pytest.raises(TimeoutError, match=r"6 samples are missing .* another process has stopped"):
        run(samples, tmp_path / "run", shard=Shard(0, 2), batch_size=3, clock=lambda: float(next(ticks)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checkpoint": "/models/other"}, "checkpoint was '/models/fake', now '/models/other'"),
        ({"weights": "xyz"}, "weights was 'abc', now 'xyz'"),
        ({"seed": 4}, "seed was 3, now 4"),
        ({"refiner": "sam"}, "refiner was 'none', now 'sam'"),
        ({"splits": ("a", "b")}, "splits was"),
        ({"limit": 5}, "limit was None, now 5"),
        ({"options": {"sam_box": True}}, "options was"),
        ({"grid_hw": (8, 8)}, "grid_hw was"),
    ],
)
def test_other_settings_do_not_resume(samples, tmp_path, changes, named):
    run(samples, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run with other settings") as error:
        run(samples, tmp_path / "run", settings=replace(SETTINGS, **changes))
    assert named in str(error.value)
    assert "another --out" in str(error.value)


def test_a_run_that_has_begun_to_answer_keeps_its_settings(samples, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(samples, tmp_path / "run", FakeSegmenter(stop_after=0))
    with pytest.raises(ValueError, match="other settings: seed was 3, now 4"):
        run(samples, tmp_path / "run", settings=replace(SETTINGS, seed=4))


def test_a_run_that_never_asked_leaves_its_folder_to_other_settings(samples, tmp_path):
    open_run(tmp_path / "run", replace(SETTINGS, refiner="/wrong/path", code=("1",)))
    open_run(tmp_path / "run", replace(SETTINGS, code=("1",)))
    assert read_settings(tmp_path / "run") == replace(SETTINGS, code=("1",))
    assert len(run(samples, tmp_path / "run")) == len(samples)


def test_all_differences_are_named_at_once(samples, tmp_path):
    run(samples, tmp_path / "run")
    with pytest.raises(ValueError, match=r"weights was .*; seed was"):
        run(samples, tmp_path / "run", settings=replace(SETTINGS, weights="b", seed=9))


def test_other_samples_do_not_resume(samples, tmp_path):
    run(samples, tmp_path / "run")
    changed = [replace(samples[0], expression="Square 4 4 12 13"), *samples[1:]]
    with pytest.raises(ValueError, match="samples was"):
        run(changed, tmp_path / "run")


def test_moved_data_and_newer_code_resume_and_are_noted(samples, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(samples, tmp_path / "run", FakeSegmenter(stop_after=4), settings=replace(SETTINGS, code=("1",)))
    run(samples, tmp_path / "run", settings=replace(SETTINGS, code=("2",), data_root="/elsewhere"))
    assert read_settings(tmp_path / "run").code == ("1", "2")
    assert read_settings(tmp_path / "run").data_root == "/elsewhere"


def test_predictions_of_an_unknown_run_are_not_mixed_in(samples, tmp_path):
    run(samples, tmp_path / "run")
    (tmp_path / "run" / RUN_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds predictions but no run\.json"):
        run(samples, tmp_path / "run")


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / RUN_FILE).write_text('{"checkpoint": 1}')
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        open_run(tmp_path, SETTINGS)


def test_a_sample_that_occurs_twice_is_refused(samples, tmp_path):
    with pytest.raises(ValueError, match=r"1 sample ids occur twice, the first is drawn\|unc\|val\|0\|0"):
        run([*samples, samples[0]], tmp_path / "run")


def test_missing_images_are_named_before_the_model_is_asked(samples, tmp_path):
    samples[5].image_path.unlink()
    segmenter = FakeSegmenter()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images are missing, the first is .*1\.png"):
        run(samples, tmp_path / "run", segmenter)
    assert segmenter.asked == []


def test_a_truncated_image_stops_the_run_and_keeps_what_is_done(samples, tmp_path):
    last = samples[-1].image_path
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"3\.png is damaged or cut off"):
        run(samples, tmp_path / "run", batch_size=3)
    assert len(read_records(rank_path(tmp_path / "run", 0))) == 9
    last.write_bytes(whole)
    assert len(run(samples, tmp_path / "run")) == len(samples)


def test_an_image_of_another_size_than_annotated_is_refused(samples, tmp_path):
    Image.new("RGB", (10, 20)).save(samples[0].image_path)
    with pytest.raises(ValueError, match=r"is 20x10 pixels \(height x width\), the annotations say 24x32"):
        run(samples, tmp_path / "run")


def test_a_segmenter_that_skips_a_query_is_caught(samples, tmp_path):
    class Forgetful(FakeSegmenter):
        def segment(self, queries):
            return super().segment(queries)[1:]

    with pytest.raises(ValueError, match="3 predictions for 4 queries"):
        run(samples[:4], tmp_path / "run", Forgetful())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(samples, batch_size):
    with pytest.raises(ValueError, match="at least 1"):
        make_batches(samples, batch_size)


def test_a_rank_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="rank 2 of 2 processes"):
        Shard(2, 2)


class Sure(FakeSegmenter):
    """Tells probabilities, of a coarser grid for expressions about nothing, and none for broken answers."""

    def answer(self, query):
        (words,) = query.targets
        cells = (3, 4) if words.startswith("nothing") else (6, 8)
        soft = None if words.startswith("broken") else np.full((1, *cells), 1.0005, dtype=np.float32)
        return replace(super().answer(query), confidence=soft)


def soft_settings(wanted):
    return replace(SETTINGS, options={"refiner": {"way": "sam", **({SOFT_PROMPTS: True} if wanted else {})}})


def test_soft_prompts_reach_the_refiner_only_where_they_are_wanted_and_told(samples, tmp_path):
    refiner = FakeRefiner()
    run(samples, tmp_path / "soft", Sure(), settings=soft_settings(True), refiner=refiner, batch_size=6)
    told = [None if soft is None else soft.shape for soft in refiner.softs]
    assert told == [(1, 6, 8), (1, 3, 4), None] * 4
    assert all(soft.max() == 1 for soft in refiner.softs if soft is not None)
    refiner = FakeRefiner()
    run(samples, tmp_path / "hard", Sure(), settings=soft_settings(False), refiner=refiner, batch_size=6)
    assert refiner.softs == [None] * 4


def test_soft_prompts_make_another_run(samples, tmp_path):
    run(samples, tmp_path / "run", settings=soft_settings(False))
    with pytest.raises(ValueError, match="other settings: options was"):
        run(samples, tmp_path / "run", settings=soft_settings(True))


def test_seconds_are_split_over_the_steps(samples, tmp_path):
    class SlowRefiner(FakeRefiner):
        def refine(self, image, masks, *, soft=None):
            now[0] += 3
            return super().refine(image, masks)

    now = [0.0]
    records = run(
        samples[:4], tmp_path / "run", Slow(now), refiner=SlowRefiner(), batch_size=2, clock=lambda: now[0]
    )
    assert records[0].seconds == {"generate": 4.5, "decode": 0.5, "refine": 3.0, "score": 0.0}
    seconds = write_report(tmp_path / "run")["seconds"]
    assert seconds == {"generate": 18.0, "decode": 2.0, "refine": 12.0, "score": 0.0}


def test_images_are_recorded_relative_to_the_data_root(samples, tmp_path):
    records = run(samples, tmp_path / "run", settings=replace(SETTINGS, data_root=str(tmp_path / "data")))
    assert records[0].image == "images/0.png"
    assert run(samples, tmp_path / "run2")[0].image == (tmp_path / "data/images/0.png").resolve().as_posix()


def test_the_progress_line_shows_seconds_the_time_left_and_running_scores(samples, tmp_path, capsys):
    run(samples, tmp_path / "run", Slow(ticks := [0.0]), clock=lambda: ticks[0], batch_size=3)
    shown = capsys.readouterr().err
    assert "generate 3.00 decode 0.33 refine 0.00 score 0.00 s; rela: coarse cIoU" in shown
    assert "refined cIoU" in shown
    assert "12/12 in 00:0" in shown
    assert "ETA 00:00" in shown


def test_the_fingerprint_of_a_checkpoint_follows_its_weights(tmp_path):
    assert fingerprint(tmp_path) == "none"
    (tmp_path / "adapter_model.safetensors").write_bytes(b"abc")
    before = fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("not a weight")
    assert fingerprint(tmp_path) == before
    (tmp_path / "adapter_model.safetensors").write_bytes(b"abd")
    changed = fingerprint(tmp_path)
    (tmp_path / "segmentation.json").write_text("{}")
    assert len({before, changed, fingerprint(tmp_path)}) == 3


def test_the_code_version_is_told_even_without_git(monkeypatch):
    assert code_version().startswith("0.")
    monkeypatch.setenv("PATH", "")
    assert code_version() == "0.1.0"


def test_run_settings_survive_the_file(tmp_path):
    settings = replace(SETTINGS, options={"dtype": None}, samples={"count": 1}, code=("a",))
    assert open_run(tmp_path, settings) == settings
    assert read_settings(tmp_path) == settings
    assert json.loads((tmp_path / RUN_FILE).read_text())["grid_hw"] == [6, 8]


def test_a_prediction_with_several_masks_uses_the_first(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (32, 24)).save(path)
    mask = np.ones((1, 1, 24, 32), dtype=bool)

    class Whole:
        def segment(self, queries):
            return [Prediction(mask, np.array([False]), "all") for _ in queries]

    (record,) = run([make_sample(0, path, "square 0 0 32 24")], tmp_path / "run", Whole(), refiner=None)
    assert record.coarse == record.truth
