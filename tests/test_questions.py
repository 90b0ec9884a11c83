import pytest

from llava.data.questions import (
    ANSWER_PARTIAL,
    EVAL_QUESTION,
    PLACEHOLDER,
    QUESTION_PARTIAL,
    fill,
    normalise_expression,
)


def test_every_template_has_exactly_one_placeholder():
    for template in (*QUESTION_PARTIAL, *ANSWER_PARTIAL):
        assert template.count(PLACEHOLDER) == 1, template


def test_no_template_stands_twice():
    assert len(set(QUESTION_PARTIAL)) == len(QUESTION_PARTIAL) == 6
    assert len(set(ANSWER_PARTIAL)) == len(ANSWER_PARTIAL) == 9


def test_the_published_wording_is_kept_byte_for_byte():
    assert QUESTION_PARTIAL[:3] == (
        "Please segment only the [class_name] in the image.",
        "Can you segment the [class_name] in the image?",
        "Where is the [class_name] in this picture? Please respond with segmentation mask.",
    )
    assert ANSWER_PARTIAL[:3] == (
        "Sure, here is the segmentation mask for '[class_name]':",
        "Here is the segmentation map focusing on the [class_name]:",
        "The segmentation mask for '[class_name]' is shown below:",
    )
    assert EVAL_QUESTION == "Please segment only the [class_name] in the image."


@pytest.mark.parametrize(
    ("template", "expression", "expected"),
    [
        (EVAL_QUESTION, "red bus", "Please segment only the red bus in the image."),
        (EVAL_QUESTION, "the red bus", "Please segment only the red bus in the image."),
        (EVAL_QUESTION, "theatre sign", "Please segment only the theatre sign in the image."),
        ("mask for '[class_name]':", "the red bus", "mask for 'the red bus':"),
        ("The [class_name] is here:", "the red bus", "The red bus is here:"),
        ("bathe [class_name]", "the dog", "bathe the dog"),
        (EVAL_QUESTION, "the", "Please segment only the the in the image."),
        ("the [class_name], '[class_name]'", "the cat", "the cat, 'the cat'"),
        ("the [class_name]!", "sign saying [class_name]", "the sign saying [class_name]!"),
    ],
)
def test_an_expression_fills_the_template_without_a_second_article(template, expression, expected):
    assert fill(template, expression) == expected


def test_no_filled_template_says_the_the():
    for template in (*QUESTION_PARTIAL, *ANSWER_PARTIAL):
        assert "the the " not in fill(template, "the left dog").lower()


def test_an_empty_expression_is_refused_with_an_example():
    with pytest.raises(ValueError, match="expression is empty; name what to segment"):
        fill(EVAL_QUESTION, "  ")


def test_a_template_without_placeholder_is_refused():
    with pytest.raises(ValueError, match=r"has no \[class_name\]"):
        fill("Segment it.", "dog")


def test_normalising_lowers_case_and_strips():
    assert normalise_expression("  Lady W Back\n") == "lady w back"


def test_normalising_takes_out_our_own_tags():
    assert normalise_expression("sign <IMAGE> <seg>dog</seg>") == "sign dog"
