"""Published numbers to hold a result against, each under the definition that measured it.

A number belongs beside another only when definition, metric and split agree; `how` says what else differs: a
refiner, answers that were forced along the true ones, another way of asking. All values are in percent. Where
every expression has a target, systems that reject nothing score the same under "text4seg", "lisa" and "gsva".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEAN = "mean of the splits"
JOINS = "+"
"""Between metrics of which the mean is taken."""
BOTH_IOUS = "gIoU+cIoU"
"""What Text4Seg averages over the splits of gRefCOCO."""

RES = (
    "refcoco|unc|val",
    "refcoco|unc|testA",
    "refcoco|unc|testB",
    "refcoco+|unc|val",
    "refcoco+|unc|testA",
    "refcoco+|unc|testB",
    "refcocog|umd|val",
    "refcocog|umd|test",
)
"""The eight splits of referring segmentation and comprehension, in the order of the papers."""

GRES = ("grefcoco|unc|val", "grefcoco|unc|testA", "grefcoco|unc|testB")
REASONING = ("reasonseg|val", "reasonseg|test", "reasonseg|test|short query", "reasonseg|test|long query")
"""A third part behind a split of ReasonSeg names one kind of its questions."""

CLASSES = ("ade20k|val", "pc59|val", "voc20|val")
MUSE = ("muse|val", "muse|test_less", "muse|test_many")
RRSIS_D = ("rrsisd|unc|val", "rrsisd|unc|test")
EARTH = ("earthreason|val", "earthreason|test")

_TEXT4SEG, _PLUS = "Text4Seg, arXiv 2410.09855", "Text4Seg++, arXiv 2509.06321"
_LISA, _GSVA, _RELA = "LISA, arXiv 2308.00692", "GSVA, arXiv 2312.10103", "GRES, arXiv 2306.00968"
_SAM = "refined by SAM ViT-H"
_FORCED = "answers forced along the true ones"
_NO_REFINER, _SAMREFINER = "64x64 grid in a box, no refiner", "64x64 grid in a box, refined by SAMRefiner"
_ONE_AVERAGE = "one average; of which metrics and splits is not told"


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        method: name of the system.
        definition: name of the definition that measured it, of `llava.eval.definitions`; for label maps of
            `llava.eval.semantic`, for questions about several targets of `llava.eval.targets`.
        metric: name of the metric, or several joined by "+" for their mean.
        values: percent of each split; `MEAN` stands for the mean over `RES`, or for that of the benchmark.
        source: where it is printed.
        how: what a reader must know to compare.
    """

    method: str
    definition: str
    metric: str
    values: Mapping[str, float]
    source: str
    how: str = ""


def _row(
    method: str,
    splits: Sequence[str],
    numbers: str,
    source: str,
    *,
    how: str = "",
    rules: tuple[str, str] = ("text4seg", "cIoU"),
) -> Published:
    """Row whose numbers stand in the order of the splits, a dash where none is published."""
    given = numbers.split()
    values = {split: float(number) for split, number in zip(splits, given, strict=True) if number not in "-"}
    return Published(method, *rules, values, source, how)


def _averages(rules: tuple[str, str], *rows: tuple[str, str, str]) -> tuple[Published, ...]:
    """Rows of method, number and what else to know, as Text4Seg++ prints them: one number for each system."""
    told = [
        (method, number, f"{how}; {_ONE_AVERAGE}" if how else _ONE_AVERAGE) for method, number, how in rows
    ]
    return tuple(_row(method, (MEAN,), number, _PLUS, how=how, rules=rules) for method, number, how in told)


_LISA_FT = "fine-tuned on the referring sets"
_TABLE_1 = f"{_TEXT4SEG}, table 1"
_RES_ROWS = (
    _row("LISA-7B", RES, "74.9 79.1 72.3 65.1 70.8 58.1 67.9 70.6", _TABLE_1, how=f"{_LISA_FT}; {_FORCED}"),
    _row("GSVA-7B", RES, "77.2 78.9 73.5 65.9 69.6 59.8 72.7 73.3", _TABLE_1, how=f"{_LISA_FT}; {_FORCED}"),
    _row("GSVA-13B", RES, "78.2 80.4 74.2 67.4 71.5 60.9 74.2 75.6", _TABLE_1, how=f"{_LISA_FT}; {_FORCED}"),
    _row(
        "GLaMM-7B", RES, "79.5 83.2 76.9 72.6 78.7 64.6 74.2 74.9", "survey of referring segmentation, 2025"
    ),
    _row(
        "Text4Seg LLaVA-1.5-7B",
        RES,
        "70.5 72.3 69.3 64.4 68.7 60.6 65.1 66.5",
        f"{_TEXT4SEG}, appendix",
        how="16x16 grid, no refiner",
    ),
    _row(
        "Text4Seg LLaVA-1.5-7B",
        RES,
        "79.3 81.9 76.2 72.1 77.6 66.1 72.1 73.9",
        _TABLE_1,
        how=f"16x16 grid, {_SAM}",
    ),
    _row(
        "Text4Seg LLaVA-1.5-13B",
        RES,
        "80.2 82.7 77.3 73.7 78.6 67.6 74.0 75.1",
        _TABLE_1,
        how=f"16x16 grid, {_SAM}",
    ),
    _row(
        "Text4Seg InternVL2-8B",
        RES,
        "74.7 77.4 71.6 68.5 73.6 62.9 70.7 71.6",
        f"{_TEXT4SEG}, appendix",
        how="32x32 grid, no refiner",
    ),
    _row(
        "Text4Seg InternVL2-8B",
        RES,
        "79.2 81.7 75.6 72.8 77.9 66.5 74.0 75.3",
        _TABLE_1,
        how=f"16x16 grid, {_SAM}",
    ),
    _row("Text4Seg++ 7B", (MEAN,), "79.3", _PLUS, how=_NO_REFINER),
    _row("Text4Seg++ 13B", (MEAN,), "79.7", _PLUS, how=_NO_REFINER),
    _row(
        "Text4Seg++ Qwen2-VL-7B",
        RES,
        "81.6 - - 76.9 - - 78.2 -",
        "STAMP (CVPR 2026), quoting Text4Seg++",
        how="its mean there is 78.9, that of the paper 79.3",
    ),
)

