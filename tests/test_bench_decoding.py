"""The measurement of decoding: known counts of passes, and scripted models that write their script."""

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_llava, tiny_settings, tiny_tokenizer
from refer_folder import SQUARE, annotation, ref, write_dataset
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts" / "bench"), str(ROOT / "scripts")]

pytest.importorskip("llguidance")

import decoding  # noqa: E402
import passes_figure  # noqa: E402
import replay  # noqa: E402
import scripted  # noqa: E402

from llava.codec import encode, mask_answer, read_answer  # noqa: E402
from llava.data.readers.refer import read_refer  # noqa: E402
from llava.model.checkpoint import Checkpoint  # noqa: E402
from llava.model.decoding.hints import hints_for  # noqa: E402
from llava.model.text_mask import TextMaskSegmenter  # noqa: E402
from llava.pictures import REFINED  # noqa: E402
from llava.settings import SegmentationSettings  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SENTENCE = "Sure, here is the segmentation mask for 'red square':"


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path, [ref(1, 1, ["the red square", "box"])], [annotation(1, [SQUARE])])


@pytest.fixture
def samples(root):
    found = read_refer(root, "refcoco|val", check_images=False)
    assert len(found) == 2
    return found


def answer_ids(answers, grid, sentence):
    return answers.ids(mask_answer(sentence, encode(np.array(grid), ("others", "red square"))))


def test_an_answer_of_equal_rows_takes_a_pass_for_the_sentence_and_some_for_the_first_row():
    answers = replay.Answers(tiny_tokenizer(), 4)
    truth = answer_ids(answers, [[0, 1, 1, 0]] * 4, SENTENCE)
    stats = replay.replay(answers.language, hints_for("red square", (4, 4), lead=" "), truth, "fast")
    # The prompt and its sentence, up to the 1 instead of the 4; the width of the region; all other rows.
    assert stats["passes"] == 3 and stats["tokens"] == len(truth)


def test_constrained_replay_takes_a_pass_for_each_token():
    answers = replay.Answers(tiny_tokenizer(), 4)
    truth = answer_ids(answers, np.eye(4, dtype=int), "Here:")
    stats = replay.replay(answers.language, hints_for("red square", (4, 4), lead=" "), truth, "constrained")
    assert stats["passes"] == stats["tokens"] == len(truth)


def test_an_answer_that_the_grammar_forbids_is_no_replay():
    answers = replay.Answers(tiny_tokenizer(), 4)
    truth = answers.ids("Here:\n<seg>others *5\n</seg>")
    with pytest.raises(ValueError, match="does not allow the answer ' Here"):
        replay.replay(answers.language, hints_for("dog", (4, 4)), truth, "fast")


def test_prompt_lookup_takes_what_followed_the_first_earlier_place():
    assert replay.lookup_passes([1, 2], [3, 4, 5, 6]) == 4
    # "7 8" stood in the prompt with 9 behind; so did 9 with 1 2: one pass for 7, for 8, and for the rest.
    assert replay.lookup_passes([7, 8, 9, 1, 2], [7, 8, 9, 1, 2]) == 2
    # The guess 9 behind the first 8 is wrong; the pass that shows it gives the right token.
    assert replay.lookup_passes([7, 8, 9], [7, 8, 5, 6]) == 3


def test_prompt_lookup_is_counted_as_transformers_counts_it_where_that_is_right():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    passes, rng = [], np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()

    def follow(_model, _args, output):
        length, count = output.past_key_values.get_seq_length(), output.logits.shape[1]
        passes.append(count)
        wanted = [whole[min(place, len(whole) - 1)] for place in range(length - count + 1, length + 1)]
        output.logits.zero_()
        output.logits[0, range(count), wanted] = 1.0

    model.register_forward_hook(follow)
    for _ in range(4):
        whole = [*rng.integers(3, 7, 40).tolist(), 2]
        passes.clear()
        text = model.generate(
            torch.tensor([whole[:10]]),
            do_sample=False,
            max_new_tokens=99,
            eos_token_id=2,
            pad_token_id=0,
            prompt_lookup_num_tokens=replay.LOOKED_UP,
        )
        assert text[0].tolist() == whole
        assert len(passes) == replay.lookup_passes(whole[:10], whole[10:]) < 31


