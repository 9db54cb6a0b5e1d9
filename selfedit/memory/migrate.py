"""A home of selfedit 0.1 (files) → a database, once, whole or not at all.

    home/memories/<id>/, shared/<id>/    an adapter, edits.jsonl, source.json, scores.json and manifest.json each
    home/ledger.jsonl, HEAD              one line per version, each with all active memories; the number of the present
    home/index/                          for retrieval

All of it is written to `memory.db.new` and `adapters/`; the renaming of that file is the moment of the change. Killed
before, the next start begins again; killed after, it only moves the old files to `before-migration/`, where they stay
until `verify` finds no fault. What was damaged stays damaged: it is reported as before, and can be forgotten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.memory import database, entries, route, versions
from selfedit.memory.adapters import ADAPTER_FILES, BEFORE_MIGRATION, CONFIG, WEIGHTS
from selfedit.memory.versions import Place
from selfedit.types import Example, Passage, SelfEdit, text_hash

_OLD = ("index", "shared", "memories", "HEAD", ".lock", "ledger.jsonl")
"""In the order in which they are put aside, so that a killed move is noticed by what is left."""
_HEADER: dict = {"version": 0, "format": 1, "time": None, "action": None, "memories": [], "active": [], "adapters": {}}
_EMPTY = _HEADER | {"previous": None, "undo_to": None, "check": ""}
_FORMAT = 1


def is_pending(home: Path) -> bool:
    return any((home / name).exists() for name in ("ledger.jsonl", "HEAD", "memories"))


def migrate(home: Path, timeout_s: float) -> None:
    """Raises MemoryStoreError, and changes nothing, if the old ledger cannot be read."""
    try:
        with FileLock(home / ".lock", timeout=timeout_s):
            if not (home / "memory.db").exists():
                _build(home)
            (home / BEFORE_MIGRATION).mkdir(exist_ok=True)
            for name in _OLD:
                if name != ".lock" and (home / BEFORE_MIGRATION / name).exists() and (home / name).exists():
                    raise MemoryStoreError(
                        f"{home / name} is of an older selfedit, but was migrated before; move it away"
                    )
                with suppress(FileNotFoundError):
                    os.replace(home / name, home / BEFORE_MIGRATION / name)
    except Timeout:
        raise MemoryStoreError(f"another selfedit process is writing to {home}; wait or end it, then retry") from None


def _build(home: Path) -> None:
    new = home / "memory.db.new"
    for leftover in home.glob("memory.db.new*"):
        leftover.unlink()
    past = _history(home)
    connection = database.connect(new)
    with database.transaction(connection):
        seals = _copy_memories(connection, home, past) | _copy_shared(connection, home, past)
        _copy_versions(connection, past, seals)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    adapters = home / "adapters"
    for path in (new, *adapters.rglob("*"), adapters):  # also what a killed migration left there
        if path.exists():
            disk.sync(path)
    os.rename(new, home / "memory.db")
    disk.sync(home)


def _copy_memories(connection: sqlite3.Connection, home: Path, past: list[dict]) -> dict[str, tuple[str, str]]:
    """Returns by id: the hash of the old manifest and the seal of the new row."""
    forgotten = past[-1]["memories"] if past and past[-1]["action"] == "forget" else []
    sources = {id: line["sources"] for line in past if "sources" in line for id in line["memories"]}
    stored = {path.name for path in home.glob("memories/*") if re.fullmatch("[0-9a-f]{12}", path.name)}
    connection.executemany("INSERT INTO unfinished VALUES (?)", [(id,) for id in forgotten if id in stored])
    kept: dict[str, None] = {}
    for line in past:
        kept |= dict.fromkeys([*line["active"], *(line["memories"] if line["action"] == "quarantine" else ())])
        kept = {id: None for id in kept if line["action"] != "forget" or id not in line["memories"]}
    seals = {}
    for id in sorted({*stored, *kept} - {*forgotten}):
        folder = home / "memories" / id
        passage, fields, packed_edits, text = _read_memory(folder, id)
        seal = entries.seal(*fields) if text else ""
        entries.insert(connection, fields, packed_edits, seal)
        if text:
            seals[id] = (disk.file_hash(folder / "manifest.json"), seal)
            route.add(connection, id, fields[3], text)
        entries.set_sources(connection, id, {*sources.get(id, [passage.source] if passage else [])})
        _link_adapter(home, folder, fields[4])
    return seals


def _read_memory(folder: Path, id: str) -> tuple[Passage | None, tuple, bytes, str]:
    """The passage, the fields of the row, the packed edits and the text for retrieval; without text if it is
    damaged."""
    passage = None
    try:
        passage = Passage(**json.loads((folder / "source.json").read_bytes()))
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files = manifest.pop("files")
        for name in ("source.json", "scores.json", "edits.jsonl"):
            if disk.file_hash(folder / name) != files[name]:
                raise ValueError(f"{name} has changed")
        scores = json.loads((folder / "scores.json").read_bytes())
        lines = map(json.loads, (folder / "edits.jsonl").read_bytes().splitlines())
        edits = [SelfEdit(**line | {"examples": tuple(Example(**x) for x in line["examples"])}) for line in lines]
        if entries.memory_id(files[WEIGHTS], passage, manifest["model_hash"]) != id:
            raise ValueError("manifest.json has changed")
        packed_edits, record = entries.packed(passage, edits, scores)
        address = text_hash(files[WEIGHTS], files[CONFIG])
        head = (id, passage.id, manifest["model"], manifest["model_hash"], address, files[WEIGHTS])
        fields = (*head, manifest["created"], manifest["size_bytes"], record)
        return passage, fields, packed_edits, entries.learned_text(passage, edits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return passage, (id, passage.id if passage else "", "", "", "", "", versions.now(), 0, b""), b"", ""


def _copy_shared(connection: sqlite3.Connection, home: Path, past: list[dict]) -> dict[str, tuple[str, str]]:
    seals = {}
    needed = {*past[-1]["adapters"].values()} if past else set()
    stored = {path.name for path in home.glob("shared/*") if re.fullmatch("[0-9a-f]{12}", path.name)}
    for id in sorted(needed | stored):
        folder, seal, fields = home / "shared" / id, "", (id, "", "", versions.now(), b"")
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files, scores = manifest["files"], json.loads((folder / "scores.json").read_bytes())
            record = {"members": manifest["members"], "rehearsed": manifest.get("rehearsed", []), "scores": scores}
            address = text_hash(files[WEIGHTS], files[CONFIG])
            fields = (id, address, files[WEIGHTS], manifest["created"], entries.pack(record))
            seal = entries.seal(*fields)
            seals[id] = (disk.file_hash(folder / "manifest.json"), seal)
            _link_adapter(home, folder, address)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # damaged, and reported as such
        connection.execute("INSERT INTO shared VALUES (?, ?, ?, ?, ?, ?)", (*fields, seal))
    return seals


def _link_adapter(home: Path, folder: Path, address: str) -> None:
    """The same files under the adapter's address, without using space twice where the disk can do so."""
    if not address:
        return
    to = home / "adapters" / address
    to.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        if (folder / name).is_file() and not (folder / name).is_symlink() and not (to / name).exists():
            try:
                os.link(folder / name, to / name)
            except OSError:
                shutil.copyfile(folder / name, to / name)


