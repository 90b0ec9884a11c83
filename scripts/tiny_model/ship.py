"""Put a trained tiny model where the repository ships it, with its measured scores.

    python scripts/tiny_model/ship.py runs/tiny/sam tiny-sam-refshapes
    python scripts/tiny_model/ship.py runs/tiny/llava tiny-llava-refshapes --results results.json

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
    "playground/checkpoints/{name} 'refshapes|val' 'grefshapes|val'"
)


def copy_model(source: Path, target: Path) -> None:
    """Copy all files of a model but those that only its training needs; a model card there stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in LEFT_BEHIND:
            shutil.copyfile(path, target / path.name)


def main() -> None:
    """Copy the model and record its scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("name", help="folder below playground/checkpoints")
    parser.add_argument("--results", type=Path, help="results.json of refer_seg.sh; none: no scores")
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(
            f"{args.model} holds no trained model (no config.json); scripts/tiny_model/train.sh makes them"
        )
    copy_model(args.model, CHECKPOINTS / args.name)
    if args.results:
        results = json.loads(args.results.read_text(encoding="utf-8"))
        told = {"measured_with": MEASURED_WITH.format(name=args.name), "definition": results["definition"]}
        told |= {split: content["scores"] for split, content in results["splits"].items()}
        settings = SegmentationSettings.load(args.model)
        dataclasses.replace(settings, scores=told).save(CHECKPOINTS / args.name)


if __name__ == "__main__":
    main()