_TABLE_2 = f"{_TEXT4SEG}, table 2"
_LOGS = f"{_GSVA}, logs of the released weights"
_GRES_ROWS = tuple(
    _row(method, GRES, numbers, source, how=how, rules=(definition, metric))
    for method, definition, source, how, metrics in (
        (
            "ReLA Swin-B",
            "rela:side=480",
            _RELA,
            "",
            {"gIoU": "63.60 70.03 61.02", "cIoU": "62.42 69.26 59.88"},
        ),
        (
            "GSVA-7B",
            "gsva",
            _LOGS,
            f"fine-tuned on gRefCOCO; {_FORCED}",
            {
                "gIoU": "66.43 71.06 62.20",
                "cIoU": "63.19 69.87 60.35",
                "N_acc": "62.56 65.72 60.72",
                "T_acc": "99.62 98.69 99.10",
            },
        ),
        (
            "LISA-7B",
            "gsva",
            f"{_GSVA}, table of gRefCOCO",
            _FORCED,
            {"gIoU": "61.63 66.27 58.84", "cIoU": "61.76 68.50 60.63", "N_acc": "54.67 50.01 51.91"},
        ),
        (
            "Text4Seg LLaVA-1.5-7B",
            "text4seg",
            _TABLE_2,
            _SAM,
            {"gIoU": "73.6 74.1 66.1", "cIoU": "67.9 72.8 64.8"},
        ),
        (
            "Text4Seg LLaVA-1.5-13B",
            "text4seg",
            _TABLE_2,
            _SAM,
            {"gIoU": "74.8 75.1 68.0", "cIoU": "69.8 74.3 67.1"},
        ),
        (
            "Text4Seg InternVL2-8B",
            "text4seg",
            _TABLE_2,
            _SAM,
            {"gIoU": "74.4 75.1 67.3", "cIoU": "69.1 73.8 66.6"},
        ),
    )
    for metric, numbers in metrics.items()
) + tuple(
    _row(method, (MEAN,), number, source, how=how, rules=("text4seg", BOTH_IOUS))
    for method, number, source, how in (
        ("Text4Seg LLaVA-1.5-7B", "69.9", _TABLE_2, _SAM),
        ("Text4Seg LLaVA-1.5-13B", "71.5", _TABLE_2, _SAM),
        ("Text4Seg InternVL2-8B", "71.1", _TABLE_2, _SAM),
        ("Text4Seg++ 7B", "69.8", _PLUS, f"{_NO_REFINER}; {_ONE_AVERAGE}"),
    )
)

