"""Put the trained tiny models where the repository ships them, with their measured scores.

    python scripts/tiny_model/ship.py --results runs/tiny/val/results.json

Copies weights and configs to playground/checkpoints and writes the scores of the results file, with the
command that measured them, into `segmentation.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

from llava.settings import SegmentationSettings

CHECKPOINTS = Path(__file__).resolve().parents[2] / "playground" / "checkpoints"
LEFT_BEHIND = {"resume.pt", "head.pt"}
MEASURED_WITH = (
    "python playground/data/create_refshapes.py --train 0 && "
    "LIMIT=150 SAM_PATH=playground/checkpoints/tiny-sam-refshapes bash scripts/v1_5/eval/refer_seg.sh "
    "playground/checkpoints/tiny-llava-refshapes 'refshapes|val' 'grefshapes|val'"
)


def copy_model(source: Path, target: Path) -> None:
    """Copy all files of a model but those that only its training needs; a model card there stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in LEFT_BEHIND:
            shutil.copyfile(path, target / path.name)


def main() -> None:
    """Copy both models and record the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llava", type=Path, default=Path("runs/tiny/llava"), help="trained LLaVA")
    parser.add_argument("--sam", type=Path, default=Path("runs/tiny/sam"), help="trained SAM")
    parser.add_argument("--results", type=Path, help="results.json of refer_seg.sh; none: no scores")
    args = parser.parse_args()
    copy_model(args.llava, CHECKPOINTS / "tiny-llava-refshapes")
    copy_model(args.sam, CHECKPOINTS / "tiny-sam-refshapes")
    if args.results:
        results = json.loads(args.results.read_text(encoding="utf-8"))
        told = {"measured_with": MEASURED_WITH, "definition": results["definition"]}
        told |= {split: content["scores"] for split, content in results["splits"].items()}
        settings = SegmentationSettings.load(args.llava)
        dataclasses.replace(settings, scores=told).save(CHECKPOINTS / "tiny-llava-refshapes")


if __name__ == "__main__":
    main()
