"""Static conversation records, for trainers that read JSON: the same draws that training makes live.

Checking, reading and writing of record files lives in `llava.data.record_files` and is passed on from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field

from tqdm import tqdm

from llava.data.annotated import CONVERSATION, AnnotatedImage, anchors
from llava.data.draw import VANISHED_POLICIES, DrawSettings, draw_record, generator
from llava.data.record_files import Record, check_record, read_records, write_records
from llava.data.view import VANISHED, WITHOUT_PIXEL, View
from llava.settings import BRICKS

__all__ = [
    "VANISHED_POLICIES",
    "BuildSummary",
    "Record",
    "check_record",
    "read_records",
    "records_of",
    "write_records",
]

_PROGRESS_AFTER_S = 2.0


@dataclass
class BuildSummary:
    """What a build took in, left out, and put out. Filled while the records are drawn.

    Attributes:
        settings: of the build.
        images_given: images that came in.
        images: those with at least one record.
        targets: targets that came in.
        expressions: their names, sentences and questions.
        no_target: expressions that describe nothing in their image.
        records: conversations drawn.
        turns: question-answer pairs in them.
        vanished: expressions whose target is in the image but covers no cell of the grid.
        without_pixel: expressions whose annotation marks no pixel though they have a target.
        left_out: conversations that could not be drawn, by reason.
    """

    settings: DrawSettings
    images_given: int = 0
    images: int = 0
    targets: int = 0
    expressions: int = 0
    no_target: int = 0
    records: int = 0
    turns: int = 0
    vanished: int = 0
    without_pixel: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        done = {"skip": "left out", "keep": "kept, taught as an empty mask"}[self.settings.vanished]
        rows, columns = self.settings.grid_hw
        cells = f"of the {rows}x{columns} grid (cell policy {self.settings.cell_policy}); {done}"
        if self.settings.codec == BRICKS:
            cells = f"of the {rows}x{columns} cells of their box"
        lines = [
            f"expressions    {self.expressions} of {self.targets} targets in {self.images_given} images; "
            f"no target: {self.no_target}",
            f"vanished       {self.vanished} cover no cell {cells}",
            f"without pixel  {self.without_pixel} have an empty annotation; {done}",
        ]
        lines += [
            f"left out       {count} conversations: {why}" for why, count in sorted(self.left_out.items())
        ]
        lines.append(
            f"records        {self.records} conversations, {self.turns} questions, {self.images} images"
        )
        return "\n".join(lines)

    def count_image(self, image: AnnotatedImage) -> None:
        """An image that came in."""
        self.images_given += 1
        self.targets += len(image.targets)
        self.expressions += sum(len(target.names) for target in image.targets)
        view = View(image, self.settings)
        for index, target in enumerate(image.targets):
            fault = view.fault(index)
            self.no_target += len(target.names) * (target.mask is None)
            self.vanished += len(target.names) * (fault == VANISHED)
            self.without_pixel += len(target.names) * (fault == WITHOUT_PIXEL)


def records_of(
    images: Iterable[AnnotatedImage],
    settings: DrawSettings,
    *,
    copies: int = 1,
    seed: int = 0,
    classes: tuple[str, ...] = (),
    summary: BuildSummary | None = None,
) -> Iterator[Record]:
    """Records of all images, image by image.

    Copy c of the n-th anchor is what live drawing makes of the n-th anchor in epoch c.

    Args:
        images: annotated images of one dataset; read once, never held.
        settings: of the draws.
        copies: conversations of each anchor (an expression, a question, an object, a semantic image); every
            draw differs between them. A conversation that is taken as it is comes once.
        seed: of all draws.
        classes: names that may be asked for although they are absent.
        summary: is filled as the records come.

    Returns:
        Records with ids "target|copy"; semantic ones "dataset|image path|copy"; conversations keep theirs.

    Raises:
        ValueError: there are fewer than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies {copies}: at least 1")
    return _draw_all(images, settings, (seed, copies), classes, summary or BuildSummary(settings))


def _draw_all(
    images: Iterable[AnnotatedImage],
    settings: DrawSettings,
    seed_copies: tuple[int, int],
    classes: tuple[str, ...],
    summary: BuildSummary,
) -> Iterator[Record]:
    """The records of `records_of`, drawn one by one."""
    seed, copies = seed_copies
    first_index = 0
    total = len(images) if isinstance(images, Sized) else None
    for image in tqdm(images, desc="records", unit="image", total=total, delay=_PROGRESS_AFTER_S):
        summary.count_image(image)
        starts = anchors(image)
        before = summary.records
        for copy in range(1 if image.family == CONVERSATION else copies):
            for index, anchor in enumerate(starts, start=first_index):
                why: Counter[str] = Counter()
                rng = generator(seed, copy, index)
                record = draw_record(image, anchor, settings, rng=rng, classes=classes, why=why)
                if record is None:
                    summary.left_out += why
                    continue
                summary.records += 1
                summary.turns += len(record["conversations"]) // 2
                as_it_is = image.family == CONVERSATION
                yield record if as_it_is else {**record, "id": f"{record['id']}|{copy}"}
        first_index += len(starts)
        summary.images += summary.records > before
