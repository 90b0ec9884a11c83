"""Write plain questions about RefShapes scenes as conversations that keep a model answering.

    python playground/data/create_scene_questions.py --output playground/data/json_files/questions.json

Image paths are those of create_refshapes.py with the same --seed and --shapes, relative to its --root; a
mixture takes the file as it takes LLaVA-665k. `python -m llava.eval.scene_vqa` asks such questions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llava.data.refshapes.questions import question_records
from llava.data.refshapes.scene import NEW_SHAPES, SHAPES
from llava.data.refshapes.split import SPLIT_CODES
from llava.files import write_text_atomic


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="JSON file of conversations")
    add("--split", choices=list(SPLIT_CODES), default="train", help="scenes that are asked about")
    add("--scenes", type=int, default=400, help="how many of them")
    add("--each", type=int, default=2, help="questions of each kind about a scene")
    add("--seed", type=int, default=0, help="of scenes and questions")
    known = SHAPES + NEW_SHAPES
    add("--shapes", nargs="+", choices=known, default=list(SHAPES), help="shapes that the scenes show")
    args = parser.parse_args(argv)
    try:
        records = question_records(
            args.split, args.scenes, seed=args.seed, each=args.each, shapes=tuple(args.shapes)
        )
    except ValueError as error:
        parser.error(str(error))
    write_text_atomic(args.output, json.dumps(records, indent=1) + "\n")
    questions = sum(len(record["conversations"]) // 2 for record in records)
    print(f"{args.output}: {questions} questions about {len(records)} scenes")


if __name__ == "__main__":
    main()
