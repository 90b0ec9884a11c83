"""Turn gRefCOCO (and the generated gRefShapes) into conversation records: several targets, or none.

    python playground/data/create_json/create_grefercoco.py --split train

All targets of an expression are one region under its label; an expression without a target is answered with
background alone. Text4Seg (arXiv 2410.09855) builds 24x24 grids and one copy of every ref; these are the
defaults. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("grefcoco"))
