"""Turn EarthReason, questions about satellite images, into conversation records.

    python playground/data/create_json/create_earthreason.py --split train

No builder of it is published for mask text; the defaults are ours: 24x24 cells, one round. Arguments: see
create.py.
"""

from __future__ import annotations

import sys

from create import main

if __name__ == "__main__":
    sys.exit(main("earthreason"))
