"""The shortest way to finish a mask that is cut off: what is missing becomes background."""

from __future__ import annotations

from collections.abc import Sequence

from llava.constants import BACKGROUND, SEG_CLOSE


def closing(
    text: str, grid_hw: tuple[int, int], *, codec: str = "rrle", labels: Sequence[str] = (BACKGROUND,)
) -> str:
    r"""Text that completes a mask of the grammar's spelling; invents no region.

    A label in the middle of which the text stops keeps one cell: the first of `labels` that the written part
    begins, else that part is its name. The background is taken where it can be.

    Args:
        text: the mask behind its `<seg>`, cut off anywhere; bytes of a cut character as in "surrogateescape".
        grid_hw: rows and columns of the mask.
        codec: "rrle", "full" or "irle".
        labels: names that may be meant, "others" first.

    Returns:
        What to put behind `text`, the closing tag included; also with such bytes where it ends a character.

    Example:
        >>> closing("others *1| dog *2| others *1\n others *1| do", (3, 4))
        ' *1| others *2\n others *4\n</seg>'
    """
    height, width = grid_hw
    tag = _rest_of_tag(text)
    if tag is not None:
        return tag
    if codec == "full":
        pieces = text.split("|")
        rest = _rest_of_label(pieces[-1], " " if len(pieces) > 1 else "", labels)
        return rest + f"| {BACKGROUND}" * (height * width - len(pieces)) + SEG_CLOSE
    if codec == "irle":
        return _rest_of_runs(text, height * width, "", labels) + SEG_CLOSE
    *lines, tail = text.split("\n")
    if len(lines) == height:
        return SEG_CLOSE
    rest = _rest_of_runs(tail, width, " " if lines else "", labels) + "\n"
    return rest + f" {BACKGROUND} *{width}\n" * (height - len(lines) - 1) + SEG_CLOSE


def _rest_of_tag(text: str) -> str | None:
    """What is missing of a closing tag that has begun."""
    for size in range(len(SEG_CLOSE), 0, -1):
        if text.endswith(SEG_CLOSE[:size]):
            return SEG_CLOSE[size:]
    return None


def _rest_of_runs(text: str, cells: int, lead: str, labels: Sequence[str]) -> str:
    """What is missing of runs that fill `cells` cells; `lead` stands before the first one."""
    *pieces, last = text.split("|")
    left = cells - sum(int(piece.rpartition("*")[2]) for piece in pieces)
    lead = " " if pieces else lead
    label, star, count = last.rpartition(" *")
    if not star:
        rest = _rest_of_label(last, lead, labels)
        label = last + rest
        rest += "*" if label.endswith(" ") else " *"
    else:
        rest = ""
    if not count or not star:
        cells_here = left if label.strip() == BACKGROUND else 1
        rest, count = rest + str(cells_here), str(cells_here)
    left -= int(count)
    return rest + (f"| {BACKGROUND} *{left}" if left else "")


def _rest_of_label(last: str, lead: str, labels: Sequence[str]) -> str:
    """What is missing of the first label that the written part begins; nothing where it begins none."""
    begun = last.encode(errors="surrogateescape")
    wholes = (f"{lead}{label}".encode() for label in labels)
    rest = next((whole[len(begun) :] for whole in wholes if whole.startswith(begun)), b"")
    return rest.decode(errors="surrogateescape")