def _copy_versions(connection: sqlite3.Connection, past: list[dict], seals: dict[str, tuple[str, str]]) -> None:
    state: versions.State = {}
    faulty = {*_faulty(past)}
    for line in past:
        extra = {key: value for key, value in line.items() if key not in _EMPTY and key != "sources"}
        for id in [line["shared"]] if "shared" in line else line["memories"]:
            old, new = seals.get(id, ("", ""))
            if extra.get("manifest") == old:
                extra["manifest"] = new
        after, last = {}, 0
        for id in line["active"]:
            position = state[id].position if id in state else 0
            last = position if position > last else last + 1
            after[id] = Place(last, line["adapters"].get(id))
        changes = [
            (id, *versions.columns(state.get(id), after.get(id)))
            for id in sorted({*state, *after})
            if state.get(id) != after.get(id)
        ]
        head = (line["version"], line["time"], line["action"], json.dumps(line["memories"]))
        row = (*head, line["previous"], line["undo_to"], json.dumps(extra))
        versions.insert(connection, row, changes, "0" * 64 if line["version"] in faulty else None)
        state = after
    connection.executemany("INSERT INTO active VALUES (?, ?, ?)", [(id, *place) for id, place in state.items()])


# The old ledger


def _history(home: Path) -> list[dict]:
    """The lines that led to the present state, oldest first."""
    lines = _lines(home)
    head = (home / "HEAD").read_bytes() if (home / "HEAD").exists() else None
    present = int(head) if head and re.fullmatch(rb"\s*\d{1,11}\s*", head) else None
    if present not in lines:
        fault = "is missing" if head is None else f"says {head[:20]!r}, which is no version in ledger.jsonl"
        raise MemoryStoreError(
            f"{home / 'HEAD'} {fault}; restore HEAD and ledger.jsonl from a backup, or write a version into HEAD: "
            f"0 (no memory active) to {max(lines)} (the last in the ledger)"
        )
    past = []
    while present:
        past.append(lines[present])
        present = lines[present]["previous"]
        if present not in lines:
            raise MemoryStoreError(f"{home / 'ledger.jsonl'} has lost version {present}; restore it from a backup")
    return past[::-1]


