"""One answer while it is written: which token comes next, what was finished, what it cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llava.constants import SEG_CLOSE
from llava.model.decoding.drafts import FIRST_ROWS, PROMPT_ROWS, Hints, rows_after
from llava.model.decoding.vocabulary import MaskLanguage

_CLOSE = SEG_CLOSE.encode()


@dataclass(frozen=True)
class Scores:
    """What one pass says about the tokens behind each token that was put in.

    Attributes:
        best: most probable token at each place.
        probability: softmax of the scores at that token.
        rows: float (places, tokens), the scores; looked at where the best token is not allowed.
    """

    best: list[int]
    probability: list[float]
    rows: torch.Tensor


class Writing:
    """An answer in the making.

    Words before and behind a mask are the model's own: its best token each time, unless that token begins a
    mask and goes on with it in a spelling that no mask has. Inside a mask the best allowed token is taken.
    Every token is decided by the scores behind the token before it, so guesses change the number of passes
    and nothing else.

    Args:
        language: grammar and tokens.
        hints: what is known before the first token.
        limit: most tokens that the model decides. A mask that is open then is completed without it, by
            background, beyond the limit, for no pass.
        on_row: called with the number and the text of each row of an R-RLE mask when it is finished.

    Attributes:
        tokens: token ids so far, the end included.
        text: their bytes.
        spans: for each token, where its bytes start, and its probability.
        blocks: (start, end) of the bytes of each finished mask, without its tags.
        ended: whether the answer is finished, by its end or by the limit.
        truncated: whether it was cut off outside a mask.
        stats: "tokens", "passes", "drafted", "accepted", "forced", "closed_early".
    """

    def __init__(
        self,
        language: MaskLanguage,
        hints: Hints,
        *,
        limit: int,
        on_row: Callable[[int, str], None] | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self.text = b""
        self.spans: list[tuple[int, float]] = []
        self.blocks: list[tuple[int, int]] = []
        self.ended = False
        self.truncated = False
        self.stats = dict.fromkeys(("tokens", "passes", "drafted", "accepted", "forced", "closed_early"), 0)
        self._language = language
        self._hints = hints
        self._limit = limit
        self._on_row = on_row
        self._matcher: Any = None
        self._start: int | None = None
        self._row = 0
        self._rows = FIRST_ROWS

    def guess(self, mode: str) -> list[int]:
        """Tokens to put in behind the last one, to be checked by the same pass."""
        ids: list[int] = []
        if mode == "fast":
            rows = self._rows if self.tokens else PROMPT_ROWS
            ids = self._language.draft(self.tokens, self.text, self._hints, rows=rows)
        if not ids and mode != "constrained" and self._start is not None:
            ids = self._matcher.compute_ff_tokens()
        return ids[: self._limit - len(self.tokens) - 1]

    def take(self, scores: Scores, drafted: Sequence[int]) -> int:
        """Add tokens as far as the guess holds, and the one behind it; returns how many guesses held."""
        self.stats["passes"] += 1
        self.stats["drafted"] += len(drafted)
        accepted = 0
        for place, best in enumerate(scores.best):
            token = self._decide(best, scores.probability[place], scores.rows[place])
            if self.ended or place == len(drafted) or token != drafted[place]:
                break
            accepted += 1
        self.stats["accepted"] += accepted
        self._rows = rows_after(self._rows, drafted=len(drafted), accepted=accepted)
        return accepted

    def _decide(self, best: int, probability: float, scores: torch.Tensor) -> int | None:
        """Choose a token and add it; None where the grammar knows no way on."""
        if not self._may_come(best):
            choice = self._best_allowed(scores, best)
            if choice is None:
                self._close()
                return None
            best, probability = choice
        self._add(best, probability)
        if not self.ended and len(self.tokens) >= self._limit:
            self._close()
        return best

    def _may_come(self, token: int) -> bool:
        """Whether a token may come next: outside a mask any that begins none, or begins one that can be."""
        if self._start is not None:
            return bool(self._matcher.validate_tokens([token]))
        opening = self._opening(token)
        return self._language.matcher().validate_tokens(opening) == len(opening)

    def _opening(self, token: int) -> list[int]:
        """The tokens over which the opening extends that this token completes, if it completes one."""
        if token in self._language.ends:
            return []
        text = self.text + self._language.bytes_of(token)
        found = self._language.find_opening(text, len(self.text))
        if found is None:
            return []
        place = found[0]
        first = (
            bisect_right(self.spans, place, key=lambda span: span[0]) - 1 if place < len(self.text) else None
        )
        begun = [] if first is None else self.tokens[first:]
        return [*filter(self._language.is_text, begun), token]

    def _best_allowed(self, scores: torch.Tensor, refused: int) -> tuple[int, float] | None:
        """Best of the tokens that may come in the place of a refused one, and its probability among all."""
        matcher, ends = self._matcher, []
        if self._start is None:
            matcher, ends = self._language.matcher(), list(self._language.ends)
            matcher.consume_tokens(self._opening(refused)[:-1])
        allowed = self._language.allowed(matcher)
        allowed[ends] = True
        if not allowed.any():
            return None
        hidden = torch.from_numpy(~allowed).to(scores.device)
        best = int(scores.masked_fill(hidden, -torch.inf).argmax())
        return best, float(scores.float().log_softmax(-1)[best].exp())

    def _add(self, token: int, probability: float) -> None:
        """Put a token behind the answer."""
        self.stats["tokens"] += 1
        if self._start is not None and not self.ended:
            self.stats["forced"] += self._matcher.compute_ff_tokens()[:1] == [token]
            self._matcher.consume_token(token)
        elif not self.ended and (opening := self._opening(token)):
            self._matcher = self._language.matcher()
            self._matcher.consume_tokens(opening)
        self.tokens.append(token)
        self.spans.append((len(self.text), probability))
        if token in self._language.ends and self._start is None:
            self.ended = True
            return
        old = len(self.text)
        self.text += self._language.bytes_of(token)
        self._follow(old)

    def _follow(self, old: int) -> None:
        """Look for tags and line breaks in the text from the byte `old` on."""
        place = old
        while True:
            if self._start is None:
                opening = self._language.find_opening(self.text, place)
                if opening is None:
                    return
                self._start, self._row = opening[1], 0
                place = self._start
            else:
                found = self.text.find(_CLOSE, max(place - len(_CLOSE) + 1, self._start))
                self._tell_rows(found if found >= 0 else len(self.text))
                if found < 0:
                    return
                self.blocks.append((self._start, found))
                self._start = None
                place = found + len(_CLOSE)

    def _tell_rows(self, end: int) -> None:
        """Report the rows of the open mask that are finished at the byte `end`."""
        if self._on_row is None or not self._language.by_rows:
            return
        lines = self.text[self._start : end].split(b"\n")
        for number in range(self._row, len(lines) - 1):
            self._on_row(number, lines[number].decode(errors="replace"))
        self._row = max(self._row, len(lines) - 1)

    def _close(self) -> None:
        """End the answer without the model: complete an open mask."""
        self.ended = True
        if self._start is None:
            self.truncated = True
            return
        for token in self._language.closing(self.tokens, self.text[self._start :]):
            self._add(token, 1.0)
        self.stats["closed_early"] += 1
