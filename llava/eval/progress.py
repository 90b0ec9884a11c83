"""The line that a run shows while it answers: how far, how long, how good."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

from tqdm import tqdm

from llava.eval.predictions import Record
from llava.eval.scoring import STEPS, RunningScores

LINE_SECONDS = 5.0
"""How often the seconds and the running scores are worked out anew."""

BAR = "{desc} {n_fmt}/{total_fmt} in {elapsed}, ETA {remaining}{postfix}"


class Progress:
    """A line like "evaluate 51/150 in 00:21, ETA 00:41, generate 0.31 decode 0.01 refine 0.09 score 0.00 s".

    Holds a progress bar. The seconds are means per answer of this process; behind them follow the scores of
    all its answers, resumed ones too.

    Args:
        total: samples of this process.
        done: how many of them an earlier session answered.
        running: scores of all answers so far; others keep them up to date.
        clock: seconds.
        hidden: show nothing, for all processes but the first.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        running: RunningScores,
        clock: Callable[[], float],
        hidden: bool = False,
    ) -> None:
        self._running = running
        self._clock = clock
        self._seconds = dict.fromkeys(STEPS, 0.0)
        self._answers = 0
        self._shown = -LINE_SECONDS
        self._bar = tqdm(
            total=total,
            initial=done,
            desc="evaluate",
            bar_format=BAR,
            disable=hidden,
            mininterval=1,
        )

    def update(self, records: Iterable[Record], *, new: int) -> None:
        """Add answers, `new` of which were missing before."""
        for record in records:
            self._answers += 1
            for step in STEPS:
                self._seconds[step] += record.seconds.get(step, 0.0)
        if self._clock() - self._shown >= LINE_SECONDS:
            self._bar.set_postfix_str(self.line(), refresh=False)
            self._shown = self._clock()
        self._bar.update(new)

    def line(self) -> str:
        """Mean seconds of each step, then the running scores."""
        steps = " ".join(f"{step} {self._seconds[step] / max(self._answers, 1):.2f}" for step in STEPS)
        return f"{steps} s; {self._running.line()}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
