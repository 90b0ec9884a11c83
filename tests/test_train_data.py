import json
import logging

import numpy as np
import pytest
import torch
import yaml
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from conftest import TINY_GRID, tiny_llava, tiny_settings
from PIL import Image
from test_train import assert_identical, command, kill_at, record  # noqa: F401 - kill_at is a fixture
from torch.utils.data import DataLoader
from transformers import TrainerState

from llava.data.annotated import AnnotatedImage, Target
from llava.data.draw import DrawSettings
from llava.data.mixture import MixtureDataset
from llava.data.mixture_file import open_mixture
from llava.data.record_files import write_records
from llava.data.rle import encode_mask
from llava.data.store import write_store
from llava.train.arguments import parse
from llava.train.data import Estimates, MixtureSamples, measure
from llava.train.dataset import ConversationDataset, image_features, open_image, text_features, token_lengths
from llava.train.show_labels import main as show_labels
from llava.train.train import prepare, train
from llava.train.trainer import EpochStart, SampleOrder, sample_order

SIZE_HW = (20, 30)
NAMES = ("red square", "the blue thing on a table", "a left one")


def image(number, height=10, name=None):
    """Image with one target of `height` rows."""
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[:height, 5:25] = True
    names = (name,) if name else NAMES
    target = Target(f"t{number}", names, encode_mask(mask))
    path = f"images/{number % 8}.png"
    return AnnotatedImage(f"refcoco|{number}", "refcoco", "referring", path, SIZE_HW, (target,))


