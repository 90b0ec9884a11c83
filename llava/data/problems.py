"""What a reader does with a wrong record: stop with a clear error, or leave it out and count it."""

from __future__ import annotations

from collections import Counter

ON_ERROR = ("stop", "skip")
"""Stop at the first wrong record, or leave wrong records out and go on."""

_EXAMPLES = 3


class Problems:
    """Collects what is wrong with a dataset's records.

    Args:
        on_error: one of `ON_ERROR`.

    Attributes:
        counts: number of problems of each kind, also of those that never stop (see `note`).
    """

    def __init__(self, on_error: str = "stop") -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error {on_error!r}: known are {', '.join(ON_ERROR)}")
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._wrong: set[str] = set()

    def report(self, kind: str, place: str, message: str) -> None:
        """A record is wrong and cannot be used.

        Args:
            kind: a few words to count by, as "missing image".
            place: file and record.
            message: what is wrong, what is allowed, what to do.

        Raises:
            ValueError: `on_error` is "stop".
        """
        if self.on_error == "stop":
            raise ValueError(f"{place}: {message}; to leave such records out and count them: --on-error skip")
        self._wrong.add(kind)
        self.note(kind, f"{place}: {message}")

    def note(self, kind: str, example: str) -> None:
        """Count something that a documented rule leaves out or changes; never stops."""
        self.counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def __str__(self) -> str:
        lines = []
        for kind, count in sorted(self.counts.items()):
            verb = "left out" if kind in self._wrong else "noted"
            lines.append(f"{verb:<14} {count} x {kind}")
            lines += [f"               {example}" for example in self._examples[kind]]
        return "\n".join(lines)