def test_a_row_of_the_table_has_means_over_whole_answers_and_masks(samples):
    row = replay.measure("squares", samples, replay.Answers(tiny_tokenizer(), 4), "tiny")
    assert row.answers == 2 and row.passes["full"] > row.passes["plain"] > row.passes["fast"]
    assert row.passes["plain"] >= row.passes["forced"] and row.passes["plain"] >= row.passes["lookup"]
    assert row.mask_passes["plain"] < row.passes["plain"]
    cells = replay.table([row]).splitlines()[2].split("|")
    assert cells[1].strip() == "squares (2)"
    assert cells[9].strip() == f"{row.passes['plain'] / row.passes['fast']:.1f}x"


def test_bricks_are_replayed_with_tokens_of_their_own(samples):
    answers = replay.Answers(tiny_tokenizer(), 8, "bricks")
    row = replay.measure("squares", samples, answers, "tiny")
    image_wise = replay.measure("squares", samples, replay.Answers(tiny_tokenizer(), 8), "tiny")
    assert row.passes["full"] > row.passes["plain"] > row.passes["forced"] > row.passes["fast"]
    assert row.mask_passes["plain"] < image_wise.mask_passes["plain"]


def test_samples_are_spread_evenly(samples):
    assert replay.spread(list(range(10)), 3) == [0, 3, 6]
    assert replay.spread(samples, 0) == samples


def scripted_checkpoint(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return scripted.scripted(
        "tiny", tmp_path / "tokenizer", 4, device=torch.device("cpu"), dtype=torch.float32
    )


def test_every_way_writes_the_script_in_its_number_of_passes(tmp_path, samples):
    checkpoint, script = scripted_checkpoint(tmp_path)
    ways = decoding.segmenters(checkpoint, with_full=True)
    found = decoding.measure(ways, samples[:1], prepare=decoding.follow(script, checkpoint))
    (plain,) = found["plain"].texts
    answer = read_answer(plain, (4, 4))
    assert plain.startswith("Sure, here is the segmentation mask for 'the red square':") and not answer.faults
    assert {name: one.texts == [plain] for name, one in found.items()} == {
        "full": False,
        "plain": True,
        "constrained": True,
        "forced": True,
        "fast": True,
    }
    assert found["plain"].passes == found["constrained"].passes == found["plain"].tokens
    assert found["fast"].passes < found["plain"].passes / 3
    assert (read_answer(found["full"].texts[0], (4, 4), codec="full").foreground == answer.foreground).all()
    found["lookup"] = decoding.looked_up(found["plain"], samples[:1], checkpoint.processor.tokenizer)
    rows = {row.way: row for row in decoding.lines(checkpoint, found)}
    assert rows["plain"].less_time == 1 and rows["fast"].less_time > 0
    assert rows["fast"].equal == 1 and rows["lookup"].seconds is None and decoding.kept(found) == (1, 1)
    assert len(decoding.table(list(rows.values())).splitlines()) == 2 + len(found)


@pytest.mark.parametrize("way", ["full", "plain", "constrained", "fast"])
def test_each_way_follows_a_new_script_behind_a_prompt_of_another_length(tmp_path, samples, way):
    checkpoint, script = scripted_checkpoint(tmp_path)
    found = decoding.measure(
        {way: decoding.segmenters(checkpoint, with_full=True)[way]},
        samples,
        prepare=decoding.follow(script, checkpoint),
    )
    assert [len(text) for text in found[way].texts] != 2 * [len(found[way].texts[0])]
    for text, sample in zip(found[way].texts, samples, strict=True):
        assert sample.expression in text and text.endswith("</seg>")
    assert found[way].faulty == [False, False]


def test_time_is_compared_answer_by_answer():
    slow, quick = (
        decoding.Measured(texts=["a"] * 3, faulty=[False] * 3, seconds=seconds, passes=3)
        for seconds in ([2.0, 30.0, 4.0], [1.0, 3.0, 1.0])
    )
    checkpoint = Checkpoint(None, None, tiny_settings(), Path("runs/tiny"))
    rows = {row.way: row for row in decoding.lines(checkpoint, {"plain": slow, "constrained": quick})}
    assert rows["constrained"].seconds == 1 and rows["constrained"].less_time == 4
    assert "| 4.0x |" in decoding.table(list(rows.values()))


def test_a_script_is_for_one_answer_at_a_time():
    model, _ = tiny_llava()
    scripted.Script(model).set([1, 2])
    with pytest.raises(ValueError, match="2 answers in a pass; a script is for one"):
        model(input_ids=torch.ones(2, 3, dtype=torch.long), attention_mask=torch.ones(2, 3, dtype=torch.long))


def test_a_model_is_measured_as_it_is(samples):
    model, processor = tiny_llava()
    checkpoint = Checkpoint(model, processor, tiny_settings(), Path("tiny"))
    ways = {
        name: TextMaskSegmenter(checkpoint, decoding=name, max_new_tokens=8)
        for name in ("plain", "constrained", "fast")
    }
    found = decoding.measure(ways, samples, batch=2)
    assert found["fast"].texts == found["constrained"].texts and len(found["plain"].texts) == 2
    assert found["plain"].faulty == [True, True], "a random model writes no mask"


def test_models_stand_below_each_other_in_one_table(tiny_llava_folder, root, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "TextMaskSegmenter", partial(TextMaskSegmenter, max_new_tokens=4))
    paths = 2 * ["--model-path", str(tiny_llava_folder)]
    decoding.main([str(root), "--split", "refcoco/val", *paths, "--limit", "1", "--device", "cpu"])
    _, told, rows = capsys.readouterr().out.split("\n\n")
    assert told.count(f"- {tiny_llava_folder}, float32: of 0 answers that are valid when plain") == 2
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()[2:]]
    assert [row[2] for row in cells] == 2 * ["plain", "lookup", "constrained", "forced", "fast"]
    # All but the times are the same.
    assert [row[:6] + row[8:] for row in cells[:5]] == [row[:6] + row[8:] for row in cells[5:]]
    assert [row[-1] for row in cells[2:5]] == 3 * ["100 %"]


