r"""What a model may write: mask texts of one grid as a formal grammar.

A row has finitely many cells, so "runs that add up to the row" is a regular language: one rule for each
label and number of cells left. A text that follows the grammar decodes without a fault, and whatever `encode`
writes with its labels follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llava.codec.grid import check_sides
from llava.codec.labels import clean_label
from llava.codec.rules import (
    Alt,
    Expr,
    Grammar,
    NoneOf,
    Ref,
    Repeat,
    Text,
    alt,
    seq,
    to_gbnf,
    to_lark,
    to_regex,
)
from llava.codec.runs import check_codec
from llava.constants import BACKGROUND, SEG_CLOSE, SEG_OPEN

FORMATS: dict[str, Callable[[Grammar], str]] = {
    "gbnf": to_gbnf,
    "ebnf": to_gbnf,
    "lark": to_lark,
    "regex": to_regex,
}
"""Notations by name: llama.cpp, xgrammar and SGLang (which read GBNF), llguidance, regular expression."""

LABEL_UNITS = 200
"""Letters of a free label, spaces between words not counted: the longest that `clean_label` writes fits."""

UNLIKE_PAIRS = 20_000
"""Most rules spent on forbidding equal neighbours, in pairs of labels times cells."""

_BLANKS = "\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Whatever `str.split` takes for a space, and control characters."""


def mask_grammar(grid_hw: tuple[int, int], labels: Sequence[str] | None, *, codec: str = "rrle") -> Grammar:
    """Grammar of one mask between its tags, after a space where the tokenizer begins a text with one.

    Exactly the rows and cells of the grid, in the spelling of `encode`. Neighbouring runs differ in their
    labels when `labels` are few (`UNLIKE_PAIRS`); free labels and long lists go without that rule, which
    would cost a rule set for each label, and their neighbours may be alike: it is no fault.

    Args:
        grid_hw: rows and columns.
        labels: names of the regions, cleaned by `clean_label`; "others" is always there. None: any label of
            words without bars, angle brackets and leading stars, up to `LABEL_UNITS` letters.
        codec: "rrle", "full" or "irle".

    Raises:
        ValueError: `grid_hw`, `labels` or `codec` is wrong.

    Source: ours. The format is that of Text4Seg (arXiv 2410.09855).
    """
    rules = _mask_rules(grid_hw, labels, codec)
    rules["root"] = seq(Repeat(Text(" "), 0, 1), Text(SEG_OPEN), Ref("mask"), Text(SEG_CLOSE))
    return Grammar(rules, frozenset(rules) & {"label"})


def answer_grammar(grid_hw: tuple[int, int], labels: Sequence[str] | None, *, codec: str = "rrle") -> Grammar:
    """Grammar of a whole answer: any words, a mask, and again, then any words; at least one mask.

    The words are free but for "<seg>". Arguments, rules of the mask and errors are those of `mask_grammar`.
    """
    rules = _mask_rules(grid_hw, labels, codec)
    rules["open"] = seq(Repeat(_prose(), 0, None), _almost_open(), Text(SEG_OPEN[1:]))
    cut = seq(_almost_open(), Repeat(alt(Text("seg"), Text("se"), Text("s")), 0, 1))
    rules["tail"] = alt(seq(Repeat(_prose(), 1, None), Repeat(cut, 0, 1)), cut)
    rules["root"] = seq(
        Repeat(seq(Ref("open"), Ref("mask"), Text(SEG_CLOSE)), 1, None), Repeat(Ref("tail"), 0, 1)
    )
    return Grammar(rules, frozenset(rules) & {"label", "open", "tail"})


def answer_lark(grid_hw: tuple[int, int], labels: Sequence[str] | None, codec: str = "rrle") -> str:
    """`answer_grammar` as llguidance reads it."""
    return to_lark(answer_grammar(grid_hw, labels, codec=codec))


def _almost_open() -> Expr:
    """A "<" that may begin "<seg>", after failed beginnings."""
    again = seq(alt(Text("seg"), Text("se"), Text("s")), Repeat(Text("<"), 1, None))
    return seq(Repeat(Text("<"), 1, None), Repeat(again, 0, None))


def _prose() -> Expr:
    """A character of free words, or a "<" with what shows that it begins no "<seg>"."""
    endings = [seq(Text(SEG_OPEN[1:end]), NoneOf(f"<{SEG_OPEN[end]}")) for end in range(1, len(SEG_OPEN))]
    return alt(NoneOf("<"), seq(_almost_open(), alt(*endings)))


