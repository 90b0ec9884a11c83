"""Evaluates with the fake systems, and is killed at chosen moments: started by `test_eval_kill.py`.

    python tests/eval_kill_driver.py FOLDER KILLS

A first child counts the lines of code that an evaluation runs in the files which read and write a run. Then,
for each of KILLS seeded places in that count, a child ends itself with SIGKILL there and another one resumes.
One line tells each: the place, how both children ended, and whether the files equal those of an unbroken run.
"""

import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

from eval_fakes import SETTINGS, FakeRefiner, FakeSegmenter, drawn_samples, still_clock

from llava import files
from llava.eval import loop, predictions, report, run
from llava.eval.loop import evaluate
from llava.eval.report import write_report

WATCHED = {module.__file__ for module in (loop, predictions, run, files)}
KEPT = ("predictions.jsonl", "run.json", "results.json", "report.html")


class Lines:
    """Counts lines of the watched files; ends the process at one of them."""

    def __init__(self, last=None):
        self.count = 0
        self.last = last

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def answer(data, out):
    settings = replace(SETTINGS, data_root=str(data))
    evaluate(
        FakeSegmenter(),
        drawn_samples(data),
        out,
        settings=settings,
        refiner=FakeRefiner(),
        batch_size=3,
        clock=still_clock,
    )
    write_report(out)


def child(data, out, lines):
    """Exit status of a process that evaluates while its lines are counted; the count goes to a file."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.settrace(lines)
        answer(data, out)
        sys.settrace(None)
        (out.parent / "count").write_text(str(lines.count))
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def files_of(out):
    """Names of a run's files, without the pictures and what an atomic write left, and what they hold."""
    names = sorted(path.name for path in out.iterdir() if path.suffix != ".png" and path.name[0] != ".")
    return names, [(out / name).read_bytes() for name in KEPT]


def main():
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    report.SHEET_CARDS = 1
    data = folder / "data"
    drawn_samples(data)
    assert child(data, folder / "whole", Lines()) == 0
    total = int((folder / "count").read_text())
    expected = files_of(folder / "whole")
    for place in sorted(random.Random(0).sample(range(1, total + 1), kills)):
        out = folder / f"killed{place}"
        ended = child(data, out, Lines(place))
        again = child(data, out, Lines())
        sys.stdout.write(f"{place} {ended} {again} {files_of(out) == expected}\n")


if __name__ == "__main__":
    main()
