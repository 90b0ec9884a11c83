"""Files that are written whole or not at all, and how paths are told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path beside `path` that takes its place when the block ends without an error.

    A kill or a full disk in the middle leaves the old file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def short_path(path: Path, root: str) -> str:
    """`path` relative to `root` where it lies below it, else absolute; forward slashes."""
    absolute = Path(path).resolve()
    base = Path(root).resolve()
    return (
        absolute.relative_to(base).as_posix()
        if root and absolute.is_relative_to(base)
        else absolute.as_posix()
    )