def _mask_rules(grid_hw: tuple[int, int], labels: Sequence[str] | None, codec: str) -> dict[str, Expr]:
    """Rules up to "mask", the text between the tags."""
    check_codec(codec)
    rows, columns = check_sides(grid_hw, "grid_hw")
    names = None if labels is None else _names(labels)
    if codec == "full":
        rules = _label_rule(names, "")
        rules["mask"] = _lines(Ref("label"), "| ", rows * columns)
        return rules
    cells = columns if codec == "rrle" else rows * columns
    if names is None or len(names) * (len(names) - 1) * cells > UNLIKE_PAIRS:
        rules = _label_rule(names, " *")
        starts = _run_rules(rules, [Ref("label")], [[0]], cells)
    else:
        rules = {}
        follow = [[other for other in range(len(names)) if other != index] for index in range(len(names))]
        starts = _run_rules(rules, [Text(f"{name} *") for name in names], follow, cells)
    rules["row"] = starts
    rules["mask"] = seq(_lines(Ref("row"), "\n ", rows), Text("\n")) if codec == "rrle" else Ref("row")
    return rules


def _names(labels: Sequence[str]) -> list[str]:
    """Different labels of a mask, "others" first."""
    if isinstance(labels, str):
        raise ValueError(f"labels {labels!r}: needed is a list of labels, here [{labels!r}]")
    return list(dict.fromkeys([BACKGROUND, *(clean_label(name) for name in labels if name != BACKGROUND)]))


def _label_rule(names: Sequence[str] | None, end: str) -> dict[str, Expr]:
    """The rule "label": any of the names, or free words; then `end`."""
    if names is not None:
        return {"label": Alt(tuple(Text(name + end) for name in names))}
    first = NoneOf(f"|*<>{_BLANKS}")
    unit = alt(NoneOf(f"|<>{_BLANKS}"), seq(Text(" "), first))
    return {"label": seq(first, Repeat(unit, 0, LABEL_UNITS - 1), Text(end))}


def _lines(part: Expr, separator: str, count: int) -> Expr:
    """A part `count` times with separators between."""
    more = count - 1
    return seq(part, Repeat(seq(Text(separator), part), more, more)) if more else part


def _run_rules(
    rules: dict[str, Expr], leads: Sequence[Expr], follow: Sequence[Sequence[int]], cells: int
) -> Expr:
    """Add the rules of runs that fill some cells.

    The rule `run1x7` is a run of label 1 with what follows it, where 7 cells are left. Counts are read digit
    by digit, so that the rules grow with the cells and not with their square: `digits1x1x7` expects one more
    digit where 7 cells are left by the digits before.

    Args:
        rules: takes the rules, each after those that it uses.
        leads: what stands before each label's count.
        follow: labels that may follow each label.
        cells: number of cells.

    Returns:
        All the runs of `cells` cells.
    """

    def rest(label: int, left: int, places: int) -> list[Expr]:
        """What follows a digit: nothing possible, or one expression."""
        if places:
            return [Ref(f"digits{places}x{label}x{left}")]
        if not left:
            return [Text("")]
        options = [Ref(f"run{other}x{left}") for other in follow[label]]
        if len(options) > 1:
            return [seq(Text("| "), Ref(f"next{label}x{left}"))]
        return [seq(Text("| "), option) for option in options]

    def digits(label: int, left: int, places: int, lowest: int) -> list[Expr]:
        """Digits of a count at a decimal place, from `lowest`, with what follows each."""
        return [
            seq(Text(str(digit)), expr)
            for digit in range(lowest, min(9, left // 10**places) + 1)
            for expr in rest(label, left - digit * 10**places, places)
        ]

    highest = len(str(cells)) - 1
    for left in range(cells + 1):
        for label, lead in enumerate(leads):
            for places in range(1, highest + 1):
                if left + 10**places <= cells:
                    rules[f"digits{places}x{label}x{left}"] = alt(*digits(label, left, places - 1, 0))
            if left:
                counts = [expr for places in range(highest + 1) for expr in digits(label, left, places, 1)]
                rules[f"run{label}x{left}"] = seq(lead, alt(*counts))
        for label, others in enumerate(follow):
            if 0 < left < cells and len(others) > 1:
                rules[f"next{label}x{left}"] = alt(*[Ref(f"run{other}x{left}") for other in others])
    return alt(*[Ref(f"run{label}x{cells}") for label in range(len(leads))])
