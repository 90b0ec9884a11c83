"""What is known of an answer before it is written."""

from __future__ import annotations

from llava.codec import clean_label
from llava.data.questions import normalise_expression
from llava.data.wording import ARTICLE, CLASS_NAME, fill_places, load_wording
from llava.model.decoding.drafts import Hints


def hints_for(target: str, grid_hw: tuple[int, int], *, lead: str = "") -> Hints:
    """Label and sentences that training writes about a target.

    They only make guesses: a model that writes other words is not held back from them.

    Args:
        target: name or expression.
        grid_hw: rows and columns of the mask.
        lead: what the model writes between the prompt and the answer, `Prompt.before_answer`.
    """
    name, wording = normalise_expression(target), load_wording()
    # Which of the two a question means cannot be told where it says "the [class_name]".
    names = (name, name.removeprefix(ARTICLE) if name.startswith(ARTICLE) else f"{ARTICLE}{name}")
    templates = (
        *wording.answer_partial,
        *wording.answer_reasoning,
        *wording.answer_reasoning_absent,
        *wording.answer_all,
        *wording.answer_condition,
    )
    sentences = dict.fromkeys(
        f"{fill_places(template, {CLASS_NAME: one})}\n" for one in names for template in templates
    )
    return Hints(grid_hw, tuple(clean_label(one) for one in names), tuple(sentences), lead)
