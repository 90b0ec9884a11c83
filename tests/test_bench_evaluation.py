"""The measurement of evaluation speed: what the plain way does, and that both ways do the same work."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shell_commands import ROOT

from llava.data.refshapes.write import write_refshapes
from llava.eval.metrics import RegionScores, overlap

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import evaluation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_refshapes(root, {"val": 2})
    return root


@pytest.fixture
def arguments(scenes, tiny_llava_folder, tiny_sam_folder):
    words = ["--model", str(tiny_llava_folder), "--sam", str(tiny_sam_folder), "--data-root", str(scenes)]
    words += ["--samples", "5", "--batch-size", "2", "--decoding", "plain", "--rounds", "1"]
    return [*words, "--max-new-tokens", "12", "--device", "cpu"]


@pytest.fixture
def ways(arguments, tmp_path):
    parsed = evaluation.parse(arguments)
    samples = evaluation.read_samples(parsed, tmp_path)
    return evaluation.make_ways(parsed, samples), samples


def test_the_plain_way_leaves_four_pictures_of_full_size_for_every_sentence(ways, tmp_path):
    found, samples = ways
    run = found[evaluation.PLAIN](samples, tmp_path / "run")
    pictures = [evaluation.load_image(path) for path in (tmp_path / "run").rglob("*.png")]
    assert len(pictures) == 4 * len(samples) == 20
    assert {picture.size for picture in pictures} == {sample.size_hw[::-1] for sample in samples}
    assert sorted(run.steps) == ["decode", "generate", "refine", "save", "score"]


def test_both_ways_get_the_same_answers(ways, tmp_path):
    found, samples = ways
    runs = [way(samples, tmp_path / str(number)) for number, way in enumerate(found.values())]
    assert runs[0].answers == runs[1].answers and len(runs[0].answers) == 5
    assert runs[0].invalid == runs[1].invalid == 5


def test_the_plain_way_embeds_an_image_again_in_every_pass_and_ours_once(ways, tmp_path, monkeypatch):
    found, samples = ways
    plain, ours = found.values()
    model, calls = plain.refiner.sam.model, []
    embed = model.get_image_embeddings
    monkeypatch.setattr(model, "get_image_embeddings", lambda pixels: calls.append(1) or embed(pixels))
    images = len({sample.image_path for sample in samples})
    for number in range(2):
        plain(samples, tmp_path / str(number))
    assert len(calls) == 2 * images
    square = np.ones((1, *samples[0].size_hw), dtype=bool)
    for _ in range(2):
        ours.refiner.refine(evaluation.load_image(samples[0].image_path), square)
    assert len(calls) == 2 * images + 1


def test_scores_read_back_from_pictures_are_those_of_the_masks(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.random((6, 3, 9, 7)) < 0.4
    masks[5] = False
    totals = {"coarse": RegionScores(), "refined": RegionScores()}
    for number, three in enumerate(masks):
        folder = tmp_path / str(number % 2)
        evaluation.save_pictures(folder, number, Image.new("RGB", (7, 9)), tuple(three))
        for place, stage in enumerate(totals):
            totals[stage].update(overlap(three[place], three[2]))
    scores = evaluation.score_pictures(tmp_path)
    for stage, total in totals.items():
        expected = total.compute()
        assert scores[stage] == pytest.approx((expected["cIoU"], expected["gIoU"]))


def test_refining_keeps_an_empty_mask_and_takes_three_passes_for_another():
    passes = []

    def decode(embedded, *, logits, prompts, count):
        passes.append(logits)
        return logits[:, None] + 1

    sam = SimpleNamespace(
        prompt_side=16,
        kind=SimpleNamespace(keep_aspect=True),
        sparse=lambda size, points: {"points": points},
        tensor=lambda array: array,
        decode=decode,
        full_size=lambda embedded, logits: logits > 0,
    )
    embedded, rng = SimpleNamespace(size_hw=(8, 8)), np.random.default_rng(0)
    blank = np.zeros((8, 8), dtype=bool)
    assert not evaluation.refine(sam, embedded, blank, rng).any() and not passes
    evaluation.refine(sam, embedded, np.eye(8, dtype=bool), rng)
    assert len(passes) == evaluation.PASSES


def test_the_tables_compare_medians_with_the_plain_way():
    def run(clock, text):
        scores = dict.fromkeys(("coarse", "refined"), (0.5, 0.25))
        return evaluation.Run(clock, clock / 2, {"a": text, "b": "same"}, scores, {"generate": clock / 4}, 1)

    found = {evaluation.PLAIN: [run(8.0, "x"), run(4.0, "x"), run(4.0, "x")], "ours": [run(1.0, "y")] * 3}
    lines = evaluation.speed_table(found, 2).splitlines()
    assert lines[2] == "| plain way | 0.50 | 1.0 | 1.00 | 1.0 | 100.0 % | 50.0 % | 50.0 | 50.0 |"
    assert lines[3] == "| ours | 2.00 | 4.0 | 4.00 | 4.0 | 50.0 % | 50.0 % | 50.0 | 50.0 |"
    assert evaluation.step_table(found, 2).splitlines()[2:] == [
        "| plain way | 500.0 | 1500.0 |",
        "| ours | 125.0 | 375.0 |",
    ]


def test_ways_take_turns_at_going_first(ways):
    _, samples = ways
    order = []

    def way(name):
        return lambda samples, folder: order.append(name) or evaluation.Run()

    found = evaluation.measure({name: way(name) for name in "abc"}, samples, rounds=3)
    assert "".join(order) == "abcbcacab" and all(len(runs) == 3 for runs in found.values())


def test_the_command_prints_both_tables(arguments, capsys):
    evaluation.main(arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows if "---" not in row] == [
        "| way",
        "| plain way",
        "| ours, batches of 2, plain",
        "| ms a sentence",
        "| plain way",
        "| ours, batches of 2, plain",
    ]
