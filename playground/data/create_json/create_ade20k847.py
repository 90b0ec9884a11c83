"""Turn ADE20K with 847 classes into conversation records.

    python playground/data/create_json/create_ade20k847.py --split train

Same defaults as create_ade20k.py; a question names at most 170 absent classes. Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("ade20k847"))
