"""What a tokenizer can write of a mask grammar: tokens as bytes, allowed tokens, tokens of a guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava.codec.grammar import answer_lark, mask_labels
from llava.constants import BACKGROUND, SEG_OPEN
from llava.model.decoding import PLAIN
from llava.model.decoding.closing import closing
from llava.model.decoding.drafts import Hints, draft
from llava.model.decoding.vocabulary import MaskLanguage
from llava.types import BoolArray

_OPEN = SEG_OPEN.encode()


class Language(MaskLanguage):
    """Image-wise mask texts of one grid, in the tokens of one tokenizer.

    Args:
        tokenizer: fast tokenizer of the checkpoint.
        size: number of scores that the model gives, at least as many as the tokenizer has tokens.
        ends: tokens that end an answer.
        grid_hw: rows and columns of a mask.
        labels: the only labels to write, besides "others"; None leaves the model its own words.
        codec: text form of a mask.

    Raises:
        ValueError: the grammar cannot be written with this tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        size: int,
        *,
        ends: Sequence[int],
        grid_hw: tuple[int, int],
        labels: Sequence[str] | None = None,
        codec: str = "rrle",
    ) -> None:
        from llguidance import LLMatcher

        super().__init__(tokenizer, size, ends=ends)
        tag = tokenizer.get_added_vocab().get(SEG_OPEN)
        if tag is not None and not self.is_text(tag):
            raise ValueError(
                f"codec {codec!r} spells {SEG_OPEN} in letters, but the tokenizer of this checkpoint has a "
                f"token for it, as codec 'bricks' needs; choose --decoding {PLAIN}, or train from a base "
                "without it"
            )
        self.by_rows = codec == "rrle"
        self._grid_hw = grid_hw
        self._codec = codec
        self._start = LLMatcher(self._tokens, answer_lark(grid_hw, labels, codec))
        if self._start.is_error():
            raise ValueError(
                f"the grammar of a {grid_hw[0]}x{grid_hw[1]} mask is too large: {self._start.get_error()}; "
                "give fewer labels, or none"
            )
        others, *named = mask_labels(labels or ())
        self._labels = [others, *sorted(named, key=len)]
        for label in named:
            self.check_spelling(tokenizer, label)

    def matcher(self) -> Any:  # noqa: ANN401
        """A matcher at the start of an answer."""
        return self._start.deep_copy()

    def allowed(self, matcher: Any) -> BoolArray:  # noqa: ANN401
        """Bool (size,): tokens that may come next."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.size].astype(bool)

    def find_opening(self, text: bytes, start: int) -> tuple[int, int] | None:
        """Place of the first `<seg>` that ends behind the byte `start`."""
        place = text.find(_OPEN, max(start - len(_OPEN) + 1, 0))
        return None if place < 0 else (place, place + len(_OPEN))

    def draft(self, written: Sequence[int], text: bytes, hints: Hints, *, rows: int) -> list[int]:
        """Rows that resemble the rows above, in R-RLE form; no guess in others."""
        if not self.by_rows:
            return []
        guess = draft(text.decode(errors="replace").lstrip(" "), hints, rows=rows)
        if guess and not text:
            guess = hints.lead + guess
        more = f" {BACKGROUND}" if guess.endswith("\n") else ""
        return self.tokens_behind(written, guess, more=more) if guess else []

    def closing(self, written: Sequence[int], mask: bytes) -> list[int]:
        """Background in all that is missing."""
        text = mask.decode(errors="surrogateescape")
        rest = closing(text, self._grid_hw, codec=self._codec, labels=self._labels)
        begun, rest = self.finish_character(rest)
        return begun + self.tokens_behind([*written, *begun], rest)
