"""The ledger: which memories are active, version by version, so that no kill leaves it between two versions.

In: a change and the ids active from then on. Out: the present state, the history, any former state. Each is a line, a
dict with the keys of `EMPTY`, which is version 0.

    home/ledger.jsonl    one line a version; only ever appended to
    home/HEAD            the number of the version in force, moved by one atomic replace

The idea: the state is the line that HEAD names. A line that a killed writer left above HEAD, or tore, was never named,
so it never happened; the next line gets a higher number. `previous` is the version a line followed: the history is that
chain. `undo_to` is the version that undoing leads to: `previous`, but for an undo it is the `undo_to` of the version
it went back to, so undoing again goes further back.

Whoever appends holds the store's lock; readers need none.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from selfedit import disk
from selfedit.errors import MemoryStoreError

EMPTY = {"version": 0, "time": None, "action": None, "memory": None, "active": [], "previous": None, "undo_to": None}


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Ledger:
    def __init__(self, home: Path):
        self.lines_path = home / "ledger.jsonl"
        self.head_path = home / "HEAD"
        self.memories_path = home / "memories"

    def state(self) -> dict:
        """The line that HEAD names."""
        # Looked at before HEAD, which is written before either: a reader beside the very first writer is not alarmed.
        was_used = os.path.exists(self.lines_path) or any(self.memories_path.glob("[!.]*"))
        head = _read(self.head_path)
        if head is None and not was_used:
            return EMPTY
        lines = self._lines()
        try:
            return lines[int(head or b"")]
        except (ValueError, KeyError):
            found = "is missing" if head is None else f"says {head[:20]!r}, which is no version in ledger.jsonl"
            raise MemoryStoreError(
                f"{self.head_path} {found}; restore HEAD and ledger.jsonl from a backup, or write a version into HEAD: "
                f"0 (no memory active) to {max(lines)} (the last in the ledger)"
            ) from None

    def history(self) -> list[dict]:
        """The lines that led to the present state, oldest first."""
        state, past = self.state(), []
        lines = self._lines()
        while state["version"]:
            past.append(state)
            before = state["previous"]
            if before not in lines:
                raise MemoryStoreError(f"{self.lines_path} has lost version {before}; restore it from a backup")
            state = lines[before]
        return past[::-1]

    def start(self) -> None:
        """Writes HEAD before anything else is there, so that from then on no HEAD means a lost HEAD."""
        if not self.head_path.exists():
            disk.replace(self.head_path, b"0\n")

    def append(self, action: str, memory: str | None, active: list[str], **extra: object) -> dict:
        """Makes a new version the present state."""
        present, version = self.state()["version"], 1 + max(self._lines())
        line = {"version": version, "time": now(), "action": action, "memory": memory, "active": active}
        line |= {"previous": present, "undo_to": present} | extra
        torn = not (_read(self.lines_path) or b"\n").endswith(b"\n")
        disk.write(self.lines_path, b"\n" * torn + disk.json_line(line), mode="ab")
        disk.sync(self.lines_path.parent)
        disk.replace(self.head_path, b"%d\n" % version)
        return line

    def _lines(self) -> dict[int, dict]:
        """The lines by version, without those torn by a kill."""
        lines = {0: EMPTY}
        for text in (_read(self.lines_path) or b"").splitlines():
            try:
                line = json.loads(text)
                if line.keys() >= EMPTY.keys() and line["previous"] < line["version"]:
                    lines[line["version"]] = line
            except (ValueError, TypeError, AttributeError):
                continue
        return lines


def _read(path: Path) -> bytes | None:
    """None if there is no such file."""
    with disk.plain_errors(f"read {path}", MemoryStoreError):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
