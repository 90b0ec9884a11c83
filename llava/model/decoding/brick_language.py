"""What a tokenizer can write of box-wise masks: tags and bricks are tokens, words and numbers are pieces."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llava.codec.brick_rules import LONGEST_LABEL, BlockRules, BlockState, can_be_words
from llava.codec.labels import clean_reference
from llava.constants import BRICK_TOKENS, REF_CLOSE, REF_OPEN, SEG_CLOSE, SEG_OPEN
from llava.model.decoding.brick_drafts import draft_bricks, draft_opening
from llava.model.decoding.brick_matcher import BrickMatcher
from llava.model.decoding.drafts import Hints, named
from llava.model.decoding.vocabulary import MaskLanguage
from llava.settings import SegmentationSettings
from llava.types import BoolArray, IntArray

_PIECES = re.compile("(" + "|".join(map(re.escape, BRICK_TOKENS)) + ")")
_MARKUP = re.compile(_PIECES.pattern.encode())
_LONGEST = max(map(len, BRICK_TOKENS))
_BOX_TEXT = re.compile(r"[ ,()0-9]+")


class BrickLanguage(MaskLanguage):
    """Box-wise masks in the tokens of one tokenizer, which has a token for each of `BRICK_TOKENS`.

    Words of an answer are free, but for these tokens: outside of a block only `<ref>` may come. Inside a
    block `BlockRules` says what may come. No tag and no brick may be spelled out in other tokens.

    Args:
        tokenizer: fast tokenizer of the checkpoint.
        size: number of scores that the model gives, at least as many as the tokenizer has tokens.
        ends: tokens that end an answer.
        settings: cells, order and tail of the masks.
        labels: the only words to write between `<ref>` and `</ref>`; None leaves the model its own.

    Raises:
        ValueError: the tokenizer has no such tokens, or cannot write a label.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        size: int,
        *,
        ends: Sequence[int],
        settings: SegmentationSettings,
        labels: Sequence[str] | None = None,
    ) -> None:
        from llava.model.new_tokens import brick_token_ids, missing_brick_tokens

        super().__init__(tokenizer, size, ends=ends)
        self._tokenizer = tokenizer
        missing = missing_brick_tokens(tokenizer)
        if missing:
            raise ValueError(
                f"codec 'bricks' needs {len(BRICK_TOKENS)} tokens, the tokenizer of this checkpoint lacks "
                f"{len(missing)} of them (first: {missing[0]}); it was not trained with --codec bricks"
            )
        self.ids = dict(zip(BRICK_TOKENS, brick_token_ids(tokenizer), strict=True))
        self.names = {token: name for name, token in self.ids.items()}
        self.rules = BlockRules(settings.grid_hw, settings.brick_order, settings.brick_tail)
        self.labels = None if labels is None else _labels(labels)
        for label in self.labels or ():
            self.check_spelling(tokenizer, label.decode())

    def matcher(self) -> BrickMatcher:
        """A matcher in front of a block."""
        return BrickMatcher(self)

    def is_text(self, token: int) -> bool:
        """Whether a token stands for text; tags and bricks do."""
        return token in self.names or super().is_text(token)

    def allowed(self, matcher: BrickMatcher) -> BoolArray:
        """Bool (size,): tokens that may come next; in front of a block also all words."""
        state = matcher.state
        if state.part == "start":
            return self._prose(matcher.stray)
        found = np.zeros(self.size, bool)
        if state.part != "ref":
            pieces = self.vocabulary.numbers if state.part == "box" else self.vocabulary.breaks
        elif self.labels is not None:
            pieces = list(self._label_pieces(state.text.encode() + matcher.partial))
        else:
            pieces = self.vocabulary.broken
            found |= self._words(state) & (not matcher.partial)
        named_pieces = [self.ids[name] for name in self.rules.tokens(state) if name in self.ids]
        found[[one for one in (*pieces, *named_pieces) if matcher.validate_tokens([one])]] = True
        return found

    def find_opening(self, text: bytes, start: int) -> tuple[int, int] | None:
        """The first tag or brick that ends behind the byte `start`: outside of a block it must begin one."""
        for match in _MARKUP.finditer(text, max(start - _LONGEST + 1, 0)):
            if match.end() > start:
                return match.span()
        return None

    def draft(self, written: Sequence[int], text: bytes, hints: Hints, *, rows: int) -> list[int]:
        """Sentence and words as training writes them, and bricks that resemble those written."""
        opened = _last(written, self.ids[REF_OPEN])
        prose = text.decode(errors="replace").lstrip(" ")
        if opened <= _last(written, self.ids[SEG_CLOSE]):
            guess = draft_opening(prose, hints)
            if guess is None:
                return []
            sentence, label = guess
            if sentence and not text:
                sentence = hints.lead + sentence
            before = self.tokens_behind(written, sentence) if sentence else []
            return before + self._head(label)
        block = list(written[opened:])
        bricks = _last(block, self.ids[SEG_OPEN])
        if bricks >= 0:
            done = b"".join(map(self.bytes_of, block[bricks + 1 :])).decode(errors="replace")
            rules = self.rules
            names = draft_bricks(done, rules.grid_hw, order=rules.order, tail=rules.tail, rows=rows)
            return self.tokens_of("".join(names))
        for label in named(prose, hints.labels):
            head = self._head(label)
            if head[: len(block)] == block:
                return head[len(block) :]
        return []

    def closing(self, written: Sequence[int], mask: bytes) -> list[int]:
        """The shortest end: an absent target where no box has begun, else one cell if there is none yet."""
        rest = self._rest_of_label(mask)
        text = (mask + rest).decode(errors="ignore")
        finish = self.rules.finish(self.rules.advance(BlockState("ref"), text) or BlockState("ref"))
        begun, rest_text = self.finish_character(rest.decode(errors="surrogateescape") + finish)
        return begun + self.tokens_of(rest_text)

    def tokens_of(self, text: str) -> list[int]:
        """Tokens of tags, bricks and what stands between them."""
        found: list[int] = []
        for piece in filter(None, _PIECES.split(text)):
            found += [self.ids[piece]] if piece in self.ids else self._tokens.tokenize_str(piece)
        return found

    def can_be_label(self, words: bytes, *, whole: bool) -> bool:
        """Whether the words of a block begin one of the labels, or are one."""
        words = words.removeprefix(b" ")
        return self.labels is None or (
            words in self.labels if whole else any(label.startswith(words) for label in self.labels)
        )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's tokens by what they can be part of."""
        return Vocabulary(self)

    def _head(self, label: str) -> list[int]:
        """Tokens of a block up to its first number, as the tokenizer writes them in training."""
        ids: list[int] = self._tokenizer(
            f"{REF_OPEN}{clean_reference(label)}{REF_CLOSE}<box>(", add_special_tokens=False
        ).input_ids
        return ids[ids.index(self.ids[REF_OPEN]) :]

    def _rest_of_label(self, mask: bytes) -> bytes:
        """What is missing of the label that a mask begins; nothing where labels are free or it is whole."""
        words = mask.removeprefix(b" ")
        if self.labels is None or REF_CLOSE.encode() in mask or words in self.labels:
            return b""
        return min((one for one in self.labels if one.startswith(words)), key=len)[len(words) :]

    def _label_pieces(self, words: bytes) -> Iterator[int]:
        """Tokens that go on with a label."""
        for label in self.labels or ():
            for whole in (label, b" " + label):
                rest = whole[len(words) :] if whole.startswith(words) else b""
                for end in range(1, len(rest) + 1):
                    yield from self.vocabulary.by_bytes.get(rest[:end], ())

    def _words(self, state: BlockState) -> BoolArray:
        """Bool (size,): tokens of whole characters that may go on with words."""
        vocabulary = self.vocabulary
        fits = vocabulary.lengths <= LONGEST_LABEL - state.letters
        return vocabulary.in_words & fits & ~(vocabulary.spaced & state.text.endswith(" "))

    def _prose(self, stray: bytes) -> BoolArray:
        """Bool (size,): words, and `<ref>`; no token that could finish a tag which `stray` has begun."""
        found = self.vocabulary.text & ~(self.vocabulary.angled & bool(stray))
        found[list(self.names)] = False
        found[self.ids[REF_OPEN]] = True
        return found


