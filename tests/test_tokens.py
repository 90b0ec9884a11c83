import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY_SIDE, tiny_llava, tiny_settings
from PIL import Image

from llava.constants import IGNORE_INDEX
from llava.data.prompt import render
from llava.data.tokens import image_token_count, pixel_values, squash, tokenize

ANSWER = "Sure:\n<seg>others *4\n others *1| red square *2| others *1\n others *4\n others *4\n</seg>"


@pytest.fixture(scope="module")
def processor():
    return tiny_llava()[1]


def supervised_text(ids, labels, processor):
    assert all(label in (token, IGNORE_INDEX) for token, label in zip(ids, labels, strict=True))
    return processor.tokenizer.decode([label for label in labels if label != IGNORE_INDEX])


def random_rounds(rng):
    labels = ["red square", "dög 犬", "x", "the second circle's edge"]
    count = rng.randint(1, 4)
    return [
        (
            ("<image>\n" if number == 0 else "") + rng.choice(["Where?", "Please segment the cat:", "…?"]),
            f"{rng.choice(['Here:', 'Yes. ', 'é'])}\n<seg>{rng.choice(labels)} *{rng.randint(1, 16)}\n</seg>",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_labels_are_exactly_the_answers(seed, processor):
    rng = random.Random(seed)
    rounds = random_rounds(rng)
    ids, labels = tokenize(render(rng.choice(["text4seg_v1", "llava_v1", "plain_v1"]), rounds), processor)
    assert supervised_text(ids, labels, processor) == "".join(f" {answer}</s>" for _, answer in rounds)


@pytest.mark.parametrize("seed", range(20))
def test_the_prompt_of_inference_is_the_start_of_the_training_sample(seed, processor):
    rounds = random_rounds(random.Random(seed))
    full, labels = tokenize(render("text4seg_v1", rounds), processor)
    prompt, _ = tokenize(render("text4seg_v1", [*rounds[:-1], (rounds[-1][0], None)]), processor)
    assert full[: len(prompt)] == prompt
    assert labels[len(prompt)] != IGNORE_INDEX


def test_the_image_takes_one_token_per_patch_and_is_not_supervised(processor):
    ids, labels = tokenize(render("plain_v1", [("<image>\nWhere?", ANSWER)]), processor)
    places = [index for index, token in enumerate(ids) if token == processor.image_token_id]
    assert len(places) == image_token_count(processor) == 16
    assert {labels[place] for place in places} == {IGNORE_INDEX}


def test_ids_are_those_of_the_processor_itself(processor):
    pieces = render("plain_v1", [("<image>\nWhere?", ANSWER), ("And now?", "Yes.")])
    image = Image.new("RGB", (TINY_SIDE, TINY_SIDE))
    theirs = processor(text="".join(text for text, _ in pieces), images=image, add_special_tokens=False)
    assert tokenize(pieces, processor)[0] == [processor.tokenizer.bos_token_id, *theirs["input_ids"][0]]


def test_bos_stands_once_in_front_whatever_the_tokenizer_does_by_default(processor):
    ids, labels = tokenize(render("plain_v1", [("Where?", "Here")]), processor)
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert (ids[0], labels[0]) == (processor.tokenizer.bos_token_id, IGNORE_INDEX)


def test_a_tokenizer_without_bos_gets_none():
    processor = tiny_llava()[1]
    with_bos, _ = tokenize(render("plain_v1", [("Where?", "Here")]), processor)
    processor.tokenizer.bos_token = None
    assert tokenize(render("plain_v1", [("Where?", "Here")]), processor)[0] == with_bos[1:]


def test_an_image_in_an_answer_is_refused(processor):
    with pytest.raises(ValueError, match="an answer contains <image>"):
        tokenize(render("plain_v1", [("Q", "see <image>")]), processor)


def fake_processor(is_fast, offsets):
    def encode(text, **_):
        return SimpleNamespace(input_ids=list(range(len(offsets))), offset_mapping=offsets)

    class Tokenizer:
        bos_token_id = None
        __call__ = staticmethod(encode)

    Tokenizer.is_fast = is_fast
    return SimpleNamespace(tokenizer=Tokenizer(), image_token_id=-1, image_token="<image>")


def test_a_token_over_the_border_of_question_and_answer_is_refused():
    with pytest.raises(ValueError, match="token ': ' covers the border of question and answer"):
        tokenize([("Q:", False), (" A", True)], fake_processor(True, [(0, 1), (1, 3), (3, 4)]))


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ValueError, match="no character offsets"):
        tokenize([("Q:", False)], fake_processor(False, []))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_squash_gives_an_rgb_square_of_any_image(mode):
    squashed = squash(Image.new(mode, (50, 20)), tiny_settings())
    assert (squashed.mode, squashed.size) == ("RGB", (TINY_SIDE, TINY_SIDE))


def test_squash_keeps_the_whole_image_and_obeys_the_interpolation(picture):
    image = picture(48, 30)
    for name, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        expected = np.asarray(image.resize((TINY_SIDE, TINY_SIDE), filter_))
        assert np.array_equal(np.asarray(squash(image, tiny_settings(interpolation=name))), expected)


def test_pixel_values_are_the_normalised_squashed_pixels(processor, picture):
    image = picture(48, 30)
    values = pixel_values([image, image], processor, tiny_settings())
    images = processor.image_processor
    pixels = np.asarray(squash(image, tiny_settings())).astype(np.float64) / 255
    expected = (pixels - images.image_mean) / images.image_std
    assert values.shape == (2, 3, TINY_SIDE, TINY_SIDE) and values.dtype == torch.float32
    assert np.allclose(values[1].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_a_side_that_the_processor_would_crop_is_refused(processor, picture):
    with pytest.raises(ValueError, match=r"image_side 32 does not fit .* \(24x24\)"):
        pixel_values([picture(8, 8)], processor, tiny_settings(image_side=32))


def test_image_tokens_follow_the_feature_selection(processor):
    settled = {
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "image_processor": processor.image_processor,
    }
    counts = {
        strategy: image_token_count(
            SimpleNamespace(vision_feature_select_strategy=strategy, **settled | {"patch_size": 6})
        )
        for strategy in ("default", "full")
    }
    assert counts == {"default": 16, "full": 17}


def llama2_processor():
    """Llama-2's own pieces as a fast tokenizer with `<image>`, and the image side of LLaVA-1.5."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    folder = os.environ.get("TEXT4SEG_REAL_DATA")
    if not folder:
        pytest.skip("TEXT4SEG_REAL_DATA is not set")
    pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(Path(folder, "tokenizers", "llama2", "tokenizer.model"))
    )
    names = [pieces.id_to_piece(index) for index in range(len(pieces))]
    vocabulary = {name: index for index, name in enumerate(names)}
    scores = {name: pieces.get_score(index) for index, name in enumerate(names)}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = SimpleNamespace(do_center_crop=True, crop_size={"height": 336, "width": 336})
    processor = SimpleNamespace(
        image_token="<image>",
        tokenizer=tokenizer,
        image_processor=images,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    return processor, pieces


@pytest.mark.real_data
def test_llama2_labels_are_the_answers_and_its_ids_are_those_of_sentencepiece():
    processor, pieces = llama2_processor()
    rounds = [
        ("<image>\nPlease segment only the dög 犬 in the image.", ANSWER),
        ("And the cat?", "It's not there."),
    ]
    ids, labels = tokenize(render("text4seg_v1", rounds), processor)
    assert ids[0] == 1 and ids.count(1) == 1
    assert ids.count(processor.image_token_id) == 576
    answers = [label for label in labels if label != IGNORE_INDEX]
    expected = [token for _, answer in rounds for token in [*pieces.encode(answer), 2]]
    assert answers == expected


@pytest.mark.real_data
def test_llama2_generation_starts_where_the_training_answer_starts():
    processor, _ = llama2_processor()
    full, labels = tokenize(render("text4seg_v1", [("<image>\nWhere?", ANSWER)]), processor)
    prompt, _ = tokenize(render("text4seg_v1", [("<image>\nWhere?", None)]), processor)
    assert full[: len(prompt)] == prompt
    assert [label != IGNORE_INDEX for label in labels] == [False] * len(prompt) + [True] * (
        len(full) - len(prompt)
    )
