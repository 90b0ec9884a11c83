"""What a run shows of itself: steps.jsonl, the status line, TensorBoard, pictures of answers."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_llava, tiny_settings
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train import assert_identical, command, record
from transformers import TrainerControl, TrainerState, TrainingArguments

from llava.data.records import write_records
from llava.model.checkpoint import Checkpoint
from llava.model.text_mask import TextMaskSegmenter
from llava.train.dataset import ConversationDataset
from llava.train.preview import (
    Example,
    answer_examples,
    choose_examples,
    example_of,
    preview_sheet,
    text_picture,
)
from llava.train.progress import Status, append_line, keep_until
from llava.train.train import prepare, train
from llava.types import Prediction

PLAIN = ("--max_steps", "3", "--lora_dropout", "0.5", "--gradient_accumulation_steps", "2")
SHOWN = ("--preview_steps", "2", "--preview_samples", "3", "--report_to", "tensorboard")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with eight records of different lengths, two of them without an image."""
    folder = tmp_path_factory.mktemp("progress")
    (folder / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (30, 20), (40 * number, 90, 200)).save(folder / "images" / f"{number}.png")
    records = [record(number, with_image=number < 6) for number in range(8)]
    for number, each in enumerate(records):
        each["conversations"][0]["value"] += " Tell me." * number
    write_records(folder / "train.json", records)
    return folder


@pytest.fixture(scope="module")
def shown(data, tiny_llava_folder):
    """Trainer of a run that shows all it can."""
    words = command(tiny_llava_folder, data, data / "shown", *PLAIN, *SHOWN)
    return train(prepare([*words, "--gradient_checkpointing", "True"]))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_says_its_samples_tokens_and_padding(data, shown):
    lines = lines_of(data / "shown" / "steps.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    losses = [entry["loss"] for entry in shown.state.log_history if "loss" in entry]
    assert [line["loss"] for line in lines] == losses and len(losses) == 3
    order = list(shown._order)
    lengths = [abs(length) for length in shown.lengths]
    assert shown._order.epoch == 1 and lines[2]["samples"] == order[:4]
    assert sorted(lines[0]["samples"] + lines[1]["samples"]) == list(range(8))
    for line in lines:
        rows = [lengths[number % 8] for number in line["samples"]]
        places = 2 * max(rows[:2]) + 2 * max(rows[2:])
        assert line["tokens"] == sum(rows)
        assert line["padding_share"] == pytest.approx(1 - sum(rows) / places, abs=1e-6)


def test_tensorboard_holds_what_the_log_says(data, shown):
    (folder,) = (data / "shown" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "padding_share"):
        written = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        logged = [(entry["step"], entry[name]) for entry in shown.state.log_history if name in entry]
        assert written == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged]
        assert len(written) == 3
    previews = lines_of(data / "shown" / "previews.jsonl")
    for name in ("preview_iou", "preview_invalid_share"):
        written = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert written == [(line["step"], pytest.approx(line[name])) for line in previews] != []


def test_a_sheet_of_answers_is_drawn_every_so_many_steps(data, shown):
    (line,) = lines_of(data / "shown" / "previews.jsonl")
    assert line["step"] == 2 and len(line["answers"]) == 3
    assert line["preview_invalid_share"] == 1.0 and all(answer["faults"] for answer in line["answers"])
    assert [path.name for path in (data / "shown" / "previews").iterdir()] == ["step-000002.png"]
    with Image.open(data / "shown" / "previews" / "step-000002.png") as sheet:
        assert sheet.size[0] > 4 * 288 and len(sheet.getcolors(1 << 20)) > 10


def test_looking_changes_no_weight(data, shown, tiny_llava_folder):
    train(prepare(command(tiny_llava_folder, data, data / "plain", *PLAIN)))
    assert_identical(data / "plain", data / "shown")


@pytest.mark.slow
def test_previews_are_made_in_half_precision(data, tiny_llava_folder):
    words = command(tiny_llava_folder, data, data / "half", *PLAIN, *SHOWN[:2], "--bf16", "True")
    train(prepare(words))
    assert len(lines_of(data / "half" / "previews.jsonl")) == 1


def dataset(data, records=None):
    records = json.loads((data / "train.json").read_text()) if records is None else records
    return ConversationDataset(records, data, processor=tiny_llava()[1], settings=tiny_settings())


