"""Turn PASCAL-Part, parts of the twenty VOC classes, into conversation records.

    python playground/data/create_json/create_pascal_part.py --split train

Text4Seg (arXiv 2410.09855) builds 32x32 grids, two rounds and one copy; these are the defaults. Arguments:
see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("pascal_part"))
