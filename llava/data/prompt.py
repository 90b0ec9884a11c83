"""Conversation templates: one table for training, inference and the chat template that is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava.constants import IMAGE_TOKEN


@dataclass(frozen=True)
class Prompt:
    """One conversation template, LLaVA's "v1" form.

    Attributes:
        system: text before the first round; "" leaves it out together with the space behind it.
        user: name of the asking side.
        assistant: name of the answering side.
        stop: written after every answer; the model learns to stop there.
    """

    system: str
    user: str = "USER"
    assistant: str = "ASSISTANT"
    stop: str = "</s>"


PROMPTS: dict[str, Prompt] = {
    # The sentence of the published Text4Seg weights, with its comma before "The" (text4seg, vicuna_v1).
    "text4seg_v1": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. "
        "You are able to understand the visual content that the user provides, "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    # LLaVA-1.5's own vicuna_v1.
    "llava_v1": Prompt(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    "plain_v1": Prompt(""),
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

    Supervised pieces are exactly `" " + answer + "</s>"`. An answer of None is left open for the model:
    the text then ends with "ASSISTANT:".

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
    before = f"{template.system} " if template.system else ""
    for question, answer in rounds:
        pieces.append((f"{before}{template.user}: {question} {template.assistant}:", False))
        if answer is not None:
            pieces.append((f" {answer}{template.stop}", True))
        before = ""
    return pieces


def chat_template(prompt: str) -> str:
    """Jinja chat template that renders the same text as `render`.

    Understands string contents and lists of `{"type": "image"}` and `{"type": "text", "text": ...}` parts;
    an image part becomes "<image>" and a newline. Roles other than user and assistant are refused.
    """
    template = find_prompt(prompt)
    system = f"{template.system} ".replace("'", "\\'") if template.system else ""
    return (
        f"{{{{ '{system}' }}}}"
        "{% for message in messages %}"
        f"{{% if message['role'] == 'user' %}}{{{{ '{template.user}: ' }}}}"
        f"{{% elif message['role'] == 'assistant' %}}{{{{ '{template.assistant}: ' }}}}"
        "{% else %}{{ raise_exception('roles are user and assistant; the system text is fixed') }}{% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ '{IMAGE_TOKEN}\\n' }}}}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        f"{{{{ ' ' if message['role'] == 'user' else '{template.stop}' }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{template.assistant}:' }}}}{{% endif %}}"
    )
