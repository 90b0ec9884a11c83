"""What decoding asks of a way to write masks, and the tokens it writes them with."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from llava.model.decoding.drafts import Hints
from llava.types import BoolArray

CONTEXTS = (16, 8, 4, 2, 1)
"""Written tokens in front of a guess when it is cut into tokens, tried in this order."""

_ESCAPED = "".join(map(chr, range(0xDC80, 0xDD00)))
"""Single bytes of a character, as the error handler "surrogateescape" writes them."""


class MaskLanguage(ABC):
    """Answers with masks, in the tokens of one tokenizer.

    Args:
        tokenizer: fast tokenizer of the checkpoint.
        size: number of scores that the model gives, at least as many as the tokenizer has tokens.
        ends: tokens that end an answer.

    Attributes:
        ends: as given.
        size: as given.
        by_rows: whether each line of a mask is a row of its grid.
    """

    by_rows = False

    def __init__(self, tokenizer: Any, size: int, *, ends: Sequence[int]) -> None:  # noqa: ANN401
        from llguidance.hf import from_tokenizer

        self.ends = frozenset(ends)
        self.size = size
        self._tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
        self._bytes: dict[int, bytes] = {}

    @abstractmethod
    def matcher(self) -> Any:  # noqa: ANN401
        """A matcher at the start of an answer: an `LLMatcher` of llguidance, or what behaves like one."""

    @abstractmethod
    def allowed(self, matcher: Any) -> BoolArray:  # noqa: ANN401
        """Bool (size,): tokens that may come next."""

    @abstractmethod
    def find_opening(self, text: bytes, start: int) -> tuple[int, int] | None:
        """Place of the first beginning of a mask that ends behind the byte `start`, None for none."""

    @abstractmethod
    def draft(self, written: Sequence[int], text: bytes, hints: Hints, *, rows: int) -> list[int]:
        """Tokens that probably follow; none where there is no guess.

        Args:
            written: tokens so far.
            text: their bytes.
            hints: what is known of the answer.
            rows: how many rows of a mask to guess, the unfinished one counted.
        """

    @abstractmethod
    def closing(self, written: Sequence[int], mask: bytes) -> list[int]:
        """The fewest tokens that finish an open mask, of which `mask` are the bytes behind its opening."""

    def is_text(self, token: int) -> bool:
        """Whether a token stands for text, and is no mark of the tokenizer."""
        return not self._tokens.is_special_token(token)

    def bytes_of(self, token: int) -> bytes:
        """UTF-8 bytes of a token, "" of a mark; a character may be spread over several tokens."""
        if token not in self._bytes:
            self._bytes[token] = self._tokens.decode_bytes([token]) if self.is_text(token) else b""
        return self._bytes[token]

    def check_spelling(self, tokenizer: Any, label: str) -> None:  # noqa: ANN401
        """Refuse a label of which the tokenizer loses a character.

        Raises:
            ValueError: with what the tokenizer makes of it.
        """
        ids = tokenizer(label, add_special_tokens=False).input_ids
        if self._tokens.decode_bytes(self._tokens.tokenize_str(label)) == label.encode():
            return
        raise ValueError(
            f"label {label!r} cannot be written with the tokens of this checkpoint, which read it as "
            f"{tokenizer.decode(ids)!r}; name it in other words"
        )

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

    def finish_character(self, rest: str) -> tuple[list[int], str]:
        """Tokens of the bytes in front of a text, and the text behind them.

        Args:
            rest: what completes a text that is cut inside a character, its bytes as in "surrogateescape".
        """
        behind = rest.lstrip(_ESCAPED)
        missing = rest[: len(rest) - len(behind)].encode(errors="surrogateescape")
        return [self._single_bytes[byte] for byte in missing if byte in self._single_bytes], behind

    @functools.cached_property
    def _single_bytes(self) -> dict[int, int]:
        """Tokens of one byte."""
        pieces = ((self.bytes_of(token), token) for token in range(self.size))
        return {piece[0]: token for piece, token in pieces if len(piece) == 1}

    def _begun(self, ids: list[int], text: str | None) -> list[int]:
        """The tokens that begin within a text, or all of them for None."""
        if text is None:
            return ids
        size = len(text.encode())
        starts = accumulate((len(self.bytes_of(token)) for token in ids), initial=0)
        return [token for token, start in zip(ids, starts, strict=False) if start < size]
