"""Turn one's own images, masks and sentences into conversation records, or into a store.

    python playground/data/create_json/create_own.py --root my_folder --split train --format store

`my_folder` holds `images`, `masks` and one table, sentences.csv, .json or .jsonl; `llava/data/readers/own.py`
says what its columns are, and playground/data/own_example is such a folder. A wrong row stops the build with
its line; `python scripts/check_data.py --root my_folder --dataset own --read` lists all of them at once.
Arguments: see create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("own"))
