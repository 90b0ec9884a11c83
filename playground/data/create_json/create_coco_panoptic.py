"""Turn COCO Panoptic, 133 classes of things and stuff, into conversation records.

    python playground/data/create_json/create_coco_panoptic.py --split train

Text4Seg++ (arXiv 2509.06321) trains on it and tells no settings; the defaults are ours: 32x32 cells, one
round, three draws of ten show a square part of the image. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("coco_panoptic"))
