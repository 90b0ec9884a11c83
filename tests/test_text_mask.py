"""Questions become prompts, answers become masks; a batch changes nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_llava, tiny_settings
from tiny_backbones import tiny

from llava.codec import grid_to_mask, mask_answer
from llava.data.tokens import image_token_count, pixel_values
from llava.model.checkpoint import Checkpoint, load_checkpoint
from llava.model.text_mask import TextMaskSegmenter, answer_budget
from llava.types import Query

ROWS = "others *4\n others *1| red square *2| others *1\n others *2| blue circle *2\n others *4\n"
SQUARE = np.zeros((4, 4), bool)
SQUARE[1, 1:3] = True
CIRCLE = np.zeros((4, 4), bool)
CIRCLE[2, 2:] = True


class Scripted:
    """Stands for a LLaVA: writes given answers, one after the other, and remembers what it was given."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, tokenizer, answers, more_ends=None):
        self.rows = [tokenizer(answer, add_special_tokens=False).input_ids for answer in answers]
        self.pad = tokenizer.pad_token_id
        self.generation_config = SimpleNamespace(eos_token_id=more_ends)
        self.given = []

    def generate(self, **given):
        self.given.append(given)
        rows, self.rows = self.rows[: len(given["input_ids"])], self.rows[len(given["input_ids"]) :]
        rows = [row[: given["generation_config"].max_new_tokens] for row in rows]
        length = max(map(len, rows))
        written = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        return torch.cat([given["input_ids"], written], dim=1)


@pytest.fixture
def scripted(tiny_llava_folder):
    """Function that makes a segmenter whose model writes the given answers."""
    checkpoint = load_checkpoint(tiny_llava_folder, device="cpu")

    def make(*answers, settings=None, more_ends=None, **options):
        model = Scripted(checkpoint.processor.tokenizer, answers, more_ends)
        changed = replace(checkpoint, model=model, settings=settings or checkpoint.settings)
        return TextMaskSegmenter(changed, **options)

    return make


@pytest.fixture(scope="module")
def lively():
    """Checkpoint of a random model with large weights, so that each prompt gets its own answer."""
    model, processor = tiny_llava(seed=3)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    return Checkpoint(model, processor, tiny_settings(), None)


def test_an_answer_becomes_a_mask_at_the_size_of_the_image(scripted, picture):
    answer = mask_answer("Sure, here is the mask:", ROWS)
    segmenter = scripted(answer + "</s>")
    (prediction,) = segmenter.segment([Query([picture(50, 30)], ["red square"])])
    assert prediction.text == answer
    assert prediction.masks.shape == (1, 1, 30, 50)
    assert np.array_equal(prediction.masks[0, 0], grid_to_mask(SQUARE | CIRCLE, (30, 50)))
    assert prediction.faults == ()
    assert prediction.absent.tolist() == [False]
    assert prediction.labels == {
        "red square": grid_to_mask(SQUARE, (30, 50)).sum(),
        "blue circle": grid_to_mask(CIRCLE, (30, 50)).sum(),
    }
    assert segmenter.decode_seconds > 0


def test_the_three_outcomes_differ(scripted, picture):
    empty = mask_answer("Sure:", "others *4\n others *4\n others *4\n others *4\n")
    segmenter = scripted(empty + "</s>", "I see no horse.</s>")
    queries = [Query([picture(20, 20)], [target]) for target in ("cat", "horse")]
    absent, chat = segmenter.segment(queries)
    assert (absent.absent.tolist(), absent.faults) == ([True], ())
    assert chat.absent.tolist() == [False]
    assert chat.faults == ("no_mask: the answer has no <seg>",)
    assert not absent.masks.any()
    assert not chat.masks.any()


def test_an_answer_without_an_end_is_truncated_and_salvaged(scripted, picture):
    answer = mask_answer("Sure:", ROWS)
    segmenter = scripted(answer + "</s>", max_new_tokens=30)
    (prediction,) = segmenter.segment([Query([picture(20, 20)], ["red square"])])
    assert prediction.faults[0] == "truncated: the answer has no end within 30 tokens"
    assert len(prediction.faults) > 1
    assert answer.startswith(prediction.text)
    assert prediction.masks.any()
    assert segmenter.checkpoint.model.given[0]["generation_config"].max_new_tokens == 30


