"""Checkpoint folders of a run: written beside, moved into place, found again, the oldest removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

STATE_FILE = "trainer_state.json"
WRITING = ".writing"
"""Ending of a folder whose checkpoint is being written."""
REMOVING = ".removing"
"""Ending of a folder that is being removed."""


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return Path(output_dir, f"checkpoint-{step}")


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """Newest `checkpoint-N` folder that was written to its end, or None."""
    return next((folder for folder in reversed(_checkpoints(output_dir)) if _is_whole(folder)), None)


def check_agreement(checkpoint: Path | None) -> None:
    """Refuse a run whose processes found different checkpoints; called by all of them.

    Raises:
        ValueError: they differ, as on machines that do not share the output folder.
    """
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return
    found: list[str | None] = [None] * group.get_world_size()
    group.all_gather_object(found, checkpoint.name if checkpoint else "no checkpoint")
    if len(set(found)) > 1:
        raise ValueError(
            f"--resume: the processes of this run found different checkpoints "
            f"({', '.join(map(str, found))}); put --output_dir on a file system that all machines share"
        )


def move_into_place(written: Path, folder: Path) -> None:
    """Give a written checkpoint its name, once all of its files are on the disk.

    Args:
        written: folder with the whole checkpoint, on the disk of `folder`; its parent is removed.
        folder: the place; what a kill left there in part is replaced.
    """
    for path in [*written.rglob("*"), written]:
        _flush(path)
    if folder.exists():
        _remove(folder)
    written.rename(folder)
    _flush(folder.parent)
    written.parent.rmdir()


def keep_last(output_dir: Path, limit: int) -> None:
    """Remove all whole checkpoints but the newest `limit`, and everything that was written in part."""
    folders = _checkpoints(output_dir)
    kept = [folder for folder in folders if _is_whole(folder)][-limit:]
    for folder in folders:
        if folder not in kept:
            _remove(folder)


def sweep(output_dir: Path) -> None:
    """Remove what a kill left of checkpoints that were being written or removed."""
    for ending in (WRITING, REMOVING):
        for folder in output_dir.glob(f"checkpoint-*{ending}"):
            shutil.rmtree(folder)


def _checkpoints(output_dir: Path) -> list[Path]:
    """All `checkpoint-N` folders, whole or not, in the order of their steps."""
    steps = {folder: folder.name.split("-")[1] for folder in output_dir.glob("checkpoint-*")}
    return sorted((folder for folder in steps if steps[folder].isdigit()), key=lambda each: int(steps[each]))


def _is_whole(checkpoint: Path) -> bool:
    """Whether the last file of a checkpoint is there and readable, and the random states with it."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return bool(state.get("global_step")) and any(checkpoint.glob("rng_state*.pth"))


def _remove(folder: Path) -> None:
    """Remove a folder; a kill in the middle leaves none that could be taken for a checkpoint."""
    going = folder.with_name(folder.name + REMOVING)
    folder.rename(going)
    shutil.rmtree(going)


def _flush(path: Path) -> None:
    """Have a file, or the list of files of a folder, written to the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
