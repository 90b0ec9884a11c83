"""Records of a mixture by epoch and place, drawn when they are needed.

Every draw follows from (seed, epoch, place) alone: the same in every process, in every order, and after a
resume; another one in every epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import gcd

import numpy as np

from llava.data.draw import DrawSettings, draw_record, generator
from llava.data.mixture_file import Mixture, Portion
from llava.data.record_files import Record
from llava.data.record_form import Form, check_forms, form_for
from llava.data.store import Store
from llava.types import IntArray

TRIES = 100
"""Records tried for one place before the dataset is called unusable."""


class MixtureDataset:
    """Records of a mixture. Safe to fork and to pickle.

    Args:
        mixture: what to draw from.
        settings: grid and codec of the checkpoint, and the draw settings of datasets that say nothing else.
        seed: of all draws, where the mixture names none.

    Attributes:
        mixture: the same.
        seed: the one that counts.
        why: how often this process drew a record with nothing to teach, by reason.

    Raises:
        ValueError: draw settings of a dataset are wrong, or its records are of another form.
    """

    def __init__(self, mixture: Mixture, settings: DrawSettings, seed: int) -> None:
        self.mixture = mixture
        self.seed = seed if mixture.seed is None else mixture.seed
        self.why: Counter[str] = Counter()
        self._settings = [portion.settings(settings) for portion in mixture.portions]
        self._ends = np.cumsum([portion.count for portion in mixture.portions])
        self._strides = [
            _stride(len(portion.source), np.random.default_rng([self.seed, number]))
            for number, portion in enumerate(mixture.portions)
        ]
        for portion in mixture.portions:
            _check_form(portion, form_for(settings))

    def __len__(self) -> int:
        """Records of one epoch."""
        return len(self.mixture)

    def record(self, epoch: int, index: int) -> Record:
        """The record at a place of an epoch.

        Raises:
            ValueError: nothing in its dataset can be drawn.
        """
        return next(self.candidates(epoch, index))

    def candidates(self, epoch: int, index: int) -> Iterator[Record]:
        """The record at a place of an epoch, then others of its dataset, for a caller that cannot use it.

        Records with nothing to teach, as those whose target covers no cell, are passed over and counted.
        The iterator ends after `TRIES` draws.

        Raises:
            ValueError: the first `TRIES` draws have nothing to teach.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of mixture {self.mixture.name}, which has {len(self)} an epoch")
        number = int(np.searchsorted(self._ends, index, side="right"))
        portion = self.mixture.portions[number]
        place = index - int(self._ends[number]) + portion.count
        anchor = int(self.numbers(number, epoch, np.array([place]))[0])
        found = False
        for attempt in range(TRIES):
            rng = generator(self.seed, epoch, index)
            if attempt:
                rng = np.random.default_rng([self.seed, epoch, index, attempt])
                anchor = int(rng.integers(len(portion.source)))
            record = self.draw(number, anchor, rng)
            if record is not None:
                found = True
                yield record
        if not found:
            raise ValueError(
                f"{portion.name}: {TRIES} draws had nothing to teach ({dict(self.why)}); take a finer grid, "
                "cell_policy: keep_small, or remove the dataset"
            )

    def draw(self, number: int, anchor: int, rng: np.random.Generator) -> Record | None:
        """One draw from a dataset.

        Args:
            number: of the dataset in the mixture.
            anchor: record of its source.
            rng: of all draws.

        Returns:
            The record with its image path under the image folder; None where there is nothing to teach.
        """
        portion = self.mixture.portions[number]
        record: Record | None
        if isinstance(portion.source, Store):
            image, target = portion.source[anchor]
            record = draw_record(
                image,
                target,
                self._settings[number],
                rng=rng,
                classes=portion.source.classes,
                why=self.why,
            )
        else:
            record = portion.source[anchor]
        if record is not None and portion.images and "image" in record:
            record = {**record, "image": f"{portion.images}/{record['image']}"}
        return record

    def numbers(self, number: int, epoch: int, places: IntArray) -> IntArray:
        """Which records of a source stand at some places of a dataset, int64 of the shape of `places`.

        Whole repeats run through the source from end to end. What is left of it is a part spread over the
        whole source, another part in every epoch until each record had its turn.
        """
        portion = self.mixture.portions[number]
        size = len(portion.source)
        whole = portion.count // size * size
        rest = portion.count - whole
        step, start = self._strides[number]
        spread = (start + step * ((places - whole + epoch * rest) % size)) % size
        return np.where(places < whole, places % size, spread)

    def image_names(self) -> Iterator[str]:
        """Paths under the image folder of all images, some more than once."""
        for portion in self.mixture.portions:
            for name in portion.source.image_names():
                if name:
                    yield f"{portion.images}/{name}" if portion.images else name


def _stride(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Step and start of a walk that meets every number below `size` once."""
    step = int(rng.integers(1, size + 1))
    while gcd(step, size) > 1:
        step += 1
    return step, int(rng.integers(size))


def _check_form(portion: Portion, needed: Form) -> None:
    """Refuse records whose masks were written in another form."""
    if isinstance(portion.source, Store):
        return
    otherwise = "build a store, which serves every form"
    check_forms(portion.name, portion.source.forms, needed, total=len(portion.source), otherwise=otherwise)
