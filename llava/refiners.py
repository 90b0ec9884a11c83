"""The ways to refine a mask and their options, known and checked without loading anything."""

from __future__ import annotations

from typing import Any

NO_REFINER = "none"

REFINER_OPTIONS: dict[str, dict[str, Any]] = {
    NO_REFINER: {},
    "sam": {"iterations": 3, "points": 10, "use_box": False, "min_agreement": 0.1},
    "samrefiner": {"iterations": 5, "min_agreement": 0.1},
}
"""Options of each way with their defaults; `seed` is an option of all that choose something.

sam: Text4Seg's way, 3 passes with 10 points inside and 10 outside. samrefiner: SAMRefiner's way, 5 passes as
in its released code. min_agreement: IoU with the coarse mask below which a refined one is dropped. A coarse
mask of a few cells may well have an IoU of 0.3 with the object it stands for; under 0.1 the two share so
little that SAM has jumped to a neighbour or to the background, as it does on a poor prompt.
"""

_LEAST = {"iterations": 1, "points": 0, "min_agreement": 0.0}


def refiner_options(name: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401
    """All options of a way: those given, defaults for those that are None.

    Example:
        >>> refiner_options("samrefiner", iterations=2, points=None)
        {'iterations': 2, 'min_agreement': 0.1}

    Raises:
        ValueError: no such way, an option that it does not have, or a value out of range.
    """
    if name not in REFINER_OPTIONS:
        raise ValueError(f"unknown refiner {name!r}; known: {', '.join(REFINER_OPTIONS)}")
    known = REFINER_OPTIONS[name]
    chosen = {option: value for option, value in given.items() if value is not None}
    foreign = sorted(chosen.keys() - known.keys())
    if foreign:
        raise ValueError(
            f"refiner {name!r} has no {', '.join(foreign)}; its options: {', '.join(known) or 'none'}"
        )
    options = known | chosen
    for option, least in _LEAST.items():
        if option in options and not options[option] >= least:
            raise ValueError(f"{option} {options[option]} of the refiner: at least {least} is needed")
    if options.get("min_agreement", 0.0) > 1:
        raise ValueError(f"min_agreement {options['min_agreement']} of the refiner: an IoU, at most 1")
    return options
