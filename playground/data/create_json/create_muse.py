"""Turn MUSE into conversation records: all targets of a question in one answer, each under its name.

    python playground/data/create_json/create_muse.py --split train

No builder of it is published for mask text; the defaults are ours: 24x24 cells, one round. Its images are
COCO's of 2014 and 2017. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("muse"))
