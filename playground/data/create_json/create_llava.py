"""Check conversations in LLaVA's form and write those that are sound, texts unchanged.

    python playground/data/create_json/create_llava.py --split llava_v1_5_mix665k.json --on-error skip

The splits are files under the root, image paths in them start from --image-folder. Left out and counted are
records without their image and, unless --keep-test-images is given, records on COCO images of RefCOCO's val
and test splits, told by their file names; Visual Genome and GQA keep other names for some of the same
photographs, which are not found. Grid, codec, crop, flip, rounds and copies change nothing here. Arguments:
see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("llava"))
