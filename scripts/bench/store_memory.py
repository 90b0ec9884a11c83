"""Memory of one training process with millions of records in a store, and of one of its workers.

    python scripts/bench/store_memory.py --records 3000000

Writes a synthetic store of realistic records (RefCOCO's proportions: three targets an image, three
expressions a target, compressed masks of some hundred bytes), opens it in a fresh process, draws random
records, and puts an epoch into order. "Own" is memory that no other process can use (RssAnon of the Linux
kernel); "mapped" are pages of files and libraries, which all processes share and which the kernel takes back
when it needs room (RssFile). A list of the same records as JSON, as the published trainings hold it in every
process, is measured with fewer records and scaled up.

3,000,000 records take 2 GB of disk, removed at the end without --keep, and some minutes to write.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
SIZE_HW = (480, 640)
TARGETS, NAMES = 3, 3
MASKS = 100
WORDS = (
    "left right man woman girl boy in the red blue white black shirt hat with on of a dog cat car bus chair "
    "table plate pizza giraffe zebra elephant standing sitting closest front back person umbrella far second"
).split()
JSON_RECORDS = 30_000
LIMIT = 3072
Row = tuple[str, float, float]
"""What was done, own memory and mapped memory in MB."""


def memory() -> tuple[float, float]:
    """Own and mapped memory of this process in MB."""
    text = STATUS.read_text(encoding="ascii")
    own, mapped = (int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


def write(folder: Path, records: int, seed: int) -> None:
    """Store of so many synthetic records."""
    from llava.data.store import write_store

    start = time.perf_counter()
    count = write_store(_images(records // TARGETS, seed), folder, about={"split": "train"})
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"wrote {count:,} records, {size / 2**20:,.0f} MB, in {time.perf_counter() - start:.0f} s", flush=True
    )


def _images(count: int, seed: int) -> Iterator[Any]:
    """Synthetic annotated images."""
    import numpy as np

    from llava.data.annotated import AnnotatedImage, Target

    rng = np.random.default_rng(seed)
    masks = [_mask(rng) for _ in range(MASKS)]
    lengths = rng.poisson(2.5, size=(MASKS, NAMES)) + 1
    phrases = [tuple(" ".join(rng.choice(WORDS, length)) for length in row) for row in lengths]
    for number in range(count):
        picked = rng.integers(MASKS, size=(TARGETS, 2)).tolist()
        targets = tuple(
            Target(f"refcoco|unc|train|{number * TARGETS + place}", phrases[words], masks[mask])
            for place, (mask, words) in enumerate(picked)
        )
        image = f"images/mscoco/images/train2014/COCO_train2014_{number:012d}.jpg"
        yield AnnotatedImage(f"refcoco|{number}", "refcoco", "referring", image, SIZE_HW, targets)


def _mask(rng: Any) -> dict[str, Any]:  # noqa: ANN401
    """RLE of a blob with a wavy border, between 0.5 and 20 % of the image."""
    import numpy as np

    from llava.data.rle import encode_mask

    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    dy, dx = rows - rng.integers(80, 400), columns - rng.integers(80, 560)
    angle = np.arctan2(dy, dx)
    waves = sum(rng.uniform(0, 0.15) * np.sin(k * angle + rng.uniform(0, 7)) for k in range(2, 9))
    return encode_mask(np.hypot(dy, dx * rng.uniform(0.5, 1.5)) < rng.uniform(25, 140) * (1 + waves))


def measure(folder: Path, reads: int) -> None:
    """Memory after each step, as a markdown table."""
    steps: list[Row] = [("Python alone", *memory())]

    import numpy as np

    from llava.data.draw import DrawSettings
    from llava.data.mixture import MixtureDataset
    from llava.data.mixture_file import open_mixture
    from llava.train.data import Estimates, Measured
    from llava.train.trainer import SampleOrder

    steps.append(("imports (torch, transformers, datasets)", *memory()))
    draws = MixtureDataset(open_mixture([folder]), DrawSettings((16, 16)), 0)
    steps.append((f"store opened, {len(draws):,} records", *memory()))
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for index in rng.integers(len(draws), size=reads).tolist():
        draws.record(0, index)
    rate = reads / (time.perf_counter() - start)
    steps.append((f"{reads:,} random records drawn", *memory()))
    anchors = rng.integers(len(draws), size=256)
    estimates = Estimates(draws, [Measured(anchors, rng.integers(100, 900, 256))], LIMIT)
    order = iter(SampleOrder(estimates, global_batch=128, seed=0, grouped=True))
    next(order)
    steps.append(("lengths estimated, epoch in order", *memory()))
    worker = _in_worker(draws, reads // 4)
    steps.append((f"a forked worker, {reads // 4:,} records drawn: its own part", *worker))
    _print(steps, rate)
    _print_json(draws)


def _in_worker(draws: Any, reads: int) -> tuple[float, float]:  # noqa: ANN401
    """Memory that a forked process does not share with its parent, and its mapped pages, in MB."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_work, args=(draws, reads, theirs))
    child.start()
    found: tuple[float, float] = ours.recv()
    child.join()
    return found


def _work(draws: Any, reads: int, pipe: Any) -> None:  # noqa: ANN401
    """Draw records and tell the memory."""
    for index in range(0, len(draws), len(draws) // reads):
        draws.record(1, index)
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    own = int(re.findall(r"Private_Dirty:\s+(\d+) kB", rollup)[0]) / 1024
    pipe.send((own, memory()[1]))


def _print(steps: Sequence[Row], rate: float) -> None:
    """Table of the steps with what each is above the imports."""
    base_own, base_mapped = steps[1][1:]
    print("\n| step | own MB | mapped MB | own above imports | mapped above imports |")
    print("|---|--:|--:|--:|--:|")
    for number, (name, own, mapped) in enumerate(steps):
        above = (f"{own - base_own:,.0f}", f"{mapped - base_mapped:,.0f}") if number > 1 else ("", "")
        above = (f"{own:,.0f}", "") if name.startswith("a forked") else above
        print(f"| {name} | {own:,.0f} | {mapped:,.0f} | {above[0]} | {above[1]} |")
    print(f"\n{rate:,.0f} records drawn per second on one process", flush=True)


def _print_json(draws: Any) -> None:  # noqa: ANN401
    """Memory of the same records as one list of JSON objects, scaled up."""
    count = min(JSON_RECORDS, len(draws))
    text = "[" + ",".join(json.dumps(draws.record(0, index)) for index in range(count)) + "]"
    before = memory()[0]
    held = json.loads(text)
    used = memory()[0] - before
    scaled = used * len(draws) / len(held)
    print(f"as one JSON list in every process: {scaled:,.0f} MB, scaled up from {len(held):,} records")


def main() -> None:
    """Write, measure in a fresh process, remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=3_000_000, help="records in the store")
    parser.add_argument("--reads", type=int, default=20_000, help="records drawn at random")
    parser.add_argument("--folder", type=Path, help="where the store goes; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic records")
    parser.add_argument(
        "--keep", action="store_true", help="keep the store, and use one that is there already"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.reads)
        return
    if not STATUS.is_file():
        raise SystemExit("error: the memory of a process is read from /proc, which only Linux has")
    if given.records < 100 or given.reads < 8:
        raise SystemExit("error: give at least 100 --records and 8 --reads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "store"
        if not (given.keep and folder.is_dir()):
            write(folder, given.records, given.seed)
        again = [sys.executable, __file__, "--measure", str(folder), "--reads", str(given.reads)]
        subprocess.run(again, check=True)
        if given.folder and not given.keep:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


if __name__ == "__main__":
    main()
