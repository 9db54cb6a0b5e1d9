"""Finished pieces of work, one JSON line each: resume is looking.

Only ever appended to. A line that a kill cut short is as if it had never been: that piece is done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfedit.errors import RunError


class Journal:
    def __init__(self, file: Path):
        """Reads what is there; makes the folder, so that a disk that cannot be written is noticed before the work."""
        self.file = file
        self.records: list[dict] = []
        with plain_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                self.records.append(record)

    def add(self, record: dict) -> None:
        with plain_errors(self.file), self.file.open("a+b") as file:
            torn = file.seek(0, 2) > 0 and not _ends_a_line(file)
            file.write((b"\n" if torn else b"") + json.dumps(record).encode() + b"\n")
        self.records.append(record)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot use {path} ({error.strerror or error}); free space, or choose another place with --home or --out") from error


def _ends_a_line(file) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"
