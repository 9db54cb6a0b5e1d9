"""Finished pieces of work, one JSON line each: resume is looking.

Only ever appended to, but for what is to be forgotten. A line that a kill cut short is as if it had never been: that
piece is done again.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from selfedit import __version__, disk
from selfedit.errors import RunError


class Journal:
    def __init__(self, file: Path):
        """Reads what is there; makes the folder, so that a disk that cannot be written is noticed before the work."""
        self.file = file
        with plain_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        self.records = self._read()

    def _read(self) -> list[dict]:
        with plain_errors(self.file):
            lines = self.file.read_text(encoding="utf-8", errors="replace").split("\n") if self.file.exists() else []
        records = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    def drop(self, unwanted: Callable[[dict], bool]) -> None:
        """The file without such records, also where another process adds to it."""
        if not any(map(unwanted, self._read())):
            return
        with plain_errors(self.file), disk.file_lock(self.file):
            found = self._read()
            self.records = [record for record in found if not unwanted(record)]
            if len(self.records) < len(found):
                disk.replace(self.file, b"".join(json.dumps(record).encode() + b"\n" for record in self.records))

    def add(self, record: dict) -> None:
        with plain_errors(self.file):
            disk.add_line(self.file, json.dumps(record).encode() + b"\n")
        self.records.append(record)


def lock_run_folder(folder: Path, settings: dict) -> FileLock:
    """The folder is this run's, now or from before, and of no other process as long as what is returned is there. Raises
    RunError if another is at work in it, or if it holds a run with other settings.

    `settings.json` also says with which software the run was begun."""
    settings = json.loads(json.dumps(settings, default=str))
    file, lock = (
        folder / "settings.json",
        FileLock(folder.resolve() / ".lock", timeout=0, is_singleton=True, thread_local=False),
    )
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"another process is at work in {folder}; wait for it, or give another --out") from None
        if not file.exists():
            write_json(file, settings | {"software": software()})
            return lock
        text = file.read_text(encoding="utf-8", errors="replace")
    earlier = _object(text, f"{file} is not a run's settings; give another --out")
    odd = sorted(
        key for key in (earlier.keys() | settings.keys()) - {"software"} if earlier.get(key) != settings.get(key)
    )
    if odd:
        lock.release()
        raise RunError(f"{folder} holds a run with another {', '.join(odd)}; give another --out")
    return lock


def write_json(file: Path, value: object) -> None:
    """Whole or not at all."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Whole or not at all."""
    with plain_errors(file):
        disk.replace(file, text.encode())


def read_back(file: Path) -> dict:
    """What `write_json` wrote. Raises RunError if the file has been damaged since."""
    with plain_errors(file):
        text = file.read_text(encoding="utf-8", errors="replace")
    return _object(text, f"{file} is damaged; deleted, its part of the run is done again")


def _object(text: str, fault: str) -> dict:
    """Raises RunError with that fault on what is no JSON object."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise RunError(fault) from None


def software() -> str:
    """The version and, from a checkout, its git revision, with "+" where that has been changed."""
    root = Path(disk.__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True).stdout.strip() if (root / ".git").exists() else ""
    except OSError:  # no git here
        found = ""
    return f"{__version__} {found}".strip()


def plain_errors(path: Path) -> AbstractContextManager:
    """What the disk objects to in a run's folder, as a RunError."""
    return disk.plain_errors(f"use {path} (--out or --home)", RunError)