class Vocabulary:
    """Tokens of a tokenizer by what they can be part of.

    Attributes:
        text: bool (size,), stands for text.
        angled: bool (size,), has a ">".
        in_words: bool (size,), whole characters that words may have, no two spaces running.
        spaced: bool (size,), begins with a space.
        lengths: int64 (size,), characters of the tokens of `in_words`.
        by_bytes: tokens by their bytes, tags and bricks left out.
        numbers: tokens of digits, commas, brackets and spaces.
        breaks: tokens that are a line break.
        broken: tokens with part of a character.
    """

    def __init__(self, language: BrickLanguage) -> None:
        size = language.size
        self.text, self.angled, self.in_words, self.spaced = (np.zeros(size, bool) for _ in range(4))
        self.lengths: IntArray = np.zeros(size, np.int64)
        self.by_bytes: dict[bytes, list[int]] = {}
        self.numbers: list[int] = []
        self.breaks: list[int] = []
        self.broken: list[int] = []
        for token, piece in _pieces(language):
            self.text[token] = True
            self.angled[token] = b">" in piece
            if token in language.names:
                continue
            self.by_bytes.setdefault(piece, []).append(token)
            try:
                words = piece.decode()
            except UnicodeDecodeError:
                self.broken.append(token)
                continue
            self.spaced[token] = words.startswith(" ")
            self.lengths[token] = len(words)
            self.in_words[token] = can_be_words(words)
            if _BOX_TEXT.fullmatch(words):
                self.numbers.append(token)
            if words == "\n":
                self.breaks.append(token)


def _pieces(language: BrickLanguage) -> Iterator[tuple[int, bytes]]:
    """Tokens that stand for text, with their bytes."""
    for token in range(language.size):
        if token not in language.ends and (piece := language.bytes_of(token)):
            yield token, piece


def _labels(labels: Sequence[str]) -> list[bytes]:
    """Different labels as they are written, in UTF-8."""
    if isinstance(labels, str):
        raise ValueError(f"labels {labels!r}: needed is a list of labels, here [{labels!r}]")
    if not labels:
        raise ValueError("labels: none is given; give some, or leave them out for the model's own words")
    return list(dict.fromkeys(clean_reference(label).encode() for label in labels))


def _last(tokens: Sequence[int], token: int) -> int:
    """Last place of a token, -1 for none."""
    return next((place for place in range(len(tokens) - 1, -1, -1) if tokens[place] == token), -1)
