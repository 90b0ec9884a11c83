"""Turn COCO-Stuff, 171 classes, into conversation records.

    python playground/data/create_json/create_cocostuff.py --split train

Asks for everything, for some classes, or for a list with absent classes. Text4Seg (arXiv 2410.09855) builds
32x32 grids, two rounds, ten copies, each a square part of the image; these are the defaults. Ten copies of
118,000 images are a file of several gigabytes: --format store keeps each image once. Arguments: see
create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("cocostuff"))
