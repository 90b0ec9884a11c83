"""In which form the masks of records are written: grid, and whether as labels of cells or as bricks of a box.

An image-wise record names its grid alone, as records of Text4Seg do; which of the image-wise codecs wrote it
shows when its answers are read. A box-wise one also names codec, order and tail, because bricks read in a
wrong order are a mask too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from llava.settings import BRICK_ORDERS, BRICKS

FORM_FIELDS = ("grid_hw", "codec", "brick_order", "brick_tail")
"""Draw settings that belong to the checkpoint, the same for everything it is trained on."""

Counts = dict["Form", tuple[int, object]]
"""Of each form how many records have it, and the id of the first."""


class Form(NamedTuple):
    """How masks are written.

    Attributes:
        grid_hw: rows and columns of the image's grid, or of each box's.
        brick_order: order of the cells in bricks, "" for an image-wise codec.
        brick_tail: whether the background behind the last foreground is written; false for image-wise ones.
    """

    grid_hw: tuple[int, int]
    brick_order: str = ""
    brick_tail: bool = False

    def __str__(self) -> str:
        grid = f"{self.grid_hw[0]}x{self.grid_hw[1]} grid"
        tail = "with" if self.brick_tail else "without"
        return grid + (f" in bricks ({self.brick_order}, {tail} tail)" if self.brick_order else "")

    def flags(self) -> str:
        """What a builder has to be told to write such records."""
        grid = f"--grid {self.grid_hw[0]}x{self.grid_hw[1]}"
        if not self.brick_order:
            return grid
        tail = "--brick-tail" if self.brick_tail else "--no-brick-tail"
        return f"--codec {BRICKS} {grid} --brick-order {self.brick_order} {tail}"

    def fields(self) -> dict[str, Any]:
        """What a record says about it."""
        sides: dict[str, Any] = {"height": self.grid_hw[0], "width": self.grid_hw[1]}
        if not self.brick_order:
            return sides
        return sides | {"codec": BRICKS, "brick_order": self.brick_order, "brick_tail": self.brick_tail}


def form_for(settings: Any) -> Form:  # noqa: ANN401 - DrawSettings or SegmentationSettings
    """Form that settings with grid_hw, codec, brick_order and brick_tail ask for."""
    if settings.codec != BRICKS:
        return Form(tuple(settings.grid_hw))
    return Form(tuple(settings.grid_hw), settings.brick_order, settings.brick_tail)


def form_of(record: Mapping[str, Any]) -> Form | None:
    """Form of a checked record, None where it has no mask."""
    if record.get("height") is None:
        return None
    grid_hw = (int(record["height"]), int(record["width"]))
    if record.get("codec") != BRICKS:
        return Form(grid_hw)
    return Form(grid_hw, record["brick_order"], record["brick_tail"])


def form_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of `Form.fields`."""
    sides = [record.get("height"), record.get("width")]
    if sides != [None, None] and not all(type(side) is int and side >= 1 for side in sides):
        yield f"height {sides[0]!r} and width {sides[1]!r}: both grid sides of at least 1, or neither"
    names = ("codec", "brick_order", "brick_tail")
    if not any(name in record for name in names):
        return
    codec, order, tail = (record.get(name) for name in names)
    if codec != BRICKS or order not in BRICK_ORDERS or not isinstance(tail, bool) or sides[0] is None:
        yield (
            f"codec {codec!r}, brick_order {order!r}, brick_tail {tail!r}: the codec must be {BRICKS!r}, the "
            f"order one of {', '.join(BRICK_ORDERS)}, the tail true or false, and height and width be there; "
            "leave all three out for image-wise masks"
        )


def count_forms(records: Iterable[Mapping[str, Any]]) -> Counts:
    """Forms of some checked records, those without a mask left out."""
    counts: Counts = {}
    for record in records:
        add_form(counts, record)
    return counts


def add_form(counts: Counts, record: Mapping[str, Any]) -> None:
    """Count the form of one more record, changes `counts`."""
    form = form_of(record)
    if form is not None:
        count, first = counts.get(form, (0, record["id"]))
        counts[form] = (count + 1, first)


def check_forms(name: str, counts: Counts, needed: Form, *, total: int, otherwise: str) -> None:
    """Refuse records that were written in another form.

    Args:
        name: what the records are called.
        counts: their forms.
        needed: form of the checkpoint.
        total: number of the records.
        otherwise: what else can be done than to build them again.

    Raises:
        ValueError: some have another form.
    """
    for form, (count, first) in counts.items():
        if form != needed:
            raise ValueError(
                f"{name}: {count} of {total} records have a {form}, first {first!r}; the checkpoint has "
                f"{needed}: build the records with {needed.flags()}, or {otherwise}"
            )