@pytest.fixture
def data(tmp_path, picture, monkeypatch):
    """Folder with eight images, the store "refs", "talk.json" without images, and "mix.yaml" of both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(8):
        picture(SIZE_HW[1], SIZE_HW[0], seed=number).save(tmp_path / "images" / f"{number}.png")
    write_store([image(number) for number in range(8)], tmp_path / "refs", about={"split": "train"})
    write_records(tmp_path / "talk.json", [record(number, with_image=False) for number in range(4)])
    datasets = [{"store": "refs", "draw": {"flip": 0.5}}, {"records": "talk.json", "repeat": 0.5}]
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": datasets}))
    return tmp_path


def mixed_command(base, data, output, *more, path="mix.yaml"):
    words = command(base, data, output, *more)
    words[words.index("--data_path") + 1] = str(path)
    return words


def samples_of(data, paths, *, limit=500, policy="skip", **settings):
    draws = MixtureDataset(open_mixture(paths), DrawSettings(grid_hw=TINY_GRID, **settings), 0)
    return MixtureSamples(
        draws, data, processor=tiny_llava()[1], settings=tiny_settings(), limit=limit, policy=policy
    )


def test_a_sample_is_the_record_of_its_epoch(data):
    samples = samples_of(data, ["mix.yaml"])
    assert len(samples) == 10
    for number, (epoch, index) in {3: (0, 3), 23: (2, 3), 9: (0, 9)}.items():
        expected = samples.draws.record(epoch, index)
        features = samples[number]
        words = text_features(expected, samples.processor, samples.settings)
        assert torch.equal(features["input_ids"], words["input_ids"])
        assert ("pixel_values" in features) == ("image" in expected) == (index < 8)
    fixed = ConversationDataset(
        [record(0, False), record(1, False)], data, processor=samples.processor, settings=tiny_settings()
    )
    assert torch.equal(fixed[0]["labels"], fixed[2 * 7]["labels"])


def test_an_image_is_cropped_and_then_mirrored(data):
    pixels = np.asarray(Image.open(data / "images" / "0.png").convert("RGB"))
    shown = open_image(data / "images" / "0.png", crop=(2, 3, 12, 13), flip=True)
    assert np.array_equal(np.asarray(shown), pixels[3:13, 2:12][:, ::-1])
    processor, settings = tiny_llava()[1], tiny_settings()
    plain = {"image": "images/0.png"}
    mirrored = image_features({**plain, "flip": True}, data, processor, settings)["pixel_values"]
    assert torch.allclose(
        mirrored, image_features(plain, data, processor, settings)["pixel_values"].flip(-1), atol=0.02
    )
    assert image_features({"id": 1}, data, processor, settings) == {}


def test_too_long_draws_give_way_to_others_and_are_counted(data):
    short, long = image(0, name="dog"), image(1, name="dog and a very long story about it " * 3)
    write_store([short, long], data / "two", about={})
    samples = samples_of(data, ["two"], limit=300)
    ids = {tuple(samples[1 + 2 * epoch]["input_ids"].tolist()) for epoch in range(3)}
    assert all(len(row) <= 300 for row in ids)
    drawn, nothing, too_long = samples._tally.sum(dim=0).tolist()
    assert drawn == 3 and nothing == 0 and too_long >= 3
    assert samples.report() == (
        "3 samples drawn on this process; passed over: 0 draws with nothing to teach, "
        f"{too_long} longer than 300 tokens"
    )
    with pytest.raises(
        ValueError, match=r"record 't1' has \d+ tokens, the longest allowed sample has 300; go on"
    ):
        samples_of(data, ["two"], limit=300, policy="error")[1]
    with pytest.raises(ValueError, match=r"no record like 't\d' is short enough for 9 tokens"):
        samples_of(data, ["two"], limit=9)[1]


def test_draws_of_worker_processes_are_counted_and_the_same(data):
    write_store([image(0, height=1), *(image(number) for number in range(1, 8))], data / "small", about={})
    samples = samples_of(data, ["small"])
    alone = [samples[number]["input_ids"] for number in range(16)]
    own = samples._tally.clone()
    assert own.sum(dim=0)[:2].tolist() == [16, 2]
    loader = DataLoader(
        samples, sampler=range(16), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert all(torch.equal(row["input_ids"], other) for row, other in zip(loader, alone, strict=True))
    assert (samples._tally - own).sum(dim=0).tolist() == own.sum(dim=0).tolist()
    assert (samples._tally - own)[1:3, 0].tolist() == [8, 8]


def test_estimates_follow_the_true_lengths(data):
    rng = np.random.default_rng(0)
    words = ("red", "the dog", "a person with a green umbrella on the street")
    images = [image(number, height=int(rng.integers(6, 21)), name=words[number % 3]) for number in range(300)]
    write_store(images, data / "many", about={})
    write_records(data / "long.json", [record(0), record(1, False), *(longer(n) for n in range(2, 90))])
    draws = MixtureDataset(open_mixture(["many", "long.json"]), DrawSettings(grid_hw=TINY_GRID), 0)
    processor, settings = tiny_llava()[1], tiny_settings()
    estimates = Estimates(draws, measure(draws, processor, settings), limit=3000)
    assert len(estimates) == 390
    records = [draws.record(3, index) for index in range(390)]
    true = np.array(token_lengths(records, processor, settings))
    shown = np.array(["image" in item for item in records])
    found = estimates(3)
    assert found.dtype == np.int32 and np.array_equal(found > 0, shown)
    assert np.corrcoef(np.abs(found)[:300], true[:300])[0, 1] > 0.95
    assert np.abs(np.abs(found) - true).mean() < 0.1 * true.mean()
    assert np.abs(Estimates(draws, measure(draws, processor, settings), limit=40)(0)).max() == 40


def longer(number):
    turns = [{"from": "human", "value": "Go on."}, {"from": "gpt", "value": "and on " * number}]
    return {"id": number, "conversations": turns}


def test_estimates_of_a_part_are_those_of_its_epoch(data):
    (data / "part.yaml").write_text(yaml.safe_dump({"datasets": [{"records": "long.json", "repeat": 0.5}]}))
    write_records(data / "long.json", [longer(number) for number in range(1, 61)])
    draws = MixtureDataset(open_mixture(["part.yaml"]), DrawSettings(grid_hw=TINY_GRID), 0)
    processor, settings = tiny_llava()[1], tiny_settings()
    estimates = Estimates(draws, measure(draws, processor, settings), limit=3000)
    for epoch in (0, 1):
        true = token_lengths([draws.record(epoch, index) for index in range(30)], processor, settings)
        assert np.abs(estimates(epoch) + np.array(true)).max() <= 2
    assert estimates(0).tolist() != estimates(1).tolist()


def test_the_order_counts_on_through_the_epochs():
    order = SampleOrder([5, 3, -4, 2], global_batch=2, seed=9, grouped=True)
    assert list(order) == sample_order([5, 3, -4, 2], global_batch=2, seed=9, grouped=True)
    order.set_epoch(2)
    later = sample_order([5, 3, -4, 2], global_batch=2, seed=11, grouped=True)
    assert list(order) == [8 + index for index in later] and len(order) == 4


def test_a_resume_within_a_later_epoch_reaches_the_order_of_several_processes():
    order = SampleOrder([1] * 12, global_batch=4, seed=0, grouped=False)
    expected = SampleOrder([1] * 12, global_batch=4, seed=0, grouped=False)
    expected.set_epoch(3)
    loader = prepare_data_loader(
        DataLoader(range(100), sampler=order, batch_size=2),
        num_processes=2,
        process_index=1,
        put_on_device=False,
    )
    resumed = skip_first_batches(loader, 1)
    callback = EpochStart(order.set_epoch, None)
    callback.on_epoch_begin(None, TrainerState(epoch=3.25), None)
    resumed.set_epoch(3)
    own = [batch.tolist() for batch in resumed]
    rows = list(expected)
    assert own == [rows[6:8], rows[10:12]]


def test_a_mixture_trains_and_each_epoch_draws_anew(data, tiny_llava_folder, caplog):
    caplog.set_level(logging.INFO)
    plan = prepare(mixed_command(tiny_llava_folder, data, data / "out", "--max_steps", "6"))
    assert "mixture mix.yaml" in caplog.text and "seed of draws: 42" in caplog.text
    assert "refs: " in caplog.text and "8 measured records" in caplog.text
    trainer = train(plan)
    assert trainer.state.global_step == 6
    assert "passed over: 0 draws with nothing to teach, 0 longer than 512 tokens" in caplog.text
    facts = json.loads((data / "out" / "training.json").read_text())["facts"]
    assert facts["number of records"] == 10 and facts["mixture"][0]["name"] == "refs"
    samples = plan.data.dataset
    assert [samples[n]["input_ids"].tolist() for n in range(8)] != [
        samples[10 + n]["input_ids"].tolist() for n in range(8)
    ]


def test_a_killed_run_on_a_mixture_resumes_in_a_later_epoch_to_bit_identical_weights(
    data,
    tiny_llava_folder,
    kill_at,  # noqa: F811
):
    more = ("--max_steps", "9", "--dataloader_num_workers", "1")
    train(prepare(mixed_command(tiny_llava_folder, data, data / "whole", *more)))
    kill_at(7)
    with pytest.raises(KeyboardInterrupt):
        train(prepare(mixed_command(tiny_llava_folder, data, data / "killed", *more)))
    train(prepare(mixed_command(tiny_llava_folder, data, data / "killed", *more, "--resume")))
    assert_identical(data / "killed", data / "whole")


def test_a_resume_with_another_mixture_is_refused(data, tiny_llava_folder):
    train(prepare(mixed_command(tiny_llava_folder, data, data / "out", "--max_steps", "2")))
    (data / "mix.yaml").write_text(yaml.safe_dump({"datasets": [{"store": "refs", "repeat": 2}]}))
    with pytest.raises(ValueError, match=r"(?s)started otherwise.*mixture was .*'per epoch': 8.* is "):
        prepare(mixed_command(tiny_llava_folder, data, data / "out", "--max_steps", "2", "--resume"))


def test_missing_images_of_a_store_are_named_before_training(data, tiny_llava_folder):
    (data / "images" / "5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 8 images not found, first .*5.png; --image_folder"):
        prepare(mixed_command(tiny_llava_folder, data, data / "out"))


def test_too_long_records_of_a_store_stop_the_run_before_training(data, tiny_llava_folder):
    words = mixed_command(tiny_llava_folder, data, data / "out", "--model_max_length", "100")
    with pytest.raises(ValueError, match=r"refs: 8 of 8 measured records are longer than 100 tokens"):
        prepare([*words, "--long_samples", "skip"])
    words[-1] = "300"
    with pytest.raises(
        ValueError, match=r"refs: \d of 8 measured .* the longest has \d+; set --model_max_length"
    ):
        prepare(words)
    plan = prepare([*words, "--long_samples", "skip"])
    assert "longer than 300" in plan.data.note


def test_records_of_another_codec_inside_a_mixture_are_refused(data, tiny_llava_folder):
    write_records(data / "fixed.json", [record(number) for number in range(8)])
    words = mixed_command(tiny_llava_folder, data, data / "out", path="fixed.json")
    place = words.index("--data_path") + 2
    words[place:place] = [str(data / "refs")]
    prepare(words)
    with pytest.raises(ValueError, match=r"fixed.json: an answer of record 'r0' does not read as 'full'"):
        prepare([*words, "--codec", "full"])


def test_data_paths_that_are_no_data_are_named(data, tiny_llava_folder):
    with pytest.raises(ValueError, match="images is a folder and no store; give a record file, a mixture or"):
        parse(mixed_command(tiny_llava_folder, data, data / "out", path="images"))
    with pytest.raises(ValueError, match=r"--data_path none.yaml not found"):
        parse(mixed_command(tiny_llava_folder, data, data / "out", path="none.yaml"))


def test_labels_of_drawn_records_can_be_looked_at(data, tiny_llava_folder, capsys):
    words = ["--model_name_or_path", str(tiny_llava_folder), "--image_folder", str(data)]
    show_labels([*words, "--data_path", "mix.yaml", "--count", "10"])
    shown = capsys.readouterr().out
    assert "mixture mix.yaml" in shown and shown.count("tokens supervised") == 10
    assert "30x20 pixels, mirrored" in shown and "without image" in shown
