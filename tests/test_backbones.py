"""Every family of models through the same entry: records, training, saving, loading, asking."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_GRID
from tiny_backbones import FAMILIES, SIDE, tiny
from tokenizers import AddedToken

from llava.constants import IGNORE_INDEX
from llava.data.records import write_records
from llava.model.backbones import BACKBONES, backbone_of, backbone_of_processor
from llava.model.checkpoint import load_base, load_checkpoint, load_processor
from llava.model.text_mask import TextMaskSegmenter
from llava.model.weights import PROJECTOR_WEIGHTS, read_weights
from llava.train.batch import Collator
from llava.train.dataset import ConversationDataset, token_lengths
from llava.train.train import prepare, train
from llava.types import Query

QUICK = ("qwen2_vl", "internvl")
TRAINED = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in FAMILIES]
WEIGHED = [
    pytest.param(name, marks=() if name == "qwen2_5_vl" else pytest.mark.slow, id=name) for name in FAMILIES
]
SHAPES = [(30, 20), (20, 33), (48, 16), (9, 9)]


def record(number):
    """A record whose mask is one row of the grid; the last has neither image nor mask."""
    rows, columns = TINY_GRID
    mask = "\n ".join(f"{'red square' if row == number else 'others'} *{columns}" for row in range(rows))
    turns = ["<image>\nWhere is it?", f"Here:\n<seg>{mask}\n</seg>", "And now?", "No."]
    image = {"image": f"{number}.png", "height": rows, "width": columns}
    if number == len(SHAPES):
        turns, image = ["Hello?", "Hi."], {}
    roles = ("human", "gpt", "human", "gpt")
    conversation = [{"from": role, "value": text} for role, text in zip(roles, turns, strict=False)]
    return {"id": f"r{number}", **image, "conversations": conversation}


RECORDS = [record(number) for number in range(len(SHAPES) + 1)]


@pytest.fixture
def images(tmp_path, picture):
    """Folder with images of several shapes."""
    for number, (width, height) in enumerate(SHAPES):
        picture(width, height, seed=number).save(tmp_path / f"{number}.png")
    return tmp_path


def saved(name, folder):
    """Base folder of a tiny model of that family."""
    model, processor, settings = tiny(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    settings.save(folder)
    return folder


def features_of(name, images):
    """(model, dataset) of the records."""
    model, processor, settings = tiny(name)
    return model, ConversationDataset(RECORDS, images, processor=processor, settings=settings)


def trained(base, images, output, **more):
    """Trainer of a run over the records in `train.json` beside the base."""
    flags = {"model_name_or_path": base, "data_path": base.parent / "train.json", "image_folder": images}
    flags |= {"output_dir": output, "max_steps": 2, "lora_r": 4, "learning_rate": 1e-2, "use_cpu": True}
    flags |= {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 1}
    flags |= {"dataloader_num_workers": 0, "mm_projector_lr": 1e-3} | more
    return train(prepare([word for flag, value in flags.items() for word in (f"--{flag}", str(value))]))


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_of_training_save_load_and_answer(name, images, tmp_path):
    base, output = saved(name, tmp_path / "base"), tmp_path / "run"
    write_records(tmp_path / "train.json", RECORDS)
    model = trained(base, images, output).model
    checkpoint = load_checkpoint(output)
    dataset = ConversationDataset(
        RECORDS, images, processor=checkpoint.processor, settings=checkpoint.settings
    )
    batch = Collator(0)([dataset[index] for index in range(len(RECORDS))])
    with torch.no_grad():
        expected, found = model.eval()(**batch), checkpoint.model(**batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    before = load_base(base).model.get_submodule(BACKBONES[name].projector).state_dict()
    after = read_weights(output / PROJECTOR_WEIGHTS)
    assert after.keys() == before.keys() and any(not torch.equal(after[key], before[key]) for key in before)
    assert any(weight.abs().max() > 0 for key, weight in model.named_parameters() if "lora_B" in key)

    segmenter = TextMaskSegmenter(checkpoint, max_new_tokens=12)
    queries = [
        Query([dataset_image(images, number)], ["it", "that"][: 1 + number % 2]) for number in range(3)
    ]
    together = segmenter.segment(queries)
    alone = [segmenter.segment([query])[0] for query in queries]
    assert [prediction.text for prediction in together] == [prediction.text for prediction in alone]
    assert [prediction.masks.shape for prediction in together] == [
        (1 + number % 2, 1, SHAPES[number][1], SHAPES[number][0]) for number in range(3)
    ]


@pytest.mark.parametrize("name", WEIGHED)
def test_every_token_of_a_step_weighs_the_same_however_its_samples_lie_in_batches(name, images, tmp_path):
    base = saved(name, tmp_path / "base")
    write_records(tmp_path / "train.json", RECORDS)
    losses = []
    for batch, passes in ((5, 1), (1, 5)):
        more = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": passes}
        run = trained(base, images, tmp_path / f"by{batch}", **more, max_steps=1, lora_dropout=0)
        losses += [(line["loss"], line["grad_norm"]) for line in run.state.log_history if "loss" in line]
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def dataset_image(images, number):
    from llava.train.dataset import open_image

    return open_image(images / f"{number}.png")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_holds_as_many_image_tokens_as_the_model_has_features(name, images):
    model, dataset = features_of(name, images)
    lengths = token_lengths(RECORDS, dataset.processor, dataset.settings, images)
    features = [dataset[index] for index in range(len(RECORDS))]
    assert [len(each["input_ids"]) for each in features] == lengths
    batch = Collator(0)(features)
    with torch.no_grad():
        together = model(**batch).logits
        alone = [model(**Collator(0)([each])).logits[0] for each in features]
    for row, logits in zip(together, alone, strict=True):
        torch.testing.assert_close(row[: len(logits)], logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_and_their_stops_are_what_is_supervised(name, images):
    _, dataset = features_of(name, images)
    labels = [label for label in dataset[0]["labels"].tolist() if label >= 0]
    stop = dataset.processor.tokenizer.eos_token
    text = dataset.processor.tokenizer.decode(labels)
    first, second, rest = text.split(stop)
    assert first.strip().startswith("Here:\n<seg>") and first.endswith("</seg>")
    assert (second.strip(), rest) == ("No.", "")


def test_an_answer_that_starts_with_a_newline_is_learnt_without_it(images):
    _, dataset = features_of("qwen2_vl", images)
    words = dataset.processor.tokenizer
    words.add_tokens([AddedToken("\n\n", normalized=False)])  # one token of Qwen's own vocabulary
    plain, odd = record(len(SHAPES)), record(len(SHAPES))
    odd["conversations"][1]["value"] = "\nHi."
    dataset.records = [plain, odd]
    assert torch.equal(dataset[0]["input_ids"], dataset[1]["input_ids"])
    supervised = [token for token in dataset[1]["labels"].tolist() if token != IGNORE_INDEX]
    assert words.decode(supervised) == "Hi.<|im_end|>"


def test_a_record_that_cannot_be_taken_apart_is_named(images):
    _, dataset = features_of("qwen2_vl", images)
    odd = record(len(SHAPES))
    odd["conversations"][1]["value"] = "It is <|image_pad|>."
    dataset.records = [odd]
    with pytest.raises(ValueError, match=r"record 'r4': an answer contains <\|image_pad\|>"):
        dataset[0]


def test_a_record_whose_image_is_too_narrow_for_the_family_is_named(images, picture):
    _, dataset = features_of("qwen2_vl", images)
    picture(1, 300).save(images / "0.png")
    with pytest.raises(ValueError, match=r"record 'r0', image of \(1, 300\) pixels: .*aspect ratio"):
        token_lengths(RECORDS, dataset.processor, dataset.settings, images)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_processor_comes_back_and_tells_its_family(name, tmp_path):
    _, processor, _ = tiny(name)
    saved(name, tmp_path)
    again = load_processor(tmp_path)
    assert backbone_of_processor(again) is backbone_of_processor(processor) is BACKBONES[name]
    assert "Pil" in type(again.image_processor).__name__
    named = json.loads((tmp_path / "processor_config.json").read_text())["processor_class"]
    assert named == type(processor).__name__ == type(processor).__mro__[0].__name__


@pytest.mark.parametrize("name", FAMILIES)
def test_blank_features_pass_through_the_projector(name):
    model, _, _ = tiny(name)
    backbone = BACKBONES[name]
    projector = model.get_submodule(backbone.projector)
    assert projector(backbone.blank_features(projector)).shape == (1, 32)
    assert model.get_submodule(backbone.vision) is not model.get_submodule(backbone.language_model)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("llava_next", "patch_size", 12, "4 tokens for a view, the model has 16 features"),
        ("llava_onevision", "num_image_tokens", 9, "9 tokens for a view, the model has 16 features"),
        ("internvl", "image_seq_length", 16, "16 image tokens, the model has 4 features"),
        ("deepseek_vl", "num_image_tokens", 576, "576 image tokens, the vision tower gives 16 features"),
    ],
)
def test_a_processor_of_another_model_is_refused(name, field, value, message):
    model, processor, settings = tiny(name)
    assert BACKBONES[name].problems(model, processor, settings) == []
    setattr(processor, field, value)
    assert any(message in problem for problem in BACKBONES[name].problems(model, processor, settings))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_an_image_processor_with_other_patches_is_refused(name):
    model, processor, settings = tiny(name)
    processor.image_processor.patch_size = 14
    problems = BACKBONES[name].problems(model, processor, settings)
    assert problems == [
        "the image processor has patch, merge and frame sizes (14, 2, 2), the vision tower (6, 2, 2)"
    ]


def test_tiles_of_another_model_are_refused():
    model, processor, settings = tiny("llava_next")
    processor.image_processor.image_grid_pinpoints = [[336, 672]]
    problems = BACKBONES["llava_next"].problems(model, processor, settings)
    assert ["image_grid_pinpoints" in problem for problem in problems] == [True]


def test_dynamic_images_keep_their_shape_and_squares_are_squashed(picture):
    _, processor, settings = tiny("qwen2_vl")
    backbone, image = BACKBONES["qwen2_vl"], picture(48, 24)
    grid = backbone.image_inputs(image, processor, settings)["image_grid_thw"]
    assert grid.tolist() == [[1, 4, 8]] and backbone.image_tokens((48, 24), processor, settings) == 8
    square = SimpleNamespace(image_side=36, interpolation="bicubic")
    assert backbone.image_inputs(image, processor, square)["image_grid_thw"].tolist() == [[1, 6, 6]]
    assert backbone.image_tokens((48, 24), processor, square) == 9


def test_a_larger_square_gives_more_tiles_of_the_whole_image(picture):
    model, processor, settings = tiny("llava_next")
    backbone, image = BACKBONES["llava_next"], picture(48, 24)
    larger = SimpleNamespace(image_side=2 * SIDE, interpolation="bicubic")
    inputs = backbone.image_inputs(image, processor, larger)
    assert inputs["pixel_values"].shape == (1, 5, 3, SIDE, SIDE)
    assert backbone.image_tokens(image.size, processor, larger) == 16 + 8 * (8 + 1)
    assert backbone.side_problem(2 * SIDE, model.config) is None
    assert backbone.side_problem(30, model.config) == "the model takes squares of 24, 48"
    assert backbone.image_tokens(image.size, processor, settings) == 16 + 4 * (4 + 1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen2_vl", ["--image_side", "30"], "image side 30 .* multiples of 12, or 0 for any shape"),
        ("internvl", ["--image_side", "0"], "image side 0 .* the vision tower needs 24"),
        ("internvl", ["--version", "llava_v1"], "prompt 'llava_v1'; known: internvl"),
    ],
)
def test_settings_of_another_family_are_refused_before_weights(name, changes, message, images, tmp_path):
    base = saved(name, tmp_path / "base")
    (base / "model.safetensors").unlink()
    write_records(tmp_path / "train.json", RECORDS)
    places = ["--model_name_or_path", base, "--data_path", tmp_path / "train.json", "--image_folder", images]
    with pytest.raises(ValueError, match=message):
        prepare([*map(str, places), "--output_dir", str(tmp_path / "run"), *changes])


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(ValueError, match="model_type is 'mllama', needed is one of llava, llava_next"):
        backbone_of(SimpleNamespace(model_type="mllama"))
    with pytest.raises(ValueError, match="SimpleNamespace belongs to no known family; known: LlavaProcessor"):
        backbone_of_processor(SimpleNamespace())
