"""Recomputes every hash of a store: versions, rows, sources and adapters.

In: the database and the adapter folders. Out: faults, in words; empty if all is as it was kept.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from selfedit.errors import MemoryStoreError
from selfedit.memory import entries, versions
from selfedit.memory.adapters import AdapterFolders
from selfedit.types import text_hash

Stored = dict[tuple[str, str], tuple[str, str]]
"""(`memory` or `shared adapter`, id) → the address of its adapter and the hash of the weights."""


def check_database(connection: sqlite3.Connection, path: Path) -> tuple[dict, Stored]:
    """What `MemoryStore.verify` returns, before the adapters are checked; and the adapters to check."""
    faults = [f"{path}: {text}" for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    if connection.execute("PRAGMA foreign_key_check").fetchall():
        faults.append(f"{path}: a row refers to one that is missing; restore it from a backup")
    faults += [f"{path}: {fault}" for fault in versions.faults(connection)]
    past = versions.lines(connection)
    seals = {
        id: line["manifest"]
        for line in past
        if "manifest" in line
        for id in ([line["shared"]] if "shared" in line else line["memories"])
    }
    memories = dict(connection.execute("SELECT id, seal FROM memories ORDER BY id").fetchall())
    shared = dict(connection.execute("SELECT id, shared.seal FROM shared JOIN active ON shared = id").fetchall())
    adapters: Stored = {}
    for kind, kept_seals in (("memory", memories), ("shared adapter", shared)):
        for id, seal in kept_seals.items():
            try:
                if kind == "memory":
                    entry, _ = entries.load_with_edits(connection, versions.checked_id(id))
                    if entry.has_adapter:
                        adapters[kind, id] = entries.adapter_of(connection, id)
                else:
                    adapters[kind, id] = entries.shared_adapter(connection, id)
            except MemoryStoreError as error:
                faults.append(str(error))
            if seals.get(id, seal) != seal:
                faults.append(f"{kind} {id}: its record is not the one it was kept with")
    faults += [_lost(id) for id in versions.kept(past) if id not in memories]
    for id, source, seal in connection.execute("SELECT * FROM sources"):
        if seal != text_hash(str(id), str(source)):
            faults.append(f"memory {versions.checked_id(id)}: where its passage was found has been changed")
    return {"memories": len(memories), "versions": len(past), "faults": faults}, adapters


def check_adapters(folders: AdapterFolders, stored: Stored) -> tuple[list[str], set[str]]:
    """The faults of the weights, and the addresses of the adapters that are intact. Takes long, and no lock."""
    faults, intact = [], set()
    for (kind, id), (address, weights_hash) in stored.items():
        try:
            folders.check(address, weights_hash)
            intact.add(address)
        except (OSError, ValueError) as error:
            if kind == "memory" and isinstance(error, FileNotFoundError):
                faults.append(_lost(id))
            else:
                faults.append(str((entries.corrupt if kind == "memory" else entries.corrupt_shared)(id, error)))
    return faults, intact


def _lost(id: str) -> str:
    return f"memory {id} is not on disk, and nobody forgot it; `selfedit memory forget {id}` ends that"
