"""Turn D-cube, descriptions that hold or do not hold of an image, into conversation records.

    python playground/data/create_json/create_d_cube.py

Text4Seg (arXiv 2410.09855) builds 16x16 grids, one round and two copies; these are the defaults, with all
descriptions (split full). The set is made for tests: to train on it gives up its benchmark. Arguments: see
create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("dcube"))
