"""Finished pieces of work as JSON lines, from which a stopped run continues, and the settings that a run is bound to.

A journal is only appended to, except when something is to be forgotten. A line that a kill cut short is ignored, so
that piece of work is done again.
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
        """Reads the file, if it exists, and makes its folder, so that an unwritable disk is noticed before the work."""
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
        """Removes such records from the file, even while another process adds to it."""
        if not any(map(unwanted, self._read())):
            return
        with plain_errors(self.file), disk.file_lock(self.file):
            records = self._read()
            self.records = [record for record in records if not unwanted(record)]
            if len(self.records) < len(records):
                disk.replace(self.file, b"".join(json.dumps(record).encode() + b"\n" for record in self.records))

    def add(self, record: dict) -> None:
        with plain_errors(self.file):
            disk.add_line(self.file, json.dumps(record).encode() + b"\n")
        self.records.append(record)


def lock_run_folder(folder: Path, settings: dict) -> FileLock:
    """Reserves a new folder, or that of a stopped run with equal settings, for this process while the returned lock
    exists. Raises RunError if another process works in it, or if it holds a run with other settings.

    `settings.json` also lists the versions of the software that worked in the folder."""
    settings = json.loads(json.dumps(settings, default=str))
    file = folder / "settings.json"
    lock = FileLock(folder.resolve() / ".lock", timeout=0, is_singleton=True, thread_local=False)
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"another process is at work in {folder}; wait for it, or give another --out") from None
        try:
            _check_settings(file, settings)
        except BaseException:
            lock.release()
            raise
    return lock


def _check_settings(file: Path, settings: dict) -> None:
    """Writes the settings of a new run; raises RunError if those of the earlier one differ."""
    if not file.exists():
        write_json(file, settings | {"software": [software()]})
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    earlier = _object(text, f"{file} is not a run's settings; give another --out")
    keys = (earlier.keys() | settings.keys()) - {"software"}
    if different := sorted(key for key in keys if earlier.get(key) != settings.get(key)):
        raise RunError(f"{file.parent} holds a run with another {', '.join(different)}; give another --out")
    if (version := software()) not in (versions := _versions(earlier)):
        write_json(file, earlier | {"software": [*versions, version]})


def _versions(settings: dict) -> list[str]:
    versions = settings.get("software", [])
    return versions if isinstance(versions, list) else [versions]  # one, as older versions wrote it


def write_json(file: Path, value: object) -> None:
    """Writes the whole file or nothing."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes the whole file or nothing."""
    with plain_errors(file):
        disk.replace(file, text.encode())


def read_back(file: Path) -> dict:
    """Reads what `write_json` wrote. Raises RunError if the file has been damaged since."""
    with plain_errors(file):
        text = file.read_text(encoding="utf-8", errors="replace")
    return _object(text, f"{file} is damaged; deleted, its part of the run is done again")


def _object(text: str, fault: str) -> dict:
    """Parses a JSON object. Raises RunError with this message if the text is none."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise RunError(fault) from None


def software(folder: Path | None = None) -> str:
    """The version and, in a checkout, the git revision, with "+" if files differ from it. `folder`: of a run; then all
    versions that worked on it."""
    if folder and (settings := folder / "settings.json").exists():
        return ", ".join(_versions(read_back(settings)))
    root = Path(disk.__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True).stdout if (root / ".git").exists() else ""
    except OSError:  # git is not installed
        revision = ""
    return f"{__version__} {revision}".strip()


def plain_errors(path: Path) -> AbstractContextManager:
    """Turns a disk error in a run's folder into a RunError."""
    return disk.plain_errors(f"use {path} (--out or --home)", RunError)
