"""Turn ADE20K, the 150 classes of its scene parsing benchmark, into conversation records.

    python playground/data/create_json/create_ade20k.py --split train

Text4Seg (arXiv 2410.09855) builds 32x32 grids, two rounds, five copies, each a square part of the image;
these are the defaults. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("ade20k"))
