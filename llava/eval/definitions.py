"""How published code turns masks into numbers: one row of rules per definition, nothing but data.

The seven golden answers of the tests score a cIoU of 25 under one row and of 53 under another, so a number
without the name of its definition says little. All rows are measured at image size, on the same counts. A
changed option is written behind the name and goes wherever the number goes: "rela:side=480,min_area=50".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

THRESHOLDS_IN_TENTHS = (5, 6, 7, 8, 9)
"""P@0.5 … P@0.9, as integers so that an IoU of exactly 0.7 is compared without rounding (LAVT, ReLA)."""

PRECISIONS = tuple(f"P@0.{tenths}" for tenths in THRESHOLDS_IN_TENTHS)
METRICS = ("cIoU", "gIoU", "mIoU", *PRECISIONS, "N_acc", "T_acc", "box_acc")
"""Every metric, in the order of tables."""

CHOICES = {
    "rejected": ("drawn", "missed", "cleared"),
    "no_target": ("as_masks", "scored", "left_out"),
    "told_by": ("answer", "mask"),
    "box": ("annotated", "mask", "written"),
    "ignore": ("dropped", "target", "background"),
    "query": ("sentence", "merged"),
    "tie": ("background", "target"),
}
OPTIONS = ("box", "side", "min_area", "ignore", "query", "tie")
"""Fields that may be changed behind a name."""


@dataclass(frozen=True)
class Definition:
    """Rules of one code base.

    With P, G the predicted and the true pixels of an expression, I those in both and U those in either:

    Attributes:
        name: what every number under these rules is called.
        source: whose rules these are.
        reports: metrics that the source prints. gIoU and mIoU are the mean IoU under the rules below, by the
            name that the source gives it; cIoU (oIoU) is the sum of I over the sum of U.
        rejected: what a target adds that the answer calls absent. "drawn": I and U of its mask as if nothing
            had been said; "missed": I = 0 and U of its mask; "cleared": I = 0 and U = |G|, an empty mask.
        no_target: what an expression without a target adds. "as_masks": what its masks say, like any other;
            "scored": IoU 1 when rejected, else 0; "left_out": nothing, it counts in N_acc only.
        told_by: "answer": the answer rejects; "mask": a mask without a pixel does.
        false_area: |P| of a "scored" expression that was not rejected goes into the sum of U.
        empty_iou: IoU of a target when both masks are empty.
        epsilon: added to each U before the division, as the source does; never to the sums.
        box: what is compared. "annotated": the box of the mask with the dataset's box, right when IoU >= 0.5;
            "mask": with the box of the true mask, both from first to last pixel, right when IoU > 0.5;
            "written": the box that the answer writes, before any refiner, with the dataset's, IoU >= 0.5.
        ignore: pixels without a decision are "dropped", count as "target" or as "background".
        min_area: a mask with fewer pixels is taken as empty and as a rejection; 0 for none.
        side: masks are squashed to side x side pixels before they are counted; 0 leaves the image size.
        query: "sentence": each sentence is one expression; "merged": the answers to all sentences of a target
            are merged into one by the majority of answers, pixel by pixel.
        tie: side of a pixel that stands exactly at the threshold, logit 0 or half of the merged answers.
    """

    name: str
    source: str
    reports: tuple[str, ...]
    rejected: str = "drawn"
    no_target: str = "as_masks"
    told_by: str = "answer"
    false_area: bool = False
    empty_iou: int = 0
    epsilon: Fraction = Fraction(0)
    box: str = "annotated"
    ignore: str = "dropped"
    min_area: int = 0
    side: int = 0
    query: str = "sentence"
    tie: str = "background"

    def __post_init__(self) -> None:
        """Check every choice and number, all problems at once."""
        problems = [
            f"{field}={getattr(self, field)}: known are {', '.join(known)}"
            for field, known in CHOICES.items()
            if getattr(self, field) not in known
        ]
        problems += [
            f"{field}={getattr(self, field)}: 0 or more pixels"
            for field in ("side", "min_area")
            if getattr(self, field) < 0
        ]
        problems += [f"reports {metric!r}: unknown" for metric in self.reports if metric not in METRICS]
        if problems:
            raise ValueError(f"definition {self.name}: {'; '.join(problems)}")

    @property
    def protocol(self) -> tuple[int, str, str]:
        """What decides the counts of an answer: side, query, tie. Definitions with equal ones share them."""
        return self.side, self.query, self.tie if self.query == "merged" else ""


_ROWS = (
    Definition(
        name="text4seg",
        source="Text4Seg (arXiv 2410.09855): a rejected target is an empty mask; REC from mask to mask box",
        reports=("cIoU", "gIoU", "box_acc"),
        rejected="cleared",
        empty_iou=1,
        epsilon=Fraction(1, 10**5),
        box="mask",
    ),
    Definition(
        name="lisa",
        source="LISA (arXiv 2308.00692), GLaMM too: masks only, two empty ones score 1",
        reports=("cIoU", "gIoU"),
        empty_iou=1,
        epsilon=Fraction(1, 10**5),
    ),
    Definition(
        name="gsva",
        source="GSVA (arXiv 2312.10103), gRefCOCO: wrongly rejected targets keep their mask in the IoUs",
        reports=("cIoU", "gIoU", "N_acc", "T_acc"),
        no_target="scored",
        false_area=True,
        epsilon=Fraction(1, 10**8),
        ignore="target",
        tie="target",
    ),
    Definition(
        name="gsva_refzom",
        source="GSVA (arXiv 2312.10103), Ref-ZOM: as gsva, but falsely drawn pixels cost no cIoU",
        reports=("cIoU", "gIoU", "N_acc", "T_acc"),
        no_target="scored",
        epsilon=Fraction(1, 10**8),
        ignore="target",
        tie="target",
    ),
    Definition(
        name="rela",
        source="ReLA, the evaluator of GRES (arXiv 2306.00968); published at side=480",
        reports=("cIoU", "gIoU", *PRECISIONS, "N_acc", "T_acc"),
        rejected="missed",
        no_target="scored",
        false_area=True,
    ),
    Definition(
        name="lavt",
        source="LAVT (arXiv 2112.02244), classic RES: every expression has a target; published at side=480",
        reports=("cIoU", "mIoU", *PRECISIONS),
    ),
    Definition(
        name="refzom",
        source="DMMI, evaluator of Ref-ZOM (arXiv 2308.13853): N_acc by empty masks; published at side=480",
        reports=("cIoU", "mIoU", *PRECISIONS, "N_acc"),
        rejected="cleared",
        no_target="left_out",
        told_by="mask",
    ),
    Definition(
        name="rec",
        source="referring comprehension: box of the mask against the one annotated box, IoU >= 0.5",
        reports=("box_acc",),
        rejected="cleared",
    ),
)
DEFINITIONS = {row.name: row for row in _ROWS}

MAIN = DEFINITIONS["rela"]
"""Definition of the plain `scores` in results, of progress lines and of captions."""


def find_definition(text: str) -> Definition:
    """Definition of a name, with options changed: "gsva", "rela:side=480,min_area=50".

    Options come back in one order, and one that changes nothing is left out of the name, so that equal rules
    have equal names.

    Raises:
        ValueError: the name, an option or a value is unknown.

    Example:
        >>> find_definition("rela:min_area=50,side=480,tie=background").name
        'rela:side=480,min_area=50'
    """
    name, colon, changes = text.partition(":")
    if name not in DEFINITIONS:
        raise ValueError(f"unknown definition {name!r}; known: {', '.join(DEFINITIONS)}")
    base = DEFINITIONS[name]
    given: dict[str, str] = {}
    for change in changes.split(",") if colon else ():
        option, _, value = change.partition("=")
        if option not in OPTIONS or option in given:
            raise ValueError(f"definition {text!r}: {change!r} is none of {', '.join(OPTIONS)}, each once")
        given[option] = value
    values: dict[str, int | str] = {
        option: given[option] if option in CHOICES else _pixels(text, given[option])
        for option in OPTIONS
        if option in given
    }
    changed = {option: value for option, value in values.items() if value != getattr(base, option)}
    tail = ",".join(f"{option}={value}" for option, value in changed.items())
    return replace(base, name=f"{name}:{tail}" if tail else name, **changed)  # type: ignore[arg-type]


def _pixels(text: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"definition {text!r}: {value!r} is no number of pixels, for example min_area=50")
    return int(value)