def test_an_answer_ends_at_the_first_end_token_of_tokenizer_or_model(scripted, picture):
    query = Query([picture(20, 20)], ["cat"])
    (prediction,) = scripted("Yes.</s> No.</s>").segment([query])
    assert prediction.text == "Yes."
    stop = load_id(scripted, "N")
    (prediction,) = scripted("Yes. No.", more_ends=[stop]).segment([query])
    assert prediction.text == "Yes. "
    assert not any(fault.startswith("truncated") for fault in prediction.faults)


def load_id(scripted, token):
    return scripted().checkpoint.processor.tokenizer.convert_tokens_to_ids(token)


def test_each_target_has_its_own_prompt_mask_and_faults(scripted, picture):
    answers = [mask_answer("Sure:", ROWS) + "</s>", "no</s>", mask_answer("Sure:", ROWS) + "</s>"]
    segmenter = scripted(*answers)
    images = [picture(20, 10, seed=seed) for seed in range(2)]
    two, one = segmenter.segment([Query(images[:1], [" Red square", "the DOG"]), Query(images[1:], ["x"])])
    assert two.masks.shape == (2, 1, 10, 20)
    assert two.masks[:, 0].any(axis=(1, 2)).tolist() == [True, False]
    assert two.faults == ("'the DOG': no_mask: the answer has no <seg>",)
    assert one.masks[0, 0].any()
    given = segmenter.checkpoint.model.given[0]
    processor, settings = segmenter.checkpoint.processor, segmenter.checkpoint.settings
    assert torch.equal(
        given["pixel_values"], pixel_values([images[i] for i in (0, 0, 1)], processor, settings)
    )
    assert [decode(segmenter, row) for row in given["input_ids"]] == [
        "USER: <image>\nPlease segment only the red square in the image. ASSISTANT:",
        "USER: <image>\nPlease segment only the dog in the image. ASSISTANT:",
        "USER: <image>\nPlease segment only the x in the image. ASSISTANT:",
    ]


def decode(segmenter, ids):
    """Prompt text of padded ids, the image tokens as one."""
    processor = segmenter.checkpoint.processor
    text = processor.tokenizer.decode(ids).split("<s>")[1]
    count = image_token_count(processor)
    assert text.count("<image>") == count == 16
    return text.replace("<image>" * count, "<image>")


def test_a_question_of_ones_own_is_asked_as_it_is(scripted, picture):
    segmenter = scripted("a</s>", "b</s>")
    image = [picture(9, 9)]
    segmenter.segment([Query(image, ["the Cat"], "Where is it?"), Query(image, ["the Cat"], "[class_name]?")])
    asked = [decode(segmenter, row) for row in segmenter.checkpoint.model.given[0]["input_ids"]]
    assert asked[0] == "USER: <image>\nWhere is it? ASSISTANT:"
    assert asked[1] == "USER: <image>\nthe cat? ASSISTANT:"


def test_prompts_are_padded_on_the_left(scripted, picture):
    segmenter = scripted("a</s>", "b</s>")
    image = [picture(9, 9)]
    segmenter.segment([Query(image, ["x"]), Query(image, ["a far longer expression than that"])])
    given = segmenter.checkpoint.model.given[0]
    short, full = given["attention_mask"].tolist()
    padding = short.index(1)
    assert padding > 0
    assert short == [0] * padding + [1] * (len(short) - padding)
    assert all(full)
    assert (given["input_ids"][0, :padding] == segmenter.checkpoint.processor.tokenizer.pad_token_id).all()


def test_a_batch_answers_as_one_by_one(lively, picture):
    segmenter = TextMaskSegmenter(lively, max_new_tokens=30)
    words = ["x", "the second blue circle from the left", "red", "a square right of the triangle, not blue"]
    queries = [Query([picture(40 + i, 30, seed=i)], [word]) for i, word in enumerate(words)]
    queries.append(Query([picture(33, 44, seed=9)], words[:2]))
    together = segmenter.segment(queries)
    alone = [segmenter.segment([query])[0] for query in queries]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.faults for one in together] == [one.faults for one in alone]
    assert len({one.text for one in together}) == 5
    assert all(np.array_equal(a.masks, b.masks) for a, b in zip(together, alone, strict=True))


