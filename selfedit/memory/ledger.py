"""The ledger: which memories are active, version by version, so that no kill leaves it between two versions.

In: a change and the ids active from then on. Out: the present state, the history, any former state. Each is a line, a
dict with the keys of `EMPTY`, which is version 0.

    home/ledger.jsonl    one line a version; only ever appended to
    home/HEAD            the number of the version in force, moved by one atomic replace

The idea: the state is the line that HEAD names. A line that a killed writer left above HEAD, or tore, was never named,
so it never happened; the next line gets a higher number. `previous` is the version a line followed: the history is that
chain. `undo_to` is the version that undoing leads to: `previous`, but for an undo it is the `undo_to` of the version
it went back to, so undoing again goes further back. `check` is the SHA-256 of the line and of the `check` of the version
it followed: whoever changes a line has to change all that came after it. A line has every active memory, so the state
needs no other line; only lines that are asked for are parsed. `adapters` says which active memories share an adapter
(`memory.consolidate`): as soon as one of them is active no more, the others, which `apart` names, answer from their own.

Whoever appends holds the store's lock; readers need none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.types import text_hash

FORMAT = 1
"""Of the store; a higher one is a newer program's."""
EMPTY = {
    "version": 0, "format": FORMAT, "time": None, "action": None, "memories": [], "active": [], "adapters": {},
    "previous": None, "undo_to": None, "check": "",
}  # fmt: skip
_START = re.compile(rb'\{"version": (\d+), .*\}', re.DOTALL)


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
            return lines[int(head) if head and head.strip().isdigit() else None]
        except KeyError:
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
            try:
                state = lines[state["previous"]]
            except KeyError as lost:
                raise MemoryStoreError(f"{self.lines_path} has lost version {lost}; restore it from a backup") from None
        return past[::-1]

    def start(self) -> None:
        """Writes HEAD before anything else is there, so that from then on no HEAD means a lost HEAD."""
        if not self.head_path.exists():
            disk.replace(self.head_path, b"0\n")

    def append(
        self,
        action: str,
        memories: Iterable[str],
        active: list[str],
        adapters: dict[str, str] | None = None,
        **extra: object,
    ) -> dict:
        """Makes a new version the present state. `adapters`: of the memories that share one; those of the present if not given."""
        present, version = self.state(), 1 + max(self._lines())
        adapters = present["adapters"] if adapters is None else adapters
        broken = {adapter for memory, adapter in adapters.items() if memory not in active}
        adapters = {memory: adapter for memory, adapter in adapters.items() if adapter not in broken}
        if action not in ("consolidate", "rollback"):
            apart = [memory for memory in present["adapters"] if memory not in adapters and memory in active]
            extra |= {"apart": apart} if apart else {}
        line = {
            "version": version,
            "format": FORMAT,
            "time": now(),
            "action": action,
            "memories": list(memories),
            "active": active,
            "adapters": adapters,
        }
        line |= {"previous": present["version"], "undo_to": present["version"]} | extra
        line["check"] = _check(line, present)
        torn = not (_read(self.lines_path) or b"\n").endswith(b"\n")
        disk.write(self.lines_path, b"\n" * torn + disk.json_line(line), mode="ab")
        disk.sync(self.lines_path.parent)
        disk.replace(self.head_path, b"%d\n" % version)
        return line

    def faults(self) -> list[str]:
        """What is not as it was written, of the lines that led to the present state."""
        before, found, signed = EMPTY, [], False
        for line in self.history():
            signed = signed or bool(
                line["format"] or line["check"]
            )  # format 0 had no checks, and only it; none comes after
            if signed and line["check"] != _check(line, before):
                found.append(f"{self.lines_path}: version {line['version']} or one before it has been changed")
            before = line
        return found

    def _lines(self) -> _Lines:
        """The lines by version, without those torn by a kill."""
        return _Lines((_read(self.lines_path) or b"").splitlines())


class _Lines(dict):
    """Version → line, parsed when it is asked for."""

    def __init__(self, texts: list[bytes]):
        super().__init__({0: EMPTY} | {int(match[1]): text for text in texts if (match := _START.fullmatch(text))})

    def __getitem__(self, version: int) -> dict:
        """Raises KeyError for one that is not there, or not a line of a ledger; MemoryStoreError for a newer program's."""
        line = super().__getitem__(version)
        if isinstance(line, bytes):
            try:
                line = _upgraded(json.loads(line))
                newer = isinstance(line["format"], int) and line["format"] > FORMAT
                valid = newer or _is_line(line) and line["previous"] < version == line["version"]
            except (ValueError, TypeError, AttributeError):
                valid = False
            if not valid:
                raise KeyError(version)
            if newer:
                raise MemoryStoreError(
                    f"the ledger was written by a newer selfedit (format {line['format']}, this one knows {FORMAT}); update selfedit"
                )
        return line


def _is_line(line: dict) -> bool:
    """Whether it has what a line of this format has, each of its kind."""
    ids = [*line["memories"], *line["active"], *line["adapters"], *line["adapters"].values()]
    lists, numbers = (
        (line["memories"], line["active"], line.get("sources", [])),
        (line["format"], line["previous"], line["undo_to"] or 0),
    )
    return (
        line.keys() >= EMPTY.keys()
        and all(isinstance(own, list) for own in lists)
        and all(isinstance(number, int) for number in numbers)
        and all(isinstance(text, str) for text in (line["action"], line["check"], *line.get("sources", ()), *ids))
    )


def _upgraded(line: dict) -> dict:
    """A line of format 0, which had one memory and no check, as it would be today."""
    if "memory" not in line:
        return line
    memory, action = line.pop("memory"), {"forget": "disable", "erase": "forget"}.get(line["action"], line["action"])
    return line | {"format": 0, "action": action, "memories": [memory] if memory else [], "adapters": {}, "check": ""}


def _check(line: dict, before: dict) -> str:
    own = {key: value for key, value in line.items() if key != "check"}
    return text_hash(before["check"], json.dumps(own, sort_keys=True))


def _read(path: Path) -> bytes | None:
    """None if there is no such file."""
    with disk.plain_errors(f"read {path}", MemoryStoreError):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
