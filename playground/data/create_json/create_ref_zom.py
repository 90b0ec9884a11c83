"""Turn Ref-ZOM into conversation records: one target, many, or none.

    python playground/data/create_json/create_ref_zom.py --split train

No builder of it is published; the defaults are those of gRefCOCO. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("refzom"))
