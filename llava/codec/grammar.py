r"""What a model may write: mask texts of one grid as a formal grammar.

    python -m llava.codec.grammar --grid 16 --labels "red car" --format gbnf

A row has finitely many cells, so "runs that add up to the row" is a regular language: one rule for each
label and number of cells left. A text that follows the grammar decodes without a fault, and whatever `encode`
writes with its labels follows it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from llava.codec.grid import check_sides, parse_grid
from llava.codec.labels import UNWRITABLE, clean_label
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
from llava.settings import CODECS

FORMATS: dict[str, Callable[[Grammar], str]] = {
    "gbnf": to_gbnf,
    "ebnf": to_gbnf,
    "lark": to_lark,
    "regex": to_regex,
}
"""Notations by name: llama.cpp, xgrammar and SGLang (which read GBNF), llguidance, regular expression."""

LABEL_UNITS = 200
"""Letters of a free label, spaces between words not counted: the longest that `clean_label` writes fits."""

UNLIKE_PAIRS = 4_000
"""Most options spent on forbidding equal neighbours, pairs of labels times cells: it allows 16 labels at 16
cells and 8 at 64, and keeps a grammar below 300 kB."""

MOST_CELLS = 1024
"""Most cells that the runs of one line fill. llguidance 1.9.1 reads 1024 and overflows its stack at 4096."""

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
    names = None if labels is None else mask_labels(labels)
    if codec == "full":
        rules = _label_rule(names, "")
        rules["row"] = _lines(Ref("label"), "| ", columns)
        rules["mask"] = _lines(Ref("row"), "| ", rows)
        return rules
    cells = columns if codec == "rrle" else rows * columns
    if cells > MOST_CELLS:
        raise ValueError(
            f"grid_hw {tuple(grid_hw)} in {codec}: runs over {cells} cells, at most {MOST_CELLS} make a "
            "grammar that engines can read; take rrle, where runs end with their row"
        )
    if names == [BACKGROUND]:
        rules = {"row": Text(f"{BACKGROUND} *{cells}")}
    elif names is None or len(names) * (len(names) - 1) * cells > UNLIKE_PAIRS:
        rules = _label_rule(names, " *") | _Runs([Ref("label")], alike=True, cells=cells).rules()
    else:
        rules = _Runs([Text(f"{name} *") for name in names], alike=False, cells=cells).rules()
    rules["mask"] = seq(_lines(Ref("row"), "\n ", rows), Text("\n")) if codec == "rrle" else Ref("row")
    return rules


def mask_labels(labels: Sequence[str]) -> list[str]:
    """Different labels of a mask as they are written, "others" first.

    Raises:
        ValueError: `labels` is a text, or a label has a character that no notation of grammars can write.
    """
    if isinstance(labels, str):
        raise ValueError(f"labels {labels!r}: needed is a list of labels, here [{labels!r}]")
    names = dict.fromkeys([BACKGROUND, *(clean_label(name) for name in labels if name != BACKGROUND)])
    for name in names:
        if UNWRITABLE.search(name):
            raise ValueError(
                f"label {name!r}: holds a character that no notation of grammars can write; take it out, or "
                "leave the labels free"
            )
    return list(names)


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


class _Runs:
    """Rules of runs that fill some cells.

    The rule `run1x7` is a run of label 1 with all that follows it, where 7 cells are left; `next1x7` is what
    may follow a run of label 1 there. Counts are written digit by digit, so that the rules grow with the
    cells and not with their square: `digits2x1x7` takes two more digits of a count of label 1, where the
    digits before leave 7 cells.

    Args:
        leads: what stands before each label's count.
        alike: whether a run may follow one of its own label.
        cells: number of cells to fill.
    """

    def __init__(self, leads: Sequence[Expr], *, alike: bool, cells: int) -> None:
        self.leads, self.cells = leads, cells
        everyone = range(len(leads))
        self.follow = [[other for other in everyone if alike or other != label] for label in everyone]
        self.longer = range(1, len(str(cells)))

    def rules(self) -> dict[str, Expr]:
        """All rules, each after those that it uses; the last one, "row", fills the cells."""
        rules: dict[str, Expr] = {}
        for left in range(self.cells + 1):
            for label in range(len(self.leads) if left else 0):
                rules[f"run{label}x{left}"] = self._run(label, left)
            for label, followers in enumerate(self.follow):
                if 0 < left < self.cells and len(followers) > 1:
                    rules[f"next{label}x{left}"] = alt(*[Ref(f"run{other}x{left}") for other in followers])
                for places in self.longer:
                    if left + 10**places <= self.cells:
                        rules[f"digits{places}x{label}x{left}"] = self._digits(label, left, places, 0)
        rules["row"] = alt(*[Ref(f"run{label}x{self.cells}") for label in range(len(self.leads))])
        return rules

    def _run(self, label: int, left: int) -> Expr:
        counts = [self._digits(label, left, places, 1) for places in range(1, len(str(left)) + 1)]
        flat = [
            option for count in counts for option in (count.options if isinstance(count, Alt) else [count])
        ]
        return seq(self.leads[label], alt(*flat))

    def _digits(self, label: int, left: int, places: int, lowest: int) -> Expr:
        """The last `places` digits of a count, the first of them from `lowest`, with all that follows."""
        worth = 10 ** (places - 1)
        digits = range(lowest, min(9, left // worth) + 1)
        return alt(
            *[seq(Text(str(digit)), self._rest(label, left - digit * worth, places - 1)) for digit in digits]
        )

    def _rest(self, label: int, left: int, places: int) -> Expr:
        """What follows a digit."""
        if places:
            return Ref(f"digits{places}x{label}x{left}")
        if not left:
            return Text("")
        followers = self.follow[label]
        following = Ref(f"next{label}x{left}") if len(followers) > 1 else Ref(f"run{followers[0]}x{left}")
        return seq(Text("| "), following)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the grammar that a command line asks for."""
    parser = argparse.ArgumentParser(
        description="Print the grammar of answers with masks.", allow_abbrev=False
    )
    parser.add_argument("--grid", default="16", help="cells: 16, or rows x columns: 12x16 (default: 16)")
    parser.add_argument(
        "--labels", nargs="*", help='labels beside "others"; without this option any words may be labels'
    )
    parser.add_argument("--codec", choices=CODECS, default="rrle", help="form of the mask (default: rrle)")
    parser.add_argument("--format", choices=tuple(FORMATS), default="gbnf", help="notation (default: gbnf)")
    parser.add_argument("--mask", action="store_true", help="one mask between its tags, without words around")
    options = parser.parse_args(arguments)
    build = mask_grammar if options.mask else answer_grammar
    try:
        text = FORMATS[options.format](build(parse_grid(options.grid), options.labels, codec=options.codec))
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
