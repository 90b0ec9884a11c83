"""Builders: dataset files to conversation records, or to a store that records are drawn from.

The commands under playground/data/create_json are thin wrappers of `build`. Every dataset goes the same way:
its reader, the images that no training may see left out, then either a static file of records (LLaVA's JSON
with the fields of Text4Seg, arXiv 2410.09855) or an Arrow store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from llava.data.annotated import CONVERSATION, AnnotatedImage, collect
from llava.data.draw import DrawSettings
from llava.data.held_out import LeakFilter, held_out_images
from llava.data.problems import Problems
from llava.data.readers import DATASETS, check_spec, read_dataset
from llava.data.readers.conversations import read_conversations
from llava.data.readers.refer_sources import REFER_DATASETS
from llava.data.record_form import FORM_FIELDS
from llava.data.records import BuildSummary, Record, records_of, write_records
from llava.data.store import Store, write_store
from llava.settings import BRICKS

DATA = Path(__file__).resolve().parents[2] / "playground" / "data"
"""Where data lies unless a command is told otherwise."""

REFER_FOLDER = "refer_seg"
"""Folder under `DATA` of the sets in REFER layout, their images among them (LISA, Text4Seg)."""

LLAVA = "llava"
"""Conversations as they are: no entry of `DATASETS`, its splits are files under the root."""

FORMATS = ("json", "store")

_TOGETHER = ("semantic", "parts")
"""Families whose readers bring all samples of an image one after the other."""


@dataclass(frozen=True)
class Defaults:
    """What a command does with a dataset unless it is told otherwise.

    Attributes:
        grid: rows and columns of the label grid.
        rounds: questions in one conversation.
        copies: conversations of each anchor.
        crop: share of records that show a square part of the image.
        split: the split to build.
    """

    grid: tuple[int, int] = (16, 16)
    rounds: int = 2
    copies: int = 2
    crop: float = 0.0
    split: str = "train"


_SEVERAL_OR_NONE = Defaults((24, 24), copies=1)
_QUESTIONS = Defaults((24, 24), rounds=1, copies=1)
_SCENES = Defaults((32, 32), copies=5, crop=1.0)
_PARTS = Defaults((32, 32), copies=1)

_PUBLISHED = {
    "grefcoco": _SEVERAL_OR_NONE,
    "dcube": Defaults(rounds=1, split="full"),
    "cocostuff": Defaults((32, 32), copies=10, crop=1.0),
    "ade20k": _SCENES,
    "ade20k847": _SCENES,
    "paco_lvis": _PARTS,
    "pascal_part": _PARTS,
}
"""Builders of Text4Seg (arXiv 2410.09855); RefCOCO, + and g and RefCLEF are `Defaults()`."""

_OURS = {
    "grefshapes": _SEVERAL_OR_NONE,
    "refzom": _SEVERAL_OR_NONE,
    "reasonseg": _QUESTIONS,
    "muse": _QUESTIONS,
    "earthreason": _QUESTIONS,
    "pix2cap": Defaults((24, 24), copies=1),
    "coco_panoptic": Defaults((32, 32), rounds=1, copies=1, crop=0.3),
    "voc20": _SCENES,
    "pc59": _SCENES,
    "mapillary": _PARTS,
    LLAVA: Defaults(copies=1, split="llava_v1_5_mix665k.json"),
}
"""Sets that have no published builder. Mapillary has one, with a grid of its own for each image size."""

DEFAULTS: dict[str, Defaults] = {name: Defaults() for name in DATASETS} | _PUBLISHED | _OURS


def default_root(dataset: str) -> Path:
    """Folder that a dataset and its images lie in unless a command is told otherwise."""
    return DATA / REFER_FOLDER if dataset in REFER_DATASETS else DATA


def default_output(specs: Iterable[str], form: str, settings: DrawSettings, copies: int) -> Path:
    """Where a build goes unless it is told: named by its datasets and splits, records also by their form."""
    parts = [spec.partition("|") for spec in specs]
    names = [*(name for name, _, _ in parts), *(Path(split).stem.replace("|", "_") for _, _, split in parts)]
    name = "_".join(dict.fromkeys(names))
    if form == "store":
        return DATA / "stores" / name
    rows, columns = settings.grid_hw
    usual = DrawSettings(settings.grid_hw)
    ending = [settings.codec] if settings.codec != usual.codec else []
    if settings.codec == BRICKS:
        ending += [settings.brick_order] if settings.brick_order != usual.brick_order else []
        ending += [] if settings.brick_tail else ["no_tail"]
    more = "".join(f"_{word}" for word in ending)
    return DATA / "json_files" / f"{name}_{rows}x{columns}_r{settings.rounds}_c{copies}{more}.json"


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        specs: splits as "dataset|split", see `llava.data.readers.read_dataset`; or "llava|file".
        root: folder that the datasets' files and images lie in.
        image_folder: folder that image paths in the output start from.
        output: file of records, or folder of the store.
        form: one of `FORMATS`.
        settings: how records are drawn; a store keeps none of it.
        copies: conversations of each anchor; a store keeps none.
        seed: of all draws.
        keep_test_images: let training splits keep images of the RefCOCO family's val and test splits.
        command: that made it, for the store's facts.

    Raises:
        ValueError: the form is unknown, there is less than one copy, or the seed is negative.
    """

    specs: tuple[str, ...]
    root: Path
    image_folder: Path
    output: Path
    form: str
    settings: DrawSettings
    copies: int = 1
    seed: int = 0
    keep_test_images: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        """Check what no other class checks."""
        problems = [] if self.form in FORMATS else [f"form {self.form!r}: known are {', '.join(FORMATS)}"]
        problems += [f"copies {self.copies}: at least 1"] if self.copies < 1 else []
        problems += [f"seed {self.seed}: a whole number from 0"] if self.seed < 0 else []
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class Part:
    """Splits of one dataset that are read together.

    Attributes:
        dataset: its name.
        splits: of it.
        leaks: whether images that no training may see have to be left out.
    """

    dataset: str
    splits: tuple[str, ...]
    leaks: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that may be asked for although they are absent."""
        return () if self.dataset == LLAVA else DATASETS[self.dataset].classes

    @property
    def family(self) -> str:
        """Family of its images, see `AnnotatedImage`."""
        return CONVERSATION if self.dataset == LLAVA else DATASETS[self.dataset].family


def parts_of(specs: Iterable[str]) -> list[Part]:
    """Splits by dataset, those for training apart where the dataset shares images with RefCOCO.

    Raises:
        ValueError: a dataset or a split is unknown.
    """
    splits: dict[tuple[str, bool], list[str]] = {}
    for spec in specs:
        name, _, split = (part.strip() for part in spec.partition("|"))
        if name != LLAVA and name not in DATASETS:
            raise ValueError(f"unknown dataset {name!r}; known: {', '.join((*DATASETS, LLAVA))}")
        if name != LLAVA:
            check_spec(spec)
        trains = name == LLAVA or split.rpartition("|")[2].startswith("train")
        leaks = trains and (name == LLAVA or DATASETS[name].coco_images)
        splits.setdefault((name, leaks), []).append(split)
    return [Part(name, tuple(dict.fromkeys(found)), leaks) for (name, leaks), found in splits.items()]


def build(options: BuildOptions, problems: Problems) -> str:
    """Read, leave out, draw or store, write.

    Args:
        options: what to build.
        problems: decides what becomes of wrong records, and counts them.

    Returns:
        What was taken, left out and written, for people.

    Raises:
        ValueError: unknown dataset or split, damaged files, a wrong record that `problems` does not admit,
            or nothing to write.
        FileNotFoundError: files are missing; the message names them.
    """
    parts = parts_of(options.specs)
    leaking = any(part.leaks for part in parts)
    leaks = None
    if leaking and not options.keep_test_images:
        leaks = LeakFilter(held_out_images(refer_root(options.root)))
    write = _write_records if options.form == "json" else _write_store
    try:
        told = write(parts, options, problems, leaks)
    except ValueError as error:
        if leaks is not None and leaks.images:
            raise ValueError(f"{error}\n{leaks}") from error
        raise
    notes = [str(problems)] if problems.counts else []
    if leaks is not None:
        notes.append(str(leaks))
    elif leaking:
        notes.append("kept           val and test images of the RefCOCO family too (--keep-test-images)")
    return "\n".join((*notes, told))


def refer_root(root: Path) -> Path:
    """Folder of the sets in REFER layout: `refer_seg` under the root where it is there, else the root."""
    return Path(root) / REFER_FOLDER if (Path(root) / REFER_FOLDER).is_dir() else Path(root)


def images_of(
    part: Part, options: BuildOptions, problems: Problems, leaks: LeakFilter | None
) -> Iterator[AnnotatedImage]:
    """Annotated images of a part, those left out that no training may see."""
    images = _read(part, options, problems)
    return leaks(images) if leaks is not None and part.leaks else images


def _read(part: Part, options: BuildOptions, problems: Problems) -> Iterator[AnnotatedImage]:
    """Annotated images of a part as its reader gives them."""
    folder = options.image_folder
    if part.dataset == LLAVA:
        for name in part.splits:
            yield from read_conversations(options.root / name, problems=problems, image_folder=folder)
        return
    info = DATASETS[part.dataset]
    samples = chain.from_iterable(
        read_dataset(options.root, f"{part.dataset}|{split}", problems) for split in part.splits
    )
    if info.family not in _TOGETHER:
        yield from collect(samples, info, folder)
        return
    for _, group in groupby(samples, key=lambda sample: sample.image_path):
        yield from collect(group, info, folder)


def _write_records(
    parts: list[Part], options: BuildOptions, problems: Problems, leaks: LeakFilter | None
) -> str:
    """Write a file of records; says what is in it."""
    summary = BuildSummary(options.settings)

    def drawn() -> Iterator[Record]:
        for part in parts:
            yield from records_of(
                images_of(part, options, problems, leaks),
                options.settings,
                copies=options.copies,
                seed=options.seed,
                classes=part.classes,
                summary=summary,
            )

    write_records(options.output, drawn())
    train = f"--data_path {options.output} --image_folder {options.image_folder}"
    return f"{summary}\nwritten        {options.output}\ntrain with     {train}"


def _write_store(
    parts: list[Part], options: BuildOptions, problems: Problems, leaks: LeakFilter | None
) -> str:
    """Write a store; says what is in it."""
    families = {part.family: part.dataset for part in parts}
    if len(families) > 1:
        listed = ", ".join(f"{name} is {family}" for family, name in families.items())
        raise ValueError(
            f"a store holds one family of datasets ({listed}); write one for each and join them in a mixture"
        )
    classes = dict.fromkeys(name for part in parts for name in part.classes)
    about: dict[str, Any] = {"split": ", ".join(options.specs), "classes": list(classes)}
    about["command"] = options.command

    def counted() -> Iterator[AnnotatedImage]:
        for part in parts:
            yield from images_of(part, options, problems, leaks)
        # The counts are known only here; the store takes the facts after the last image.
        about["left_out"] = dict(problems.counts)
        if leaks is not None:
            about["held_out"] = leaks.facts()

    write_store(counted(), options.output, about=about)
    store = Store(options.output)
    empty = store.about["images_without_target"]
    lines = [
        f"without target {empty} images left out" if empty else "",
        f"stored         {len(store)} records to draw, {store.image_count} images",
        f"written        {options.output}",
        f"in a mixture   - {_mixture_entry(options)}",
        f"train with     --data_path {options.output} --image_folder {options.image_folder}",
    ]
    return "\n".join(line for line in lines if line)


def _mixture_entry(options: BuildOptions) -> str:
    """Line of a mixture file over `DATA` that draws from the store as the options say."""
    usual = DrawSettings(options.settings.grid_hw)
    changed = {
        item.name: getattr(options.settings, item.name)
        for item in fields(DrawSettings)
        if item.name not in (*FORM_FIELDS, "wording")
        and getattr(options.settings, item.name) != getattr(usual, item.name)
    }
    entry: dict[str, object] = {"store": options.output}
    for folder in (Path(os.path.abspath(options.image_folder)), options.image_folder.resolve()):
        if DATA in folder.parents:
            entry["images"] = folder.relative_to(DATA).as_posix()
            break
    if options.copies > 1:
        entry["repeat"] = options.copies
    if changed:
        entry["draw"] = "{" + ", ".join(f"{name}: {value}" for name, value in changed.items()) + "}"
    return "{" + ", ".join(f"{name}: {value}" for name, value in entry.items()) + "}"
