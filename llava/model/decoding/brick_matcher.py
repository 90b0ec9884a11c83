"""Follows a block of a box-wise mask token by token, with the methods of llguidance's `LLMatcher`."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava.codec.brick_rules import LONGEST_LABEL, BlockState
from llava.constants import REF_CLOSE

if TYPE_CHECKING:
    from llava.model.decoding.brick_language import BrickLanguage


class BrickMatcher:
    """How far a block is written, in tokens.

    Args:
        language: tokens and rules.

    Attributes:
        state: of the rules.
        partial: bytes of a character that is not complete.
        stray: text in front of the block that may have begun a tag in other tokens.
    """

    def __init__(self, language: BrickLanguage) -> None:
        self.state = BlockState()
        self.partial = b""
        self.stray = b""
        self._language = language

    def validate_tokens(self, tokens: Sequence[int]) -> int:
        """How many of some tokens may come next, one after the other."""
        state, partial = self.state, self.partial
        for count, token in enumerate(tokens):
            after = self._behind(state, partial, token)
            if after is None:
                return count
            state, partial = after
        return len(tokens)

    def consume_tokens(self, tokens: Sequence[int]) -> None:
        """Go on behind some tokens; what the rules do not know in front of a block is prose."""
        for token in tokens:
            self.consume_token(token)

    def consume_token(self, token: int) -> None:
        """Go on behind a token."""
        after = self._behind(self.state, self.partial, token)
        if after is not None:
            self.state, self.partial = after
        elif self.state.part == "start":
            self.stray += self._language.bytes_of(token)

    def compute_ff_tokens(self) -> list[int]:
        """Tokens that must come next, none where there is a choice."""
        rules, state, text = self._language.rules, self.state, ""
        while not self.partial and (piece := rules.forced(state)):
            after = rules.advance(state, piece)
            if after is None:
                break
            state, text = after, text + piece
        return self._language.tokens_of(text)

    def _behind(self, state: BlockState, partial: bytes, token: int) -> tuple[BlockState, bytes] | None:
        """State and begun character behind a token; None where it may not come."""
        language = self._language
        if token in language.ends or not language.is_text(token):
            return None
        name = language.names.get(token)
        if name is not None:
            ends_label = name != REF_CLOSE or language.can_be_label(state.text.encode(), whole=True)
            after = language.rules.advance(state, name) if ends_label and not partial else None
            return None if after is None else (after, b"")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(partial + language.bytes_of(token))
        except UnicodeDecodeError:
            return None
        rest = decoder.getstate()[0]
        after = language.rules.advance(state, text) if text or rest else None
        if after is None or after.part != state.part:
            return None
        if after.part != "ref":
            return None if rest else (after, rest)
        fits = after.letters < LONGEST_LABEL or not rest
        return (
            (after, rest) if fits and language.can_be_label(after.text.encode() + rest, whole=False) else None
        )
