"""Batches that do not fit into memory, answered in halves."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_TOLD_AS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch writes into a RuntimeError of CUDA, MPS, the CPU's allocator and cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on an accelerator.

    Example:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory")), is_out_of_memory(RuntimeError("x"))
        (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD_AS)


def free_memory() -> None:
    """Give back what nobody holds; on a GPU also what torch keeps for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Halving(Generic[In, Out]):
    """Answers batches; one that does not fit into memory is halved and asked again.

    What did not fit once is not tried again: later batches come in parts of the size that did fit. Batches of
    another size are padded in another way, so rounding may differ from that of a run with enough memory.

    Args:
        answer: results of a batch, one for each item.
        tell: gets a sentence whenever the parts become smaller.

    Attributes:
        most: how many items are asked at once; None while everything fits.
    """

    def __init__(self, answer: Callable[[Sequence[In]], list[Out]], *, tell: Callable[[str], object]) -> None:
        self.most: int | None = None
        self._answer = answer
        self._tell = tell

    def __call__(self, batch: Sequence[In]) -> list[Out]:
        """Results of all items, in order.

        Raises:
            MemoryError: one item alone does not fit.
        """
        results: list[Out] = []
        while len(results) < len(batch):
            start = len(results)
            part = batch[start : start + (self.most or len(batch))]
            found = self._try(part)
            if found is None:
                self.most = (len(part) + 1) // 2
                self._tell(
                    f"out of memory with {len(part)} questions at once: from now on {self.most} at a time"
                )
            else:
                results += found
        return results

    def _try(self, part: Sequence[In]) -> list[Out] | None:
        """Results, or None after an error of memory, when all that the attempt held is free again."""
        try:
            return self._answer(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise MemoryError(
                    f"one question alone does not fit into memory ({error}); give --dtype, --max-new-tokens, "
                    "--sam-path none or another --device, with another --out: the answers are of another run"
                ) from error
        free_memory()
        return None
