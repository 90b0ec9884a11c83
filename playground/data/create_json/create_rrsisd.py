"""Turn RRSIS-D, referring expressions on satellite images, into conversation records.

    python playground/data/create_json/create_rrsisd.py --split train

No builder of it is published; the defaults are those of RefCOCO. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("rrsisd"))
