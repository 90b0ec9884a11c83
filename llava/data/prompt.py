"""Conversation templates: one table for training, inference and the chat template that is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava.constants import IMAGE_TOKEN


@dataclass(frozen=True)
class Prompt:
    """One conversation template. Every field but `system` is text that stands there as it is.

    Attributes:
        system: text before the first round; "" leaves it out together with `after_system`.
        after_system: behind the system text.
        user: in front of a question.
        after_question: behind it.
        assistant: name of the answering side; an open conversation ends with it.
        before_answer: in front of an answer; the model writes it.
        stop: behind every answer; one token, at which the model learns to stop.
        between: between a stop and the next question.
        image: what stands for "<image>" and a newline of a record; the family's token, once.
    """

    system: str
    after_system: str = " "
    user: str = "USER: "
    after_question: str = " "
    assistant: str = "ASSISTANT:"
    before_answer: str = " "
    stop: str = "</s>"
    between: str = ""
    image: str = f"{IMAGE_TOKEN}\n"

    @property
    def start(self) -> str:
        """Text in front of the first question's `user`."""
        return f"{self.system}{self.after_system}" if self.system else ""


CHATML = Prompt(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>",
    after_system="\n",
    user="<|im_start|>user\n",
    after_question="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    before_answer="",
    stop="<|im_end|>",
    between="\n",
)
"""Qwen2's form of a conversation; also that of LLaVA-OneVision (qwen_1_5 in its code)."""

PROMPTS: dict[str, Prompt] = {
    # The sentence of the published Text4Seg weights, with its comma before "The" (text4seg, vicuna_v1).
    "text4seg_v1": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. "
        "You are able to understand the visual content that the user provides, "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    # LLaVA-1.5's own vicuna_v1, also that of LLaVA-NeXT with Vicuna.
    "llava_v1": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    "plain_v1": Prompt(""),
    "onevision": CHATML,
    "qwen_vl": replace(CHATML, image="<|vision_start|><|image_pad|><|vision_end|>"),
    # InternVL's -hf checkpoints have no system text.
    "internvl": replace(CHATML, system="", image="<img><IMG_CONTEXT></img>\n"),
    # DeepSeek-VL's conversation.py: "User" and "Assistant" with an empty line between them.
    "deepseek_vl": Prompt(
        "You are a helpful language and vision assistant. You are able to understand the visual content that "
        "the user provides, and assist the user with a variety of tasks using natural language.",
        after_system="\n\n",
        user="User: ",
        after_question="\n\n",
        assistant="Assistant:",
        stop="<\uff5cend\u2581of\u2581sentence\uff5c>",
        image="<image_placeholder>",
    ),
}


def find_prompt(name: str) -> Prompt:
    """Template of that name.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in PROMPTS:
        raise ValueError(f"unknown prompt {name!r}; known: {', '.join(PROMPTS)}")
    return PROMPTS[name]


def render(prompt: str, rounds: Sequence[tuple[str, str | None]]) -> list[tuple[str, bool]]:
    """Pieces (text, supervised) whose concatenation is the whole conversation.

    Supervised pieces are exactly the answer with its stop (`" " + answer + "</s>"` in LLaVA's form). An
    answer of None is left open for the model: the text then ends with "ASSISTANT:".

    Args:
        prompt: key of `PROMPTS`.
        rounds: (question, answer) in order; the first question usually starts with "<image>" and a newline.

    Returns:
        Pieces in reading order, none of them empty.

    Raises:
        ValueError: unknown prompt, no round, or an open answer that is not the last.

    Example:
        >>> render("plain_v1", [("Where?", "Here")])
        [('USER: Where? ASSISTANT:', False), (' Here</s>', True)]

    Source: LLaVA's conversation separator style TWO with " " and "</s>".
    """
    template = find_prompt(prompt)
    if not rounds:
        raise ValueError("a conversation needs at least one round of (question, answer)")
    if any(answer is None for _, answer in rounds[:-1]):
        raise ValueError("only the last round may have no answer; fill in the answers of the earlier rounds")
    pieces: list[tuple[str, bool]] = []
    before = template.start
    for question, answer in rounds:
        shown = question.replace(f"{IMAGE_TOKEN}\n", template.image)
        shown = shown.replace(IMAGE_TOKEN, template.image.rstrip("\n"))
        pieces.append((f"{before}{template.user}{shown}{template.after_question}{template.assistant}", False))
        if answer is not None:
            pieces.append((f"{template.before_answer}{answer}{template.stop}", True))
        before = template.between
    return pieces


def chat_template(prompt: str) -> str:
    """Jinja chat template that renders the same text as `render`.

    Understands string contents and lists of `{"type": "image"}` and `{"type": "text", "text": ...}` parts;
    an image part becomes what stands for an image in the prompt. Roles other than user and assistant are
    refused.
    """
    template = find_prompt(prompt)
    say = {name: _jinja(getattr(template, name)) for name in ("start", "user", "between", "image", "stop")}
    between = f"{{% if not loop.first %}}{say['between']}{{% endif %}}" if template.between else ""
    return (
        f"{say['start']}"
        "{% for message in messages %}"
        f"{{% if message['role'] == 'user' %}}{between}{say['user']}"
        f"{{% elif message['role'] == 'assistant' %}}{_jinja(template.assistant + template.before_answer)}"
        "{% else %}{{ raise_exception('roles are user and assistant; the system text is fixed') }}{% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{say['image']}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        f"{{% if message['role'] == 'user' %}}{_jinja(template.after_question)}"
        f"{{% else %}}{say['stop']}{{% endif %}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{_jinja(template.assistant)}{{% endif %}}"
    )


def _jinja(text: str) -> str:
    """Jinja expression that prints this text."""
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"{{{{ '{quoted}' }}}}"
