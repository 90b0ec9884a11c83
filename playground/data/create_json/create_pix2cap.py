"""Turn Pix2Cap-COCO, one caption for each panoptic segment, into conversation records.

    python playground/data/create_json/create_pix2cap.py --split train

No builder of it is published for mask text; the defaults are ours: 24x24 cells, two rounds, one copy.
Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("pix2cap"))