def test_examples_are_the_same_every_time_and_have_images_and_masks(data):
    chosen = [
        [each.id for each in choose_examples(dataset(data), 4, seed=seed, path=None)] for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 4
    assert {"r6", "r7"}.isdisjoint(chosen[0] + chosen[2])
    given = choose_examples(dataset(data), 2, seed=1, path=str(data / "train.json"))
    assert [each.id for each in given] == ["r0", "r1"]
    assert (
        given[0].question == "Where is it?"
        and given[0].target.shape == (20, 30)
        and given[0].target[:5].all()
        and not given[0].target[10:].any()
    )


def test_nothing_to_show_is_refused_before_training(data):
    with pytest.raises(ValueError, match="training data has no record with an image and a mask to show"):
        choose_examples(dataset(data, [record(1, with_image=False)]), 2, seed=0, path=None)


def test_wrong_previews_are_refused_with_all_other_problems(data, tiny_llava_folder):
    words = command(
        tiny_llava_folder, data, data / "no", "--preview_samples", "0", "--preview_data", "nowhere.json"
    )
    with pytest.raises(
        ValueError, match=r"(?s)--preview_samples 0: must be .*nowhere.json: no such record file"
    ):
        prepare(words)


def test_iou_and_faults_of_an_answer_are_those_of_its_text(data, monkeypatch):
    model, processor = tiny_llava()
    checkpoint = Checkpoint(model.train(), processor, tiny_settings(), data)
    examples = choose_examples(dataset(data), 2, seed=0, path=str(data / "train.json"))
    texts = [examples[0].answer, "I see nothing."]

    def segment(self, queries):
        assert not model.training and [query.question for query in queries] == [
            each.question for each in examples
        ]
        masks = [examples[0].target[None, None], np.zeros((1, 1, 20, 30), bool)]
        return [
            Prediction(mask, np.array([False]), text, ("fault",) * (text != texts[0]))
            for mask, text in zip(masks, texts, strict=True)
        ]

    monkeypatch.setattr(TextMaskSegmenter, "segment", segment)
    right, wrong = answer_examples(examples, checkpoint)
    assert model.training
    assert (right.iou, right.faults) == (1.0, ()) and (wrong.iou, wrong.faults) == (0.0, ("fault",))
    assert np.array_equal(right.mask, examples[0].target) and not wrong.mask.any()


def test_a_long_text_is_cut_to_its_picture():
    short, long = (np.asarray(text_picture("dog *4\n" * lines, 100)) for lines in (2, 200))
    assert short.shape == long.shape == (100, 100, 3)
    assert (short[40:] == 255).all() and not (long[40:] == 255).all()


def test_lines_behind_the_step_and_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "steps.jsonl"
    keep_until(path, 3)
    assert not path.exists()
    for step in (1, 2, 3):
        append_line(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    keep_until(path, 2)
    assert lines_of(path) == [{"step": 1}, {"step": 2}]


def test_a_terminal_shows_one_bar_and_a_log_file_one_line_for_each_step(monkeypatch, capsys, tmp_path):
    state = TrainerState(global_step=4, max_steps=8, is_world_process_zero=True)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    logs = {"loss": 0.5, "learning_rate": 1e-3, "tokens_per_second": 1234.0}
    for on_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda on_terminal=on_terminal: on_terminal, raising=False)
        status = Status()
        status.on_train_begin(arguments, state, TrainerControl())
        state.global_step = 5
        status.on_step_end(arguments, state, TrainerControl())
        status.on_log(arguments, state, TrainerControl(), logs)
        status.on_train_end(arguments, state, TrainerControl())
        out, err = capsys.readouterr()
        seen, unseen = (err, out) if on_terminal else (out, err)
        assert "loss 0.5000" in seen and "1234 tokens/s" in seen and "min left" in seen and unseen == ""
        assert ("training 5/8" if on_terminal else "step 5/8") in seen


def test_a_record_without_a_mask_is_no_example(data):
    assert example_of(record(1, with_image=False), data, tiny_settings()) is None
    example = example_of(record(1), data, tiny_settings())
    assert isinstance(example, Example) and example.target.shape == (20, 30)
    model, processor = tiny_llava()
    with torch.no_grad():
        said = answer_examples([example], Checkpoint(model, processor, tiny_settings(), data))
    assert preview_sheet([example], said).mode == "RGB"
