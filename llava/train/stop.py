"""Stopping on request: after a signal the step ends, a checkpoint is saved, and the run leaves.

SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (which SLURM sends before it preempts) ask for it, on any process of a
run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

STOPPED = 75
"""Exit code of a run that a signal stopped and --resume goes on with: EX_TEMPFAIL of sysexits.h."""
ONE_REQUEST_S = 2.0
"""Signals within so many seconds are one request: launchers repeat what their whole group has been sent."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
_NOTE = (
    b"\nstopping after this step, with a checkpoint to --resume from; a second signal stops at once and "
    b"loses the steps since the last checkpoint\n"
)


class StopRequest:
    """Context in which the signals ask for a stop; one that comes later than the first ends the process.

    Attributes:
        signal: number of the first signal; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Listen; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal. A process that inherited this by a fork has nothing to stop."""
        if os.getpid() != self._process:
            return
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            os.write(2, _NOTE)  # a log or print call may be just what the signal interrupted
        elif time.monotonic() - self._since > ONE_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._process, number)

    def agreed(self, device: torch.device) -> bool:
        """Whether any process of the run was asked to stop; all of them must call this."""
        asked = self.signal is not None
        group = torch.distributed
        if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
            return asked
        flag = torch.tensor([int(asked)], device=device)
        group.all_reduce(flag, op=group.ReduceOp.MAX)
        return bool(flag.item())


class StopAfterStep(TrainerCallback):
    """Ends the run with a checkpoint after the step in which a stop was asked for.

    Attributes:
        stopped: true where that left steps to be done.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self.stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ask the other processes after every step."""
        if self.request.agreed(args.device):
            self.stopped = state.global_step < state.max_steps
            control.should_save = True
            control.should_training_stop = True


def start_worker(then: Callable[[int], None] | None, number: int) -> None:
    """Let a data loader's worker go on when its whole group is sent a signal, so that the step can end.

    Only SIGTERM from the process that started it, which is how that one ends its workers, still does.

    Args:
        then: another start-up function, called with the worker's number.
        number: of the worker.
    """
    for ignored in SIGNALS:
        if ignored != signal.SIGTERM:
            signal.signal(ignored, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_for_parent, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(number)


def _leave_for_parent(parent: int) -> None:
    """Wait for SIGTERM from a process and end this one."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
