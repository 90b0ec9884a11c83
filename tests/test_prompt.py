import pytest
from conftest import tiny_llava
from jinja2.exceptions import TemplateError

from llava.data.prompt import PROMPTS, chat_template, render

ROUNDS = [("<image>\nWhere is the dog?", "Here:\n<seg>others *2\n dog *2\n</seg>"), ("It's 'blue'?", "No.")]
MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the dog?"}]},
    {"role": "assistant", "content": "Here:\n<seg>others *2\n dog *2\n</seg>"},
    {"role": "user", "content": "It's 'blue'?"},
    {"role": "assistant", "content": "No."},
]


def whole_text(pieces):
    return "".join(text for text, _ in pieces)


def test_the_text4seg_prompt_is_the_published_one_character_by_character():
    assert whole_text(render("text4seg_v1", [("<image>\nQ1", "A1"), ("Q2", "A2")])) == (
        "A chat between a curious user and an artificial intelligence assistant. You are able to understand "
        "the visual content that the user provides, The assistant gives helpful, detailed, and polite "
        "answers to the user's questions. USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>"
    )


def test_the_llava_prompt_is_vicuna_v1():
    assert whole_text(render("llava_v1", [("Q", None)])) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: Q ASSISTANT:"
    )


def test_the_plain_prompt_starts_with_the_question():
    assert render("plain_v1", [("Q", None)]) == [("USER: Q ASSISTANT:", False)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "qwen_vl",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            "<|image_pad|><|vision_end|>Q<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR"
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "internvl",
            "<|im_start|>user\n<img><IMG_CONTEXT></img>\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "deepseek_vl",
            "You are a helpful language and vision assistant. You are able to understand the visual content "
            "that the user provides, and assist the user with a variety of tasks using natural language.\n\n"
            "User: <image_placeholder>Q\n\nAssistant: A<\uff5cend\u2581of\u2581sentence\uff5c>"
            "User: R\n\nAssistant:",
        ),
    ],
)
def test_prompts_of_other_families_are_theirs_character_by_character(name, text):
    assert whole_text(render(name, [("<image>\nQ", "A"), ("R", None)])) == text


def test_an_image_behind_the_question_becomes_the_familys_token_too():
    assert whole_text(render("internvl", [("Q\n<image>", None)])) == (
        "<|im_start|>user\nQ\n<img><IMG_CONTEXT></img><|im_end|>\n<|im_start|>assistant\n"
    )


def test_supervised_pieces_are_exactly_the_answers():
    pieces = render("text4seg_v1", ROUNDS)
    assert [text for text, supervised in pieces if supervised] == [f" {answer}</s>" for _, answer in ROUNDS]


def test_an_open_last_round_is_the_start_of_the_closed_one():
    closed = whole_text(render("text4seg_v1", ROUNDS))
    opened = whole_text(render("text4seg_v1", [ROUNDS[0], (ROUNDS[1][0], None)]))
    assert closed == opened + " No.</s>"


@pytest.mark.parametrize(
    ("rounds", "message"),
    [([], "at least one round"), ([("Q", None), ("Q", "A")], "only the last round may have no answer")],
)
def test_impossible_rounds_are_refused(rounds, message):
    with pytest.raises(ValueError, match=message):
        render("plain_v1", rounds)


def test_an_unknown_prompt_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown prompt 'v1'; known: text4seg_v1, llava_v1, plain_v1"):
        render("v1", ROUNDS)


@pytest.mark.parametrize("name", PROMPTS)
def test_the_chat_template_renders_the_same_text(name):
    processor = tiny_llava()[1]
    template = chat_template(name)
    full = processor.apply_chat_template(MESSAGES, chat_template=template)
    assert full == whole_text(render(name, ROUNDS))
    opened = processor.apply_chat_template(MESSAGES[:1], chat_template=template, add_generation_prompt=True)
    assert opened == whole_text(render(name, [(ROUNDS[0][0], None)]))


def test_the_chat_template_refuses_a_system_message():
    processor = tiny_llava()[1]
    message = [{"role": "system", "content": "Be brief."}]
    with pytest.raises(TemplateError, match="roles are user and assistant"):
        processor.apply_chat_template(message, chat_template=chat_template("plain_v1"))
