"""Turn PACO-LVIS, parts of everyday objects, into conversation records.

    python playground/data/create_json/create_paco_lvis.py --split train

Text4Seg (arXiv 2410.09855) builds 32x32 grids, two rounds and one copy; these are the defaults. Arguments:
see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("paco_lvis"))
