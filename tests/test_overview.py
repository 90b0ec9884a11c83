"""One table of several runs."""

from dataclasses import replace

import pytest
from eval_fakes import SETTINGS, SPLIT, FakeRefiner, FakeSegmenter, drawn_samples, still_clock

from llava.eval.compare import read_runs
from llava.eval.definitions import find_definition
from llava.eval.loop import evaluate
from llava.eval.overview import main, markdown, overview


class Writing(FakeSegmenter):
    """Tells what its answers cost, and writes the box of its mask, one pixel too wide on each side."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def answer(self, query):
        (words,) = query.targets
        box = None if words.startswith("nothing") else tuple(map(float, words.split()[-4:]))
        stats = {"tokens": self.tokens + len(words.split()), "passes": 2}
        return replace(super().answer(query), stats=stats, boxes=(box,))


@pytest.fixture
def folders(tmp_path):
    """A run with a refiner over twelve samples, and one that writes its boxes without any."""
    samples = [
        sample
        if sample.no_target
        else replace(sample, boxes_xyxy=(tuple(map(float, sample.expression.split()[-4:])),))
        for sample in drawn_samples(tmp_path / "data")
    ]
    settings = replace(SETTINGS, data_root=str(tmp_path / "data"))
    evaluate(
        FakeSegmenter(), samples, tmp_path / "a", settings=settings, refiner=FakeRefiner(), clock=still_clock
    )
    evaluate(Writing(30), samples, tmp_path / "b", settings=replace(settings, weights="b"), clock=still_clock)
    return tmp_path / "a", tmp_path / "b"


def test_every_run_and_stage_has_a_row_and_what_nobody_measured_has_no_column(folders):
    scores, by_size = overview(read_runs(folders))[SPLIT].values()
    a, b = (folder.as_posix() for folder in folders)
    assert [row[:2] for row in scores[1:]] == [[a, "coarse"], [a, "refined"], [b, "coarse"]]
    column = {name: [row[place] for row in scores[1:]] for place, name in enumerate(scores[0])}
    # Five words on average.
    assert column["tokens"] == ["–", "–", "35.0"] and column["passes"] == ["–", "–", "2.0"]
    # Eight columns of twelve are right; the refiner cuts off the other four.
    assert column["cIoU"] == ["66.7", "100.0", "66.7"] and column["N_acc"] == ["100.0"] * 3
    assert column["box_acc (rec)"] == ["100.0"] * 3 and column["box_acc (rec:box=written)"] == [
        "–",
        "–",
        "100.0",
    ]
    assert column["invalid"] == ["4", "4", "4"] and not any(name.startswith("P@") for name in column)
    # All targets cover 8 x 8 of 24 x 32 pixels.
    assert by_size[0] == ["run", "stage", "8 to 30 % (8)"] and [row[2] for row in by_size[1:]] == [
        "66.7",
        "100.0",
        "66.7",
    ]


def test_another_definition_brings_its_own_metrics(folders):
    scores, _ = overview(read_runs(folders), find_definition("lavt"))[SPLIT].values()
    assert "mIoU" in scores[0] and "gIoU" not in scores[0]


@pytest.mark.parametrize("name", ["rec", "lavt:query=merged"])
def test_a_definition_without_single_masks_is_refused(folders, name, capsys):
    with pytest.raises(SystemExit, match=f"error: definition {name}: has no mean IoU of single answers"):
        main([*map(str, folders), "--definition", name])


def test_the_command_prints_markdown_of_the_samples_that_all_have(folders, tmp_path, capsys):
    some = tmp_path / "some"
    evaluate(Writing(10), drawn_samples(tmp_path / "data")[:6], some, settings=SETTINGS, clock=still_clock)
    with pytest.raises(SystemExit, match="in common 6; --shared takes only those"):
        main([str(folders[1]), str(some)])
    main([str(folders[1]), "--definition", "rela:min_area=3"])
    shown = capsys.readouterr().out
    assert f"{SPLIT}, rela:min_area=3, percent" in shown and "| run | stage | tokens |" in shown
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