_REASONING_ROWS = tuple(
    _row(method, REASONING, numbers, source, how=how, rules=("lisa", metric))
    for method, source, how, metrics in (
        ("OVSeg", _LISA, "", {"gIoU": "28.5 26.1 18.0 28.7", "cIoU": "18.6 20.8 15.5 22.5"}),
        ("ReLA", _LISA, "", {"gIoU": "22.4 21.3 17.6 22.6", "cIoU": "19.9 22.0 15.0 23.8"}),
        ("LISA-7B", _LISA, _FORCED, {"gIoU": "44.4 36.8 37.6 36.6", "cIoU": "46.0 34.1 34.4 34.7"}),
        (
            "LISA-7B (ft)",
            _LISA,
            f"fine-tuned on ReasonSeg train; {_FORCED}",
            {"gIoU": "52.9 47.3 40.6 49.4", "cIoU": "54.0 48.4 40.6 51.0"},
        ),
        (
            "LISA-13B-LLaVA1.5 (ft)",
            _LISA,
            f"fine-tuned on ReasonSeg train; {_FORCED}",
            {"gIoU": "65.0 61.3 55.4 63.2", "cIoU": "72.9 62.2 50.6 65.3"},
        ),
        (
            "Seg-Zero-7B",
            "survey of referring segmentation, 2025",
            "refined by SAM 2",
            {"gIoU": "62.6 57.5 - -", "cIoU": "62.0 52.0 - -"},
        ),
    )
    for metric, numbers in metrics.items()
) + _averages(
    ("lisa", BOTH_IOUS),
    ("SegLLM", "53.1", ""),
    ("Seg-Zero", "56.2", ""),
    ("Text4Seg++ 7B", "54.5", _SAMREFINER),
)
_JUDGED = "a language model judges the words too"
_MUSE_ROWS = _averages(
    ("targets", BOTH_IOUS),
    ("LISA", "26.7", _JUDGED),
    ("POPEN", "52.5", _JUDGED),
    ("Text4Seg++ 7B", "63.8", ""),
)
_RRSIS_D_ROWS = _averages(
    ("lavt:side=480", "cIoU+mIoU"),
    ("SegEarth-R1", "74.4", ""),
    ("Text4Seg++ 7B", "70.8", ""),
)
_EARTH_ROWS = _averages(
    ("lisa", BOTH_IOUS),
    ("SegEarth-R1", "68.0", ""),
    ("SegEarth-R2", "70.9", ""),
    ("Text4Seg++ 7B", "70.1", ""),
)

WRITTEN_BOX = "rec:box=written"
"""Definition of the box that stands in the answer, where one is written."""

_WHICH_BOX = "whether the box of the mask or the one written is not told"
_TABLE_3 = f"{_TEXT4SEG}, table 3"
_REC_ROWS = tuple(
    _row(method, splits, numbers, source, how=how, rules=("text4seg", "box_acc"))
    for method, splits, numbers, source, how in (
        ("LISA-7B", RES, "85.4 88.8 82.6 74.2 79.5 68.4 79.3 80.4", _TABLE_3, _FORCED),
        ("GSVA-7B", RES, "86.3 89.2 83.8 72.8 78.8 68.0 81.6 81.8", _TABLE_3, _FORCED),
        ("Text4Seg LLaVA-1.5-7B", RES, "90.8 93.7 87.6 84.7 90.2 79.0 84.8 85.0", _TABLE_3, _SAM),
        ("Text4Seg LLaVA-1.5-13B", RES, "91.2 94.3 88.0 85.7 90.8 80.1 85.6 85.5", _TABLE_3, _SAM),
        ("Text4Seg InternVL2-8B", RES, "88.3 91.4 85.8 83.5 88.2 77.9 82.4 82.5", _TABLE_3, "no refiner"),
        ("Text4Seg InternVL2-8B", RES, "90.3 93.4 87.5 85.2 89.9 79.5 85.4 85.4", _TABLE_3, _SAM),
    )
) + tuple(
    _row(method, (MEAN,), number, _PLUS, how=how, rules=rules)
    for rules in (("text4seg", "box_acc"), (WRITTEN_BOX, "box_acc"))
    for method, number, how in (
        ("InternVL3", "89.7", ""),
        ("Text4Seg++ 7B", "91.1", f"no refiner; {_WHICH_BOX}"),
        ("Text4Seg++ 13B", "92.0", f"no refiner; {_WHICH_BOX}"),
    )
)

_TABLE_5 = f"{_TEXT4SEG}, table 5"
_CLASS_ROWS = tuple(
    _row(method, CLASSES, numbers, _TABLE_5, how=how, rules=(definition, "mIoU"))
    for method, definition, numbers, how in (
        ("ClearCLIP", "standard", "16.7 35.9 80.9", ""),
        ("ProxyCLIP", "standard", "24.2 39.6 83.3", ""),
        ("OVSeg", "standard", "24.8 53.3 92.6", ""),
        ("SAN", "standard", "27.5 53.8 94.0", ""),
        ("LaSagnA", "standard", "14.3 46.1 69.8", ""),
        ("Text4Seg LLaVA-1.5-7B", "text4seg", "16.5 52.5 76.5", f"trained on COCO-Stuff, 32x32 grid, {_SAM}"),
    )
)

PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "refer_seg": _RES_ROWS,
    "gres": _GRES_ROWS,
    "reason_seg": _REASONING_ROWS,
    "refer_comprehension": _REC_ROWS,
    "semantic_seg": _CLASS_ROWS,
    "muse": _MUSE_ROWS,
    "rrsis_d": _RRSIS_D_ROWS,
    "earth_reason": _EARTH_ROWS,
}
"""Rows by the name of the benchmark, see `llava.eval.benchmarks`."""


def published(benchmark: str, definition: str, metric: str, columns: Sequence[str]) -> list[Published]:
    """Rows of a benchmark under one definition that have a number in at least one of the columns.

    Example:
        >>> [row.values["pc59|val"] for row in published("semantic_seg", "text4seg", "mIoU", ["pc59|val"])]
        [52.5]
    """
    return [
        row
        for row in PUBLISHED.get(benchmark, ())
        if (row.definition, row.metric) == (definition, metric) and row.values.keys() & set(columns)
    ]
