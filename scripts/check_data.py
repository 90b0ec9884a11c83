"""Say for each dataset what is there, what is missing, where it belongs and where it comes from.

    python scripts/check_data.py                               files of all datasets
    python scripts/check_data.py --dataset refcoco --read      read every split, look at every image

Ends with 1 if a dataset named by --dataset is incomplete, so that a script can rely on it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llava.data.readers.refer import (
    HELP,
    REFER_DATASETS,
    find_image_folder,
    find_instances,
    find_refs,
    read_refer,
)

ROOT = Path(__file__).resolve().parents[1] / "playground" / "data" / "refer_seg"


def check_files(root: Path, dataset: str) -> Iterator[tuple[bool, str]]:
    """Whether each needed file is there, with a sentence about it."""
    source = REFER_DATASETS[dataset]
    refs = {split_by: _found(find_refs, root, dataset, split_by) for split_by in source.splits}
    usable = any(found for found, _ in refs.values())
    for split_by, (found, text) in refs.items():
        if found or split_by == source.split_by:
            yield found or usable, text
    yield _found(find_instances, root, source)
    yield _found(find_image_folder, root, source, ())


def _found(find: Callable[..., Path], *arguments: object) -> tuple[bool, str]:
    """Path that a search finds, or its error."""
    try:
        return True, str(find(*arguments))
    except FileNotFoundError as error:
        return False, str(error).replace(f" - {HELP}", "")


def check_splits(root: Path, dataset: str) -> Iterator[tuple[bool, str]]:
    """Whether each split can be read whole, with its counts or its error."""
    source = REFER_DATASETS[dataset]
    for split_by, splits in source.splits.items():
        if not _found(find_refs, root, dataset, split_by)[0]:
            continue
        for split in splits:
            spec = f"{dataset}|{split_by}|{split}"
            try:
                samples = read_refer(root, spec)
            except (ValueError, OSError) as error:
                yield False, f"{spec}: {error}"
                continue
            refs = len({sample.id.rpartition("|")[0] for sample in samples})
            images = len({sample.image_id for sample in samples})
            yield True, f"{spec}: {refs} refs, {len(samples)} expressions, {images} images"


def report(root: Path, dataset: str, *, read: bool) -> bool:
    """Print what is known about one dataset; true if nothing is missing."""
    source = REFER_DATASETS[dataset]
    findings = list(check_files(root, dataset))
    if read and all(fine for fine, _ in findings):
        findings += check_splits(root, dataset)
    complete = all(fine for fine, _ in findings)
    print(f"{dataset}: {'found' if complete else 'incomplete'}")
    for fine, text in findings:
        print(f"  {'ok     ' if fine else 'missing'}  {text}")
    if not complete:
        folders = " or ".join(source.image_folders)
        print(f"  annotations  {source.page}\n               belong into {root / dataset}")
        print(f"  images       {source.images_page}\n               belong into {folders} under {root}")
    return complete


def main(argv: Sequence[str] | None = None) -> int:
    """Report on the asked datasets, or on all."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(
        description="Which datasets are complete, and what the others lack.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of datasets and images")
    parser.add_argument("--dataset", nargs="+", choices=list(REFER_DATASETS), help="default: all")
    parser.add_argument("--read", action="store_true", help="read every split and look at every image")
    arguments = parser.parse_args(argv)
    complete = [
        report(arguments.root, dataset, read=arguments.read)
        for dataset in arguments.dataset or REFER_DATASETS
    ]
    return 0 if all(complete) or not arguments.dataset else 1


if __name__ == "__main__":
    sys.exit(main())