def test_a_folder_that_is_no_checkpoint_is_refused_before_any_is_loaded(tiny_llava_folder, root, tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = ["--model-path", str(tiny_llava_folder), "--model-path", str(tmp_path / "empty")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(FileNotFoundError, match="empty"):
        patch.setattr(decoding, "load_checkpoint", lambda *_args, **_more: pytest.fail("loaded"))
        decoding.main([str(root), "--split", "refcoco/val", *wrong])


@pytest.mark.parametrize(
    "wrong", [[], ["--model-path", "x", "--scripted", "tiny"], ["--scripted", "tiny", "--batch", "2"]]
)
def test_contradicting_sources_of_answers_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        decoding.parse(["data", "--split", "refcoco/val", *wrong])
    assert "--scripted" in capsys.readouterr().err


def test_the_figure_draws_fast_decoding_as_long_as_it_is(samples):
    row = asdict(replay.measure("squares", samples, replay.Answers(tiny_tokenizer(), 4), "tiny"))
    row["passes"] |= {"full": 100.0, "fast": 50.0}
    pixels = np.asarray(passes_figure.figure([row]))
    blue = (pixels == REFINED).all(-1).any(0).sum()
    room = passes_figure.WIDTH - passes_figure.LEFT - passes_figure.RIGHT
    assert abs(blue - room / 2) <= 1
    with pytest.raises(ValueError, match="needed are those of one set and one tokenizer"):
        passes_figure.figure([row, row | {"tokenizer": "other"}])


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["llama2", "qwen"])
def test_real_masks_take_a_tenth_of_the_passes(name):
    import real_tokenizers

    folder = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    samples = replay.spread(read_refer(folder, "refcoco|val", check_images=False), 8)
    row = replay.measure("real", samples, replay.Answers(getattr(real_tokenizers, name)(), 16), name)
    assert row.passes["plain"] / row.passes["fast"] > 10
    assert row.mask_passes["plain"] / row.mask_passes["fast"] > 8


def test_settings_of_a_scripted_model_have_its_grid(tmp_path):
    assert scripted_checkpoint(tmp_path)[0].settings == SegmentationSettings(grid_hw=(4, 4))
