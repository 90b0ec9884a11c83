"""Readers of the field's datasets, one file per family; each yields `Sample`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llava.data.problems import Problems
from llava.data.readers import (
    dcube,
    earthreason,
    muse,
    own,
    panoptic,
    parts,
    pix2cap,
    reasonseg,
    refer,
    semantic,
)
from llava.data.readers.info import DatasetInfo
from llava.data.readers.lookup import check_split
from llava.data.readers.refer_sources import REFER_DATASETS
from llava.types import Sample

__all__ = ["DATASETS", "check_spec", "read_dataset"]

_MODULES = (refer, reasonseg, muse, earthreason, pix2cap, dcube, semantic, parts, panoptic, own)

DATASETS: Mapping[str, DatasetInfo] = {info.name: info for module in _MODULES for info in module.INFOS}
"""All datasets by name."""


def check_spec(spec: str) -> tuple[str, str]:
    """Name and split of a spec, see `read_dataset`; nothing is read.

    Raises:
        ValueError: unknown dataset or split; the message lists the known ones.
    """
    name, _, split = (part.strip() for part in spec.partition("|"))
    if not split:
        raise ValueError(f"spec {spec!r}: give dataset|split, as in 'refcoco|val'")
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    if name in REFER_DATASETS:
        refer.parse_spec(f"{name}|{split}")
    else:
        check_split(split, DATASETS[name].splits, name)
    return name, split


def read_dataset(root: Path, spec: str, problems: Problems) -> Iterator[Sample]:
    """Samples of one split of one dataset, in the order of its files.

    Args:
        root: folder that every dataset's `needs` are relative to.
        spec: "name|split"; sets of the REFER layout also "name|split_by|split", as "refcocog|google|val".
        problems: decides what becomes of wrong records, and counts them.

    Raises:
        ValueError: unknown dataset or split (the message lists the known ones), or a wrong record that
            `problems` does not admit.
        FileNotFoundError: a file is missing; the message names it and says what to do.
    """
    name, split = check_spec(spec)
    return DATASETS[name].read(Path(root), split, problems)
