"""Say for each dataset what is there, what is missing, where it belongs and where it comes from.

    python scripts/check_data.py                               files of all datasets
    python scripts/check_data.py --dataset refcoco --read      read every split, look at every image

Sets in REFER layout are looked for under playground/data/refer_seg, all others under playground/data; with
--root all under one folder. Ends with 1 if a dataset named by --dataset is incomplete, so that a script can
rely on it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llava.data.build import DEFAULTS, LLAVA, default_root
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.readers.conversations import IMAGE_FOLDERS, PAGE, read_conversations
from llava.data.readers.refer import REFER_DATASETS, find_refs

NAMES = (*DATASETS, LLAVA)
SHOWN_PLACES = 2
"""Places of one file that are named where not all are."""


class Findings(Problems):
    """Leaves out what is wrong, counts it, and tells it from what a documented rule leaves out.

    Attributes:
        wrong: number of wrong records.
    """

    def __init__(self) -> None:
        super().__init__("skip")
        self.wrong = 0

    def report(self, kind: str, place: str, message: str) -> None:
        """A record is wrong and cannot be used."""
        self.wrong += 1
        super().report(kind, place, message)


def needs_of(name: str) -> Iterator[tuple[str, ...]]:
    """Files and folders of a dataset, each as the places where it may lie under the root."""
    if name == LLAVA:
        yield (DEFAULTS[LLAVA].split,)
        yield from ((folder,) for folder in IMAGE_FOLDERS)
        return
    for need in DATASETS[name].needs:
        yield tuple(need.split(" or "))


def pages_of(name: str) -> tuple[str, str]:
    """Where a dataset's annotations and its images come from; "" for images that come along."""
    if name == LLAVA:
        return PAGE, "https://github.com/haotian-liu/LLaVA, section Visual Instruction Tuning"
    return DATASETS[name].page, DATASETS[name].images_page


def is_there(path: Path) -> bool:
    """Whether a file has content or a folder an entry."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_file() and path.stat().st_size > 0


def check_files(root: Path, name: str, *, every_place: bool) -> Iterator[tuple[bool, str]]:
    """Whether each needed file or folder is there, with the place where it is or should be."""
    for places in needs_of(name):
        found = [place for place in places if is_there(root / place)]
        if found:
            yield True, found[0]
            continue
        shown = places if every_place else places[:SHOWN_PLACES]
        more = f" or {len(places) - len(shown)} more places" if len(shown) < len(places) else ""
        yield False, " or ".join(shown) + more


def specs_of(root: Path, name: str) -> Iterator[str]:
    """Splits of a dataset as specs; of REFER sets those of every refs file that is there."""
    if name not in REFER_DATASETS:
        splits = (DEFAULTS[LLAVA].split,) if name == LLAVA else DATASETS[name].splits
        yield from (f"{name}|{split}" for split in splits)
        return
    for split_by, splits in REFER_DATASETS[name].splits.items():
        try:
            find_refs(root, name, split_by)
        except FileNotFoundError:
            continue
        yield from (f"{name}|{split_by}|{split}" for split in splits)


def read_split(root: Path, spec: str) -> tuple[bool, str]:
    """Whether a split can be read and nothing in it is wrong, with its counts, or why it cannot."""
    findings = Findings()
    try:
        counted = count(root, spec, findings)
    except FileNotFoundError:
        return False, f"{spec}: not read, files are missing"
    except (ValueError, OSError) as error:
        return False, f"{spec}: {error}"
    lines = [f"{spec}: {counted}", *(str(findings).splitlines() if findings.counts else [])]
    return not findings.wrong, "\n           ".join(lines)


def count(root: Path, spec: str, findings: Findings) -> str:
    """What a split holds: targets, ways to ask for them, images; or conversations and images."""
    name, _, split = spec.partition("|")
    if name == LLAVA:
        shown = [
            image.image for image in read_conversations(root / split, problems=findings, image_folder=root)
        ]
        return f"{len(shown)} conversations, {len(set(filter(None, shown)))} images"
    targets: set[str] = set()
    images: set[Path] = set()
    samples = 0
    for sample in read_dataset(root, spec, findings):
        samples += 1
        targets.add(sample.id.rpartition("|")[0])
        images.add(sample.image_path)
    return f"{len(targets)} targets, {samples} samples, {len(images)} images"


def report(root: Path, name: str, *, read: bool, every_place: bool) -> bool:
    """Print what is known about one dataset; true if nothing is missing or wrong."""
    findings = list(check_files(root, name, every_place=every_place))
    there = sum(fine for fine, _ in findings)
    complete = there == len(findings)
    state = "found" if complete else f"incomplete, {there} of {len(findings)}" if there else "missing"
    print(f"{name}: {state} under {root}")
    show(findings, "missing")
    if not complete:
        page, images_page = pages_of(name)
        print(f"  get      {page}")
        if images_page:
            print(f"  images   {images_page}")
    if not (read and there):
        return complete
    splits = [read_split(root, spec) for spec in specs_of(root, name)]
    show(splits, "wrong")
    return complete and all(fine for fine, _ in splits)


def show(findings: Iterable[tuple[bool, str]], otherwise: str) -> None:
    """One line for each finding, what is fine first word "ok"."""
    for fine, text in findings:
        print(f"  {'ok' if fine else otherwise:<7}  {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Report on the asked datasets, or on all."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(
        description="Which datasets are complete, and what the others lack.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, help="one folder for everything; default: one for REFER sets, one for the rest"
    )
    parser.add_argument("--dataset", nargs="+", choices=NAMES, help="default: all")
    parser.add_argument("--read", action="store_true", help="read every split and look at every image")
    arguments = parser.parse_args(argv)
    complete = []
    for name in arguments.dataset or NAMES:
        root = arguments.root or default_root(name)
        complete.append(report(root, name, read=arguments.read, every_place=bool(arguments.dataset)))
    print(f"{sum(complete)} of {len(complete)} datasets are complete")
    return 0 if all(complete) or not arguments.dataset else 1


if __name__ == "__main__":
    sys.exit(main())
