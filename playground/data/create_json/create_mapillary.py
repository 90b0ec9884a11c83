"""Turn Mapillary Vistas 2.0 into conversation records.

    python playground/data/create_json/create_mapillary.py --split train

Text4Seg (arXiv 2410.09855) gives every image a grid of its own, at most 32 cells a side; here all have 32x32
cells, as one checkpoint reads one grid. One copy, the whole image. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("mapillary"))