def test_the_image_matters_to_the_answer(lively, picture):
    segmenter = TextMaskSegmenter(lively, max_new_tokens=10)
    answers = segmenter.segment([Query([picture(30, 30, seed=seed)], ["red square"]) for seed in range(4)])
    assert len({answer.text for answer in answers}) > 1


def test_the_models_own_generation_settings_are_left_aside(lively, picture):
    query = Query([picture(30, 30)], ["red square"])
    (plain,) = TextMaskSegmenter(lively, max_new_tokens=20).segment([query])
    own = lively.model.generation_config
    try:
        own.do_sample, own.temperature, own.repetition_penalty, own.num_beams = True, 0.2, 3.0, 2
        (again,) = TextMaskSegmenter(lively, max_new_tokens=20).segment([query])
    finally:
        own.do_sample, own.temperature, own.repetition_penalty, own.num_beams = False, 1.0, 1.0, 1
    assert again.text == plain.text


def test_sixteen_bit_weights_answer(tiny_llava_folder, picture):
    checkpoint = load_checkpoint(tiny_llava_folder, device="cpu", dtype="bfloat16")
    (prediction,) = TextMaskSegmenter(checkpoint, max_new_tokens=3).segment([Query([picture(9, 9)], ["x"])])
    assert prediction.masks.shape == (1, 1, 9, 9)


def test_codec_and_upsampling_come_from_the_settings(scripted, picture):
    cells = "| ".join("dog" if inside else "others" for inside in SQUARE.flat)
    answer = mask_answer("Sure:", cells) + "</s>"
    query = Query([picture(40, 40)], ["dog"])
    settings = tiny_settings(codec="full", upsample="nearest")
    (prediction,) = scripted(answer, settings=settings).segment([query])
    assert prediction.faults == ()
    assert np.array_equal(prediction.masks[0, 0], grid_to_mask(SQUARE, (40, 40), method="nearest"))
    (other,) = scripted(answer, settings=settings, upsample="bilinear").segment([query])
    assert np.array_equal(other.masks[0, 0], grid_to_mask(SQUARE, (40, 40), method="bilinear"))


def test_the_default_length_follows_the_grid_and_the_codec(scripted):
    def budget(**changes):
        return answer_budget(scripted(settings=tiny_settings(**changes)).checkpoint)

    small = budget(grid_hw=(8, 8))
    assert small - 64 == pytest.approx((budget(grid_hw=(16, 8)) - 64) / 2, rel=0.05)
    assert budget(grid_hw=(16, 16), codec="full") > budget(grid_hw=(16, 16))
    assert scripted(settings=tiny_settings(grid_hw=(8, 8))).max_new_tokens == small


def test_nothing_asked_is_nothing_answered(scripted):
    assert scripted().segment([]) == []


def test_wrong_options_and_queries_are_refused(scripted, picture):
    with pytest.raises(ValueError, match="max_new_tokens 0: at least 1"):
        scripted(max_new_tokens=0)
    with pytest.raises(ValueError, match="unknown upsample 'cubic'; known: bilinear, nearest"):
        scripted(upsample="cubic")
    with pytest.raises(ValueError, match="one image, the query has 2 frames"):
        scripted().segment([Query([picture(9, 9)] * 2, ["x"])])
    for question in (" ", "What is in <image>?"):
        with pytest.raises(ValueError, match="needed is a text without <image>"):
            scripted().segment([Query([picture(9, 9)], ["x"], question)])
    with pytest.raises(ValueError, match=r"targets 'dog': needed is a list of targets, here \['dog'\]"):
        Query([picture(9, 9)], "dog")


def test_words_that_would_show_another_image_are_refused(picture):
    segmenter = TextMaskSegmenter(Checkpoint(*tiny("qwen2_vl"), None), max_new_tokens=2)
    for target, question in (("a <|image_pad|> b", None), ("x", "Where is <|image_pad|>?")):
        with pytest.raises(ValueError, match=r"<\|image_pad\|>.*: needed is a text without <\|image_pad\|>"):
            segmenter.segment([Query([picture(40, 30)], [target], question)])
