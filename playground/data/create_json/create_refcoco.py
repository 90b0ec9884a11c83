"""Turn RefCOCO, RefCOCO+, RefCOCOg, RefCLEF (and the generated RefShapes) into conversation records.

    python playground/data/create_json/create_refcoco.py --dataset refcoco --split train

writes playground/data/json_files/refcoco_train_16x16_r2_c2.json and prints what was taken and left out. Two
cores need about two minutes for the 42,404 refs of RefCOCO train. Other sets: refcoco+, refcocog, refclef,
refshapes. With --format store it writes playground/data/stores/refcoco_train, see create.py.

Text4Seg (arXiv 2410.09855) builds 16x16 grids, two rounds and two copies of every ref; these are the
defaults. The sets share images: a training image of one is a test image of another, and is left out unless
--keep-test-images is given. Several splits, also of several sets and of other split files, go together with:

    python playground/data/create_json/create_refcoco.py --spec "refcoco|unc|val" "refcocog|google|val"
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("refcoco"))
