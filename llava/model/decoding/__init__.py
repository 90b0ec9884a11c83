"""Decoding that knows what a mask text looks like: constrained, and in a fraction of the passes.

Importing this package loads neither torch nor the grammar engine.
"""

from __future__ import annotations

from importlib.util import find_spec

ENGINE = "llguidance"
"""Package that tells which tokens a grammar allows."""

PLAIN = "plain"
DECODINGS = {
    PLAIN: "the model alone",
    "constrained": "inside a mask only tokens that its grammar allows; one pass for each token",
    "forced": "the same text; tokens that the grammar leaves no choice about are read together with the next",
    "fast": "the same text; whole rows are guessed from the rows above, and checked in one pass",
}
"""Ways to write an answer. All but "plain" write the same text, in fewer and fewer passes."""


def check_decoding(name: str) -> None:
    """Refuse an unknown way, or one whose engine is not installed.

    Raises:
        ValueError: with the known ways, or with what to install.
    """
    if name not in DECODINGS:
        raise ValueError(f"unknown decoding {name!r}; known: {', '.join(DECODINGS)}")
    if name != PLAIN and find_spec(ENGINE) is None:
        raise ValueError(
            f"decoding {name!r} needs {ENGINE}, which is not installed: pip install '{ENGINE}>=1.0', "
            f"or choose --decoding {PLAIN}, which checks nothing and takes a pass for each token"
        )
