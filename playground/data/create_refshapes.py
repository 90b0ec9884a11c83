"""Generate RefShapes: a small referring-segmentation benchmark in the file layouts of RefCOCO and gRefCOCO.

    python playground/data/create_refshapes.py --root playground/data/refer_seg

With --questions N, whole questions about N scenes of val in the layout of ReasonSeg as well.

Seeded: the same arguments give the same files, and scene i of a split never depends on how many there are.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llava.data.refshapes.reasoning import write_reasoning
from llava.data.refshapes.scene import NEW_SHAPES, SHAPES
from llava.data.refshapes.split import SPLIT_CODES
from llava.data.refshapes.write import write_refshapes

DEFAULT_COUNTS = {"train": 400, "val": 100, "testA": 60, "testB": 60}


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, draw, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=Path("playground/data/refer_seg"), help="folder to write to"
    )
    for split in SPLIT_CODES:
        parser.add_argument(f"--{split}", type=int, default=DEFAULT_COUNTS[split], help=f"scenes of {split}")
    parser.add_argument("--questions", type=int, default=0, help="scenes of val in the layout of ReasonSeg")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    known = ", ".join(SHAPES + NEW_SHAPES)
    parser.add_argument(
        "--shapes", nargs="+", default=list(SHAPES), metavar="SHAPE", help=f"some of: {known}"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw")
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLIT_CODES}
    try:
        written = write_refshapes(
            args.root, counts, seed=args.seed, shapes=tuple(args.shapes), workers=args.workers
        )
        if args.questions:
            written["questions"] = write_reasoning(
                args.root, args.questions, seed=args.seed, shapes=tuple(args.shapes)
            )
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.root}: " + ", ".join(f"{count} {name}" for name, count in written.items()))


if __name__ == "__main__":
    main()
