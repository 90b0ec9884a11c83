"""Turn PASCAL VOC 2012, 20 classes, into conversation records.

    python playground/data/create_json/create_voc20.py --split train

Text4Seg only evaluates on it; the defaults are those of create_ade20k.py. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("voc20"))