def _lines(home: Path) -> dict[int, dict]:
    """The lines by version, without those that a kill tore."""
    path = home / "ledger.jsonl"
    lines = {0: _EMPTY}
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            line = _upgraded(json.loads(text))
            if isinstance(line["format"], int) and line["format"] > _FORMAT:
                raise MemoryStoreError(
                    f"{path} was written by a newer selfedit (format {line['format']}, this one knows {_FORMAT}); "
                    f"update selfedit"
                )
            if all(_checks(line)):
                lines[line["version"]] = line
        except (ValueError, TypeError, KeyError, AttributeError, MemoryStoreError) as error:
            if "newer selfedit" in str(error):
                raise
    return lines


def _checks(line: dict) -> Iterator[bool]:
    """Whether every field of a line is of its kind."""
    yield line.keys() >= _EMPTY.keys()
    for name in ("memories", "active"):
        yield isinstance(line[name], list) and all(map(versions.checked_id, line[name]))
    yield all(map(versions.checked_id, [*line["adapters"], *line["adapters"].values()]))
    yield all(isinstance(number, int) for number in (line["version"], line["previous"], line["undo_to"] or 0))
    yield line["version"] > line["previous"]
    texts = (line["action"], line["check"], line.get("manifest", ""), line.get("shared", ""), *line.get("sources", ()))
    yield all(isinstance(text, str) for text in texts)


def _upgraded(line: dict) -> dict:
    """A line of format 0, which had one memory and no check, as format 1 would have it."""
    if "memory" not in line:
        return line
    memory, action = line.pop("memory"), {"forget": "disable", "erase": "forget"}.get(line["action"], line["action"])
    return line | {"format": 0, "action": action, "memories": [memory] if memory else [], "adapters": {}, "check": ""}


def _faulty(past: list[dict]) -> Iterator[int]:
    """The versions whose line, or one before it, was changed by hand."""
    before: dict = _EMPTY
    signed = False
    for line in past:
        signed = signed or bool(line["format"] or line["check"])  # format 0 had no checks, and none comes after it
        unsealed = {key: value for key, value in line.items() if key != "check"}
        if signed and line["check"] != text_hash(before["check"], json.dumps(unsealed, sort_keys=True)):
            yield line["version"]
        before = line
