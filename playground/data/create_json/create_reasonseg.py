"""Turn ReasonSeg into conversation records; questions that are sentences stay as they are.

    python playground/data/create_json/create_reasonseg.py --split train

Answers come from the set's explanations where it has them. No builder of it is published for mask text; the
defaults are ours: 24x24 cells, one round. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("reasonseg"))
