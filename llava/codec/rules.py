"""Formal grammars as data, and the notations in which decoding engines read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

REGEX_LIMIT = 200_000
"""Longest regular expression written, in characters; engines take minutes over much longer ones."""

_REGEX_MARKS = set("\\.^$|?*+()[]{}")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


@dataclass(frozen=True)
class Text:
    """Exactly these characters."""

    text: str


@dataclass(frozen=True)
class NoneOf:
    r"""One character outside a set, written like the inside of a bracket: "|<>\x00-\x20"."""

    spans: str


@dataclass(frozen=True)
class Ref:
    """Whatever another rule allows."""

    name: str


@dataclass(frozen=True)
class Seq:
    """One part after the other."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Alt:
    """One of several options."""

    options: tuple[Expr, ...]


@dataclass(frozen=True)
class Repeat:
    """The same part from `low` to `high` times; None: without end."""

    part: Expr
    low: int
    high: int | None


Expr = Text | NoneOf | Ref | Seq | Alt | Repeat


@dataclass(frozen=True)
class Grammar:
    """Rules of a language.

    Attributes:
        rules: what each name stands for; a rule uses only rules before it, the last one is the whole text.
            Names are letters and digits, the only ones that every notation allows.
        terminals: rules without references that a lexer must read as one piece.
    """

    rules: dict[str, Expr]
    terminals: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Notation:
    """How a notation writes the parts of a rule."""

    text: Callable[[str], str]
    none_of: str
    ref: Callable[[str], str]
    space: str = " "
    group: str = "("


def seq(*parts: Expr) -> Expr:
    """Parts in order, neighbouring texts joined, sequences inside flattened."""
    flat: list[Expr] = []
    for part in parts:
        for item in part.parts if isinstance(part, Seq) else (part,):
            last = flat[-1] if flat else None
            if isinstance(item, Text) and isinstance(last, Text):
                flat[-1] = Text(last.text + item.text)
            elif item != Text(""):
                flat.append(item)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*options: Expr) -> Expr:
    """One of several options; a single one is itself."""
    return options[0] if len(options) == 1 else Alt(options)


def to_gbnf(grammar: Grammar) -> str:
    """Grammar for llama.cpp, and, as it keeps to their common part, the EBNF of xgrammar and SGLang.

    Example:
        >>> print(to_gbnf(Grammar({"root": alt(Text("a"), Repeat(Text("b"), 2, 2))})), end="")
        root ::= "a" | "b"{2}

    Source: grammars/README.md of llama.cpp.
    """
    notation = _Notation(_quoted, "[^{}]", str)
    lines = [f"{name} ::= {_write(rule, notation, 0)}\n" for name, rule in grammar.rules.items()]
    return "".join(reversed(lines))


def to_lark(grammar: Grammar) -> str:
    """Grammar in the Lark dialect of llguidance.

    Source: docs/syntax.md of llguidance.
    """
    top = next(reversed(grammar.rules))
    names = {name: name.upper() for name in grammar.terminals} | {top: "start"}
    notation = _Notation(_quoted, "/[^{}]/", lambda name: names.get(name, name))
    lines = []
    for name, rule in grammar.rules.items():
        if name in grammar.terminals:
            pattern = _write(rule, _REGEX, 0).replace("/", r"\/")
            lines.append(f"{names[name]}: /{pattern}/\n")
        else:
            lines.append(f"{names.get(name, name)}: {_write(rule, notation, 0)}\n")
    return "".join(reversed(lines))


def to_regex(grammar: Grammar) -> str:
    """Regular expression of the whole language, in the syntax that Python's `re` and Rust share.

    It has no rules to refer to, so what two rules share is written twice. "Runs that add up to a row" doubles
    with every cell: a row of some ten cells is the most that fits, while "full" masks stay short.

    Raises:
        ValueError: the expression would be longer than `REGEX_LIMIT` characters.

    Example:
        >>> to_regex(Grammar({"a": alt(Text("x"), Text("y")), "root": Repeat(Ref("a"), 3, 3)}))
        '(?:x|y){3}'
    """
    done: dict[str, str] = {}
    alternatives: set[str] = set()
    notation = _Notation(
        _regex_text,
        "[^{}]",
        lambda name: f"(?:{done[name]})" if name in alternatives else done[name],
        space="",
        group="(?:",
    )
    for name, rule in grammar.rules.items():
        done[name] = _write(rule, notation, 0)
        if isinstance(rule, Alt):
            alternatives.add(name)
        if len(done[name]) > REGEX_LIMIT:
            raise ValueError(
                f"a regular expression of this grammar takes more than {REGEX_LIMIT} characters; "
                "choose gbnf, ebnf or lark, which engines read faster as well"
            )
    return done[next(reversed(grammar.rules))]


def _write(rule: Expr, notation: _Notation, level: int) -> str:
    """A rule's body; level 0 stands alone, 1 is part of a sequence, 2 is repeated."""
    if isinstance(rule, Text):
        text = notation.text(rule.text)
        grouped = level == 2 and notation.space == "" and len(rule.text) > 1
        return f"{notation.group}{text})" if grouped else text
    if isinstance(rule, NoneOf):
        return notation.none_of.format("".join(map(_bracket, rule.spans)))
    if isinstance(rule, Ref):
        return notation.ref(rule.name)
    if isinstance(rule, Repeat):
        return _write(rule.part, notation, 2) + _times(rule.low, rule.high)
    if isinstance(rule, Seq):
        text = notation.space.join(_write(part, notation, 1) for part in rule.parts)
        return f"{notation.group}{text})" if level == 2 else text
    bar = f"{notation.space}|{notation.space}"
    text = bar.join(_write(option, notation, 0) for option in rule.options)
    return f"{notation.group}{text})" if level else text


def _times(low: int, high: int | None) -> str:
    short = {(1, 1): "", (0, 1): "?", (0, None): "*", (1, None): "+"}
    if (low, high) in short:
        return short[low, high]
    return f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"


def _bracket(char: str) -> str:
    """A character between brackets; what does not print is written by its number."""
    code = ord(char)
    if char.isascii() and char.isprintable():
        return char
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def _quoted(text: str) -> str:
    return '"' + "".join(_NAMED.get(char, char) for char in text).replace('"', '\\"') + '"'


def _regex_text(text: str) -> str:
    return "".join(f"\\{char}" if char in _REGEX_MARKS else _NAMED.get(char, char) for char in text)


_REGEX = _Notation(_regex_text, "[^{}]", str, space="", group="(?:")
