"""What a tokenizer can write of a mask grammar: tokens as bytes, allowed tokens, tokens of a guess."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from llava.codec.grammar import answer_lark
from llava.types import BoolArray

CONTEXTS = (16, 8, 4, 2, 1)
"""Written tokens in front of a guess when it is cut into tokens, tried in this order."""


class Language:
    """Mask texts of one grid, in the tokens of one tokenizer.

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
        from llguidance.hf import from_tokenizer

        self.ends = frozenset(ends)
        self.size = size
        self._tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
        self._start = LLMatcher(self._tokens, answer_lark(grid_hw, labels, codec))
        if self._start.is_error():
            raise ValueError(
                f"the grammar of a {grid_hw[0]}x{grid_hw[1]} mask is too large: {self._start.get_error()}; "
                "give fewer labels, or none"
            )
        for label in labels or ():
            self._check_spelling(tokenizer, label)
        self._bytes: dict[int, bytes] = {}

    def _check_spelling(self, tokenizer: Any, label: str) -> None:  # noqa: ANN401
        """Refuse a label of which the tokenizer loses a character."""
        ids = tokenizer(label, add_special_tokens=False).input_ids
        if self._tokens.decode_bytes(self._tokens.tokenize_str(label)) == label.encode():
            return
        raise ValueError(
            f"label {label!r} cannot be written with the tokens of this checkpoint, which read it as "
            f"{tokenizer.decode(ids)!r}; name it in other words"
        )

    def matcher(self) -> Any:  # noqa: ANN401
        """A matcher at the start of an answer."""
        return self._start.deep_copy()

    def is_text(self, token: int) -> bool:
        """Whether a token stands for text, and is no mark of the tokenizer."""
        return not self._tokens.is_special_token(token)

    def bytes_of(self, token: int) -> bytes:
        """UTF-8 bytes of a token, "" of a mark; a character may be spread over several tokens."""
        if token not in self._bytes:
            self._bytes[token] = self._tokens.decode_bytes([token]) if self.is_text(token) else b""
        return self._bytes[token]

    def allowed(self, matcher: Any) -> BoolArray:  # noqa: ANN401
        """Bool (size,): tokens that may come next."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.size].astype(bool)

    def tokens_behind(self, written: Sequence[int], text: str, *, more: str = "") -> list[int]:
        """Tokens that a text has behind written ones: those of the tokenizer's own way to cut both together.

        Where the written tokens are cut in another way than the tokenizer cuts them, the text stands alone.

        Args:
            written: tokens so far.
            text: what to write behind them.
            more: what may follow, for the cut of the last token, which may reach into it.
        """
        for count in CONTEXTS:
            before = list(written[-count:])
            try:
                context = b"".join(map(self.bytes_of, before)).decode()
            except UnicodeDecodeError:
                continue
            ids: list[int] = self._tokens.tokenize_str(context + text + more)
            if ids[: len(before)] == before:
                return self._begun(ids[len(before) :], text if more else None)
        return list(self._tokens.tokenize_str(text))

    def _begun(self, ids: list[int], text: str | None) -> list[int]:
        """The tokens that begin within a text, or all of them for None."""
        if text is None:
            return ids
        size = len(text.encode())
        starts = accumulate((len(self.bytes_of(token)) for token in ids), initial=0)
        return [token for token, start in zip(ids, starts, strict=False) if start < size]
