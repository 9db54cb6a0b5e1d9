"""The memory store: what was kept, on disk, so that no kill, full disk or second process can leave it half changed.

In: adapters with where they came from (passage, self-edits, scores). Out: `MemoryEntry`s and paths of verified adapter
folders.

    home/memory.db            everything but the weights: `memory.database`, with its history in `memory.versions`
    home/adapters/<address>/  the weights: `memory.adapters`

A write is one transaction: first the adapter's folder is written beside the others, then the database refers to it. A
writer that is killed before the commit leaves a folder that nothing refers to, which the next one removes. Forgetting
deletes from the disk after the commit and notes in `unfinished` what is still to do; if killed, the next write does it.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from platformdirs import user_data_path

from selfedit import disk
from selfedit.errors import AdapterError, MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory import database, entries, migrate, route, versions
from selfedit.memory.adapters import ADAPTER_FILES, BEFORE_MIGRATION, AdapterFolders, WriteAdapter, stamp
from selfedit.memory.entries import COLUMNS, learned_text, passage_fields
from selfedit.memory.route import Router
from selfedit.memory.versions import Place
from selfedit.types import MemoryEntry, Passage, SelfEdit, text_hash

T = TypeVar("T")
P = ParamSpec("P")
PAGE = 50
"""Memories per page of a list."""
_ACTIVE = f"SELECT {COLUMNS} FROM active JOIN memories ON memories.id = memory_id ORDER BY position"
_ALL = f"SELECT {COLUMNS} FROM memories ORDER BY created, id"
_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process: closing them here would disturb it."""


def default_home() -> Path:
    return disk.user_path(os.environ.get("SELFEDIT_HOME") or user_data_path("selfedit"))


class DamagedError(MemoryStoreError):
    """SQLite cannot read the database."""


def _with_sound_index(write: Callable[Concatenate[MemoryStore, P], T]) -> Callable[Concatenate[MemoryStore, P], T]:
    """Runs it again with a new retrieval index if the database is damaged: mostly, it is only the index."""

    @wraps(write)
    def run(store: MemoryStore, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return write(store, *arguments, **options)
        except DamagedError:
            store.rebuild_index()
            return write(store, *arguments, **options)

    return run


class MemoryStore:
    """The memories under one home folder. A missing home is an empty store, and reading does not create it.

    A memory is named by its id or by the start of it: at least 4 characters, as long as only one memory fits.
    """

    def __init__(self, home: Path | str, lock_timeout_s: float = database.BUSY_TIMEOUT_S):
        self.home = Path(home)
        self.lock_timeout_s = lock_timeout_s
        self._path = self.home / "memory.db"
        self._adapters = AdapterFolders(self.home)
        self._local = threading.local()
        self._checked: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Closes this thread's connection; the next use opens another."""
        process, _, connection = getattr(self._local, "known", None) or (None, None, None)
        if connection and process != os.getpid():
            _inherited.append(connection)
        elif connection:
            connection.close()
        self._local.known = None

    __del__ = close

    # reading

    def active(self, model_hash: str | None = None) -> list[MemoryEntry]:
        """The active memories, in the order they were kept; only those of one model if its hash is given."""
        return [entry for entry in self._entries(_ACTIVE) if model_hash in (None, entry.model_hash)]

    def active_ids(self) -> list[str]:
        """As `active`, of any model, without reading the memories."""
        with self._reading() as connection:
            return [*versions.present(connection)]

    @property
    def version(self) -> int:
        """Its number; another after every change."""
        with self._reading() as connection:
            return versions.number(connection)

    def all(self) -> list[MemoryEntry]:
        """Every stored memory, active or not, oldest first."""
        return self._entries(_ALL)

    def page(self, number: int, everything: bool = False) -> tuple[list[MemoryEntry], int]:
        """One page (from 1) of `active` or of `all`, and how many memories there are on all pages."""
        with self._reading() as connection:
            query, limits = (_ALL if everything else _ACTIVE), (PAGE, (number - 1) * PAGE)
            (count,) = connection.execute(f"SELECT count(*) FROM {'memories' if everything else 'active'}").fetchone()
            return [entries.entry(row) for row in connection.execute(f"{query} LIMIT ? OFFSET ?", limits)], count

    def get(self, id: str) -> MemoryEntry:
        with self._reading() as connection:
            return self._entry(connection, self._find(connection, id))

    def remaining(self, ids: Sequence[str]) -> list[MemoryEntry]:
        """Of memories that existed a moment ago, by their whole ids: those that nobody has forgotten since."""
        with self._reading() as connection:
            rows = (connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,)).fetchone() for id in ids)
            return [entries.entry(row) for row in rows if row]

    def edits(self, id: str) -> list[SelfEdit]:
        """What was studied to make the memory."""
        with self._reading() as connection:
            id = self._find(connection, id)
            self._entry(connection, id)
            return entries.load_edits(connection, id)

    def answering_path(self, id: str) -> Path:
        """The verified folder of the PEFT adapter that answers for an active memory: a shared one or its own."""
        shared = self.shared_adapter(id)
        if not shared:
            return self.adapter_path(id)
        with self._reading() as connection:
            try:
                return self._verified(connection, *entries.shared_adapter(connection, shared))
            except (OSError, ValueError) as error:
                raise error if isinstance(error, MemoryStoreError) else entries.corrupt_shared(shared, error) from error

    def shared_adapter(self, id: str) -> str | None:
        """The id of the shared adapter that answers for a memory; None if its own does."""
        with self._reading() as connection:
            return self._present(connection, self._find(connection, id))[1]

    def adapter_path(self, id: str) -> Path:
        """The verified folder of a memory's own PEFT adapter."""
        with self._reading() as connection:
            id = self._find(connection, id)
            return self._adapter_path(connection, id)

    def history(self) -> list[dict]:
        """One record per version, oldest first, each with the memories active from then on."""
        with self._reading() as connection:
            return versions.history(connection)

    def find(self, selector: str) -> list[str]:
        """The ids of what a person means: the start of an id, a source (its whole path, or its name), or the day it was
        kept.

        Active or not, oldest first. Raises MemoryStoreError if nothing fits, or if the selector is ambiguous.
        """
        with self._reading() as connection:
            return self._select(connection, selector)[0]

    def router(self, model_hash: str) -> Router:
        """Routes questions to the active memories of a model."""
        return Router(_IndexReader(self), model_hash)

    def read_consistently(self, read: Callable[[int], T]) -> T:
        """What `read` returns for the present version; again, if another process changed the store meanwhile."""
        while True:
            version = self.version
            try:
                return read(version)
            except (MemoryStoreError, AdapterError):
                if self.version == version:
                    raise

    # changing what is active

    def check_writable(self) -> None:
        """Raises SelfeditError unless memories can be kept here: to be called before long work."""
        for folder in (self.home, self._adapters.folder):
            disk.check_writable(folder, "--home or SELFEDIT_HOME")
        with self._errors("write to"):
            self._connection(write=True)
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise PermissionError(0, f"{self._path} is read-only")

    @_with_sound_index
    def add(
        self,
        write_adapter: WriteAdapter,
        *,
        model: str,
        model_hash: str,
        passage: Passage,
        edits: Sequence[SelfEdit],
        scores: dict,
        quarantine: bool = False,
    ) -> MemoryEntry:
        """Keeps a memory, in the place of the active one of the same passage and model if there is one.

        `quarantine`: stored, but not active until a person approves it. `scores` must be JSON. If an intact memory of
        this passage with the same weights is stored already, it is made active again as it is.
        """
        with self._writing(create=True) as connection:
            adapter = self._adapters.keep(write_adapter)
            id = entries.memory_id(adapter.weights_hash, passage, model_hash)
            same = self._active_of(connection, [(passage.id, model_hash)])
            sources = {passage.source}.union(*(self._sources(connection, other) for other in same))
            seal = self._intact(connection, id)
            is_new = not seal
            if is_new:
                seal = entries.write(connection, adapter, model, model_hash, passage, edits, scores)
                route.remove(connection, id)
                route.add(connection, id, model_hash, learned_text(passage, edits))
            connection.execute("INSERT OR REPLACE INTO verified VALUES (?, ?)", (adapter.address, adapter.stamp))
            self._set_sources(connection, id, sources)
            if quarantine and id not in same:
                undo_to = self._undo_to(connection)
                versions.append(connection, "quarantine", [id], {}, undo_to=undo_to, manifest=seal)
            elif is_new or same != [id]:
                positions = [at for other in same if (at := self._present(connection, other)[0]) is not None]
                place = Place(min(positions) if positions else self._end(connection))
                after = dict.fromkeys(same) | {id: place}
                if same == [id]:
                    after = {}
                versions.append(connection, "keep", [id], after, manifest=seal)
            return self._entry(connection, id)

    def add_sources(self, found: Mapping[str, set[str]]) -> None:
        """Memory → other sources that have its passage too: a copy, or the file where it lies now."""
        with self._reading() as connection:
            new = [
                id for id in found if self._exists(connection, id) and not found[id] <= self._sources(connection, id)
            ]
        if new:
            with self._writing() as connection:
                for id in new:
                    if self._exists(connection, id):
                        self._set_sources(connection, id, self._sources(connection, id) | found[id])

    def share(
        self,
        write_adapter: WriteAdapter,
        members: Sequence[MemoryEntry],
        scores: dict,
        rehearsed: Sequence[MemoryEntry] = (),
    ) -> str:
        """Keeps an adapter that answers for all these memories from now on; their own stay. Returns its id.

        `rehearsed`: what else it was trained on, which is in its weights too. Raises MemoryStoreError if a member is no
        longer active.
        """
        ids, others = [entry.id for entry in members], [entry.id for entry in rehearsed if entry not in members]
        with self._writing() as connection:
            present = versions.present(connection)
            if gone := [id for id in (*ids, *others) if id not in present]:
                raise MemoryStoreError(f"memory {gone[0]} is no longer active; consolidate again")
            adapter = self._adapters.keep(write_adapter)
            connection.execute("INSERT OR REPLACE INTO verified VALUES (?, ?)", (adapter.address, adapter.stamp))
            shared, seal = entries.write_shared(connection, adapter, ids, others, scores)
            after = {id: Place(present[id].position, shared) for id in ids}
            versions.append(connection, "consolidate", ids, after, shared=shared, manifest=seal)
            return shared

    @_with_sound_index
    def disable(self, selector: str) -> dict:
        """Makes memories inactive; `approve` or `rollback` brings them back. Returns the new version's record."""
        with self._writing() as connection:
            present = versions.present(connection)
            ids = [id for id in self._select(connection, selector)[0] if id in present]
            if not ids:
                raise MemoryStoreError(
                    f"{selector}: not in force already; `selfedit memory forget {selector}` deletes it"
                )
            versions.append(connection, "disable", ids, dict.fromkeys(ids))
            return versions.record(connection)

    @_with_sound_index
    def supersede(self, passages: Sequence[Passage], model_hash: str, there: Collection[str] = ()) -> list[str]:
        """`passages` are all that their source has now: makes the memories of what it had before inactive; their ids.

        What another source has too stays active, unless that is a file that no longer exists: then it was only moved.
        `there`: sources known to exist. Undoing this also undoes the keeping of what came instead: `rollback` brings
        the older version of the source back.
        """
        source, now = passages[0].source, {passage.id for passage in passages}
        with self._writing() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM sources JOIN active USING (memory_id) JOIN memories ON memories.id = memory_id "
                "WHERE source = ? AND model_hash = ? ORDER BY position",
                (source, model_hash),
            )
            of_source = [entries.entry(row) for row in rows.fetchall()]
            old = []
            for entry in of_source:
                if entry.passage.id not in now:
                    others = self._sources(connection, entry.id) - {source}
                    others = {other for other in others if other in there or _exists(other)}
                    if others:
                        self._set_sources(connection, entry.id, others)
                    else:
                        old.append(entry.id)
            if old:
                new = {
                    entry.id
                    for entry in of_source
                    if entry.passage.id in now and entry.passage.source_hash == passages[0].source_hash
                }
                past = versions.lines(connection)
                while len(past) > 1 and (
                    past[-1]["action"] in ("source", "quarantine")
                    or (past[-1]["action"] == "keep" and set(past[-1]["memories"]) <= new)
                ):
                    past.pop()
                versions.append(connection, "supersede", old, dict.fromkeys(old), undo_to=past[-1]["version"])
        return old

    @_with_sound_index
    def approve(self, selector: str) -> dict:
        """Activates stored memories: disabled, quarantined, or superseded; one named by its id takes the place of the
        active one of the same passage. A source or a day must not stand for several versions of a document."""
        with self._writing() as connection:
            found, by_id = self._select(connection, selector)
            present = versions.present(connection)
            ids = [id for id in found if id not in present]
            if not ids:
                raise MemoryStoreError(f"{selector}: in force already")
            memories = {id: self._entry(connection, id) for id in found}
            for id in ids:
                self._adapter_path(connection, id)
                entries.load_edits(connection, id)
            of_passage = {(e.passage.id, e.model_hash) for e in memories.values()}
            documents = {(e.passage.source, e.model_hash) for e in memories.values()}
            document_versions = {(e.passage.source, e.model_hash, e.passage.source_hash) for e in memories.values()}
            if not by_id and (len(of_passage) < len(found) or len(document_versions) > len(documents)):
                raise MemoryStoreError(
                    f"{selector}: there are several versions; give ids from `selfedit memory list --all`"
                )
            same = self._active_of(connection, [(memories[id].passage.id, memories[id].model_hash) for id in ids])
            end = self._end(connection)
            places = {id: Place(end + i) for i, id in enumerate(ids)}
            versions.append(connection, "approve", ids, dict.fromkeys(same) | places)
            return versions.record(connection)

    @_with_sound_index
    def forget(self, selector: str) -> dict:
        """Deletes memories from the disk for good: weights, what was studied, questions, records of the runs that made
        them, and shared adapters that were trained on them.

        Returns the new version's record. All that remains is that something with this id was there.
        """
        with self._writing() as connection:
            ids, present = self._select(connection, selector)[0], versions.present(connection)
            trained = entries.trained_on(connection, ids)
            after: dict[str, Place | None] = {}
            after |= {id: Place(place.position) for id, place in present.items() if place.shared in trained}
            after |= {id: None for id in ids if id in present}
            versions.append(connection, "forget", ids, after)
            line = versions.record(connection)
            for id in ids:
                row = connection.execute("SELECT passage_id FROM memories WHERE id = ?", (id,)).fetchone()
                connection.execute("INSERT OR REPLACE INTO unfinished VALUES (?)", (" ".join((id, *(row or ()))),))
                route.remove(connection, id)
                connection.execute("DELETE FROM memories WHERE id = ?", (id,))
            connection.executemany("DELETE FROM shared WHERE id = ?", [(id,) for id in trained])
        with self._errors("write to"):
            if not self._finish_forgetting(self._connection(write=True)):
                line["note"] = (
                    "another process still reads what was forgotten; the next change deletes it from the disk"
                )
        return line

    @_with_sound_index
    def rollback(self, to: str | None = None) -> dict:
        """Makes a former state the present one and returns the new version's record, whose `restored` says which.

        `None` undoes the last change, called again the one before it, and so on. Or: a version (`3`, `v3`), or a
        memory: the state right after it was last made active. What was forgotten since stays away, which `note` then
        says.
        """
        with self._writing() as connection:
            past = {0: versions.START} | {line["version"]: line for line in versions.lines(connection)}
            undo_to = past[max(past)]["undo_to"]
            if to is None and undo_to is None:
                raise MemoryStoreError(f"there is no change left to undo in {self.home}")
            version = undo_to if to is None else self._version(connection, to, past)
            if version not in past:
                raise MemoryStoreError(f"{self._path} has lost version {version}; restore it from a backup")
            target, present = versions.former(connection, version), versions.present(connection)
            gone = [id for id in versions.ordered(target) if not self._exists(connection, id)]
            kept = {shared for (shared,) in connection.execute("SELECT id FROM shared")}
            broken = {place.shared for id, place in target.items() if id in gone or place.shared not in kept}
            target = {
                id: Place(place.position, None if place.shared in broken else place.shared)
                for id, place in target.items()
                if id not in gone
            }
            after = dict.fromkeys(present.keys() - target.keys())
            after |= {id: place for id, place in target.items() if present.get(id) != place}
            note = {"note": f"left out, as forgotten for good: {', '.join(gone)}"} if gone else {}
            undo_to = past[version]["undo_to"] if to is None else max(past)
            versions.append(connection, "rollback", [], after, undo_to=undo_to, restored=version, **note)
            return versions.record(connection)

    def export(self, id: str, to: Path | str) -> None:
        """Copies the PEFT adapter, with what it was made from and its scores, into a new or empty folder."""
        entry, source, to = self.get(id), self.adapter_path(id), Path(to)
        with disk.plain_errors(f"export to {to}", MemoryStoreError):
            if to.exists() and any(to.iterdir()):
                raise MemoryStoreError(f"{to} is not empty; name a new folder to export to")
            to.mkdir(parents=True, exist_ok=True)
            for name in ADAPTER_FILES:
                shutil.copyfile(source / name, to / name)
            disk.write(to / "source.json", disk.json_line(passage_fields(entry.passage)))
            disk.write(to / "scores.json", disk.json_line(entry.scores))

    def verify(self) -> dict:
        """Recomputes every hash. `faults`: what is not as it was kept, in words; `memories`, `versions`: how many were
        checked. Without faults, the files that a migration kept aside are removed."""
        while True:
            version, index_faults = self.version, self._mend_index()
            try:
                found, intact = self._verify()
            except DamagedError as error:
                found, intact = {"memories": 0, "versions": 0, "faults": [str(error)]}, set()
            if found["faults"] and self.version != version:
                continue  # another process forgot something while we read
            found["faults"] += index_faults
            if not found["faults"] and self._path.exists() and self._is_writable():
                with self._writing() as connection:
                    self._adapters.delete(BEFORE_MIGRATION)
                    known = self._addresses(connection)
                    rows = [(address, stamp(self._adapters.path(address))) for address in intact if address in known]
                    connection.executemany("INSERT OR REPLACE INTO verified VALUES (?, ?)", rows)
            return found

    def _verify(self) -> tuple[dict, set[str]]:
        """What `verify` returns, and the addresses of the adapters that are intact."""
        with self._reading() as connection:
            faults = [
                f"{self._path}: {row[0]}" for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"
            ]
            if connection.execute("PRAGMA foreign_key_check").fetchall():
                faults.append(f"{self._path}: a row refers to one that is missing; restore it from a backup")
            faults += [f"{self._path}: {fault}" for fault in versions.faults(connection)]
            past = versions.lines(connection)
            seals = {
                id: line["manifest"]
                for line in past
                if "manifest" in line
                for id in ([line["shared"]] if "shared" in line else line["memories"])
            }
            memories = dict(connection.execute("SELECT id, seal FROM memories ORDER BY id").fetchall())
            shared = dict(
                connection.execute("SELECT id, shared.seal FROM shared JOIN active ON shared = id").fetchall()
            )
            found = [
                ("memory", id, partial(self._checked_memory, connection, versions.checked_id(id))) for id in memories
            ]
            found += [("shared adapter", id, partial(entries.shared_adapter, connection, id)) for id in shared]
            written: list[tuple[str, str, tuple[str, str]]] = []
            for what, id, check in found:
                try:
                    written.append((what, id, check()))
                except MemoryStoreError as error:
                    faults.append(str(error))
                stored = (memories if what == "memory" else shared)[id]
                if seals.get(id, stored) != stored:
                    faults.append(f"{what} {id}: its record is not the one it was kept with")
            faults += [_lost(id) for id in versions.kept(past) if id not in memories]
            for id, source, seal in connection.execute("SELECT * FROM sources"):
                if seal != text_hash(str(id), str(source)):
                    faults.append(f"memory {versions.checked_id(id)}: where its passage was found has been changed")
        addresses = set()
        for what, id, (address, weights_hash) in written:  # takes long, and keeps no other process waiting
            try:
                self._adapters.check(address, weights_hash)
                addresses.add(address)
            except (OSError, ValueError) as error:
                if what == "memory" and isinstance(error, FileNotFoundError):
                    faults.append(_lost(id))
                else:
                    faults.append(str((entries.corrupt if what == "memory" else entries.corrupt_shared)(id, error)))
        return {"memories": len(memories), "versions": len(past), "faults": faults}, addresses

    def rebuild_index(self) -> None:
        """Replaces the retrieval index by a new one of all stored memories that can be read."""
        with self._errors("write to"):
            connection = self._connection(write=True)
            connection.execute("BEGIN IMMEDIATE")
            try:
                database.drop_index(connection)
                database.create_index(connection)
                self._fill_index(connection, connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("VACUUM")

    # inside

    def _mend_index(self) -> list[str]:
        """Compares the index with a new one, and rebuilds it if it differs; what was wrong, in words."""
        try:
            with self._reading() as connection:
                sound = connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
                if sound and database.index_hash(connection) == database.index_hash(self._new_index()):
                    return []
        except DamagedError:
            pass
        try:
            self.rebuild_index()
        except MemoryStoreError:  # read-only, or more than the index is damaged, which is found next
            return [f"{self._path}: the retrieval index is damaged"]
        return [f"{self._path}: the retrieval index was damaged and has been rebuilt"]

    def _fill_index(self, connection: sqlite3.Connection, index: sqlite3.Connection) -> None:
        for row in connection.execute(_ALL).fetchall():
            with suppress(MemoryStoreError):  # a corrupt one is reported where it is read
                entry = entries.entry(row)
                text = learned_text(entry.passage, entries.load_edits(connection, entry.id))
                route.add(index, entry.id, entry.model_hash, text)

    def _new_index(self) -> sqlite3.Connection:
        """What the index should be, in memory."""
        index = database.empty()
        with self._reading() as connection:
            rows = [(id, place.position) for id, place in versions.present(connection).items()]
            index.executemany("INSERT INTO active(memory_id, position) VALUES (?, ?)", rows)
            self._fill_index(connection, index)
        return index

    def _checked_memory(self, connection: sqlite3.Connection, id: str) -> tuple[str, str]:
        """Checks the record and the edits of a memory; the address of its adapter and the hash of the weights."""
        self._entry(connection, id)
        entries.load_edits(connection, id)
        return _adapter_of(connection, id)

    def _adapter_path(self, connection: sqlite3.Connection, id: str) -> Path:
        self._entry(connection, id)
        try:
            return self._verified(connection, *_adapter_of(connection, id))
        except (OSError, ValueError) as error:
            raise entries.corrupt(id, error) from error

    def _verified(self, connection: sqlite3.Connection, address: str, weights_hash: str) -> Path:
        """The folder of an adapter; its bytes are hashed unless nobody has written to the files since that was done."""
        folder = self._adapters.path(address)
        found = (address, stamp(folder))
        if found not in self._checked:
            known = connection.execute("SELECT adapter, stamp FROM verified WHERE adapter = ?", (address,)).fetchone()
            if known != found:
                self._adapters.check(address, weights_hash)
            self._checked.add(found)
        return folder

    def _entries(self, query: str) -> list[MemoryEntry]:
        with self._reading() as connection:
            return [entries.entry(row) for row in connection.execute(query)]

    def _entry(self, connection: sqlite3.Connection, id: str) -> MemoryEntry:
        row = connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,)).fetchone()
        if not row:
            raise entries.corrupt(id, "its record is lost")
        return entries.entry(row)

    def _intact(self, connection: sqlite3.Connection, id: str) -> str | None:
        """The seal of a memory's row if all of it is as it was stored."""
        try:
            self._entry(connection, id)
            entries.load_edits(connection, id)
        except MemoryStoreError:
            return None
        return connection.execute("SELECT seal FROM memories WHERE id = ?", (id,)).fetchone()[0]

    def _exists(self, connection: sqlite3.Connection, id: str) -> bool:
        return connection.execute("SELECT 1 FROM memories WHERE id = ?", (id,)).fetchone() is not None

    def _present(self, connection: sqlite3.Connection, id: str) -> tuple[int | None, str | None]:
        """Position and shared adapter of a memory; of one that is not active, nothing."""
        row = connection.execute("SELECT position, shared FROM active WHERE memory_id = ?", (id,)).fetchone()
        return row or (None, None)

    def _active_of(self, connection: sqlite3.Connection, passages: Iterable[tuple[str, str]]) -> list[str]:
        """The active memories of these (passage id, model hash) pairs."""
        query = (
            "SELECT id FROM memories JOIN active ON memory_id = id "
            "WHERE passage_id = ? AND model_hash = ? ORDER BY position"
        )
        return [id for passage in passages for (id,) in connection.execute(query, passage)]

    def _end(self, connection: sqlite3.Connection) -> int:
        return connection.execute("SELECT coalesce(max(position), 0) + 1 FROM active").fetchone()[0]

    def _undo_to(self, connection: sqlite3.Connection) -> int | None:
        row = connection.execute("SELECT undo_to FROM versions ORDER BY version DESC LIMIT 1").fetchone()
        return row[0] if row else None

    def _sources(self, connection: sqlite3.Connection, id: str) -> set[str]:
        """Where the passage of a memory is, as far as is known."""
        return {source for (source,) in connection.execute("SELECT source FROM sources WHERE memory_id = ?", (id,))}

    def _set_sources(self, connection: sqlite3.Connection, id: str, sources: Collection[str]) -> None:
        connection.execute("DELETE FROM sources WHERE memory_id = ?", (id,))
        rows = [(id, source, text_hash(id, source)) for source in sources]
        connection.executemany("INSERT INTO sources VALUES (?, ?, ?)", rows)

    def _addresses(self, connection: sqlite3.Connection) -> set[str]:
        rows = connection.execute("SELECT adapter FROM memories UNION SELECT adapter FROM shared")
        return {address for (address,) in rows}

    def _version(self, connection: sqlite3.Connection, to: str, past: dict[int, dict]) -> int:
        if re.fullmatch(r"v?\d{1,11}", to):  # an id has 12 characters
            version = int(to.removeprefix("v"))
            if version not in past:
                raise MemoryStoreError(f"there is no version {version}; those to go back to are 0 to {max(past)}")
            return version
        id = self._find(connection, to)
        activated = [
            version
            for version, line in past.items()
            if line["action"] in ("keep", "approve") and id in line["memories"]
        ]
        if not activated:
            raise MemoryStoreError(f"memory {id} was never active in {self.home}, so there is no such state")
        return max(activated)

    def _with_prefix(self, connection: sqlite3.Connection, prefix: str) -> list[str]:
        """The ids that begin so; of memories whose record is lost only if there is no other."""
        if not re.fullmatch("[0-9a-f]{4,12}", prefix):
            return []
        rows = connection.execute(
            "SELECT id FROM memories WHERE id BETWEEN ? AND ? || 'g' ORDER BY id", (prefix, prefix)
        )
        found = [versions.checked_id(id) for (id,) in rows]
        return found or sorted(id for id in versions.kept(versions.lines(connection)) if id.startswith(prefix))

    def _find(self, connection: sqlite3.Connection, prefix: str) -> str:
        found = self._with_prefix(connection, prefix)
        if not found:
            raise MemoryStoreError(
                f"no memory in {self.home} starts with {prefix!r} (at least 4 characters); see `selfedit memory list`"
            )
        if len(found) > 1:
            raise MemoryStoreError(f"{prefix!r} fits {len(found)} memories ({', '.join(found)}); give more characters")
        return found[0]

    def _select(self, connection: sqlite3.Connection, selector: str) -> tuple[list[str], bool]:
        """As `find`; and whether the selector is an id."""
        by_id = self._with_prefix(connection, selector)
        if by_id == [selector]:
            return by_id, True
        rows = connection.execute("SELECT DISTINCT source FROM sources").fetchall()
        path = os.path.abspath(selector)
        sources = sorted(s for (s,) in rows if selector in (s, Path(s).name) or path == s)
        of_day = connection.execute("SELECT id FROM memories WHERE substr(created, 1, 10) = ?", (selector,)).fetchall()
        if by_id and (sources or of_day):
            raise MemoryStoreError(
                f"{selector!r} is the start of an id ({', '.join(by_id)}) and a source or a day "
                f"({', '.join(sources) or selector}); give the whole id or the whole path"
            )
        if by_id:
            return [self._find(connection, selector)], True
        if len(sources) > 1:
            raise MemoryStoreError(
                f"{selector!r} fits {len(sources)} sources ({', '.join(sources)}); give the whole path"
            )
        if not of_day and not sources:
            raise MemoryStoreError(
                f"no memory in {self.home} has an id, a source or a day {selector!r}; see `selfedit memory list --all`"
            )
        if of_day:
            return [versions.checked_id(id) for (id,) in of_day], False
        query = "SELECT id FROM memories JOIN sources ON memory_id = id WHERE source = ? ORDER BY created, id"
        return [versions.checked_id(id) for (id,) in connection.execute(query, sources)], False

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the database, whatever others write meanwhile."""
        with self._errors("read"):
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if connection is not (getattr(self._local, "known", None) or (None,))[-1]:
                    connection.close()

    @contextmanager
    def _writing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction: no other process writes meanwhile; all of it happens, or nothing."""
        with self._errors("write to"):
            connection = self._connection(True, create)
            self._finish_forgetting(connection)
            connection.execute("BEGIN IMMEDIATE")
            try:
                if self._adapters.was_killed():
                    self._adapters.clear(self._addresses(connection))
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                with suppress(sqlite3.Error, OSError):
                    connection.execute("BEGIN IMMEDIATE")
                    self._adapters.clear(self._addresses(connection))
                    connection.execute("ROLLBACK")
                raise
            self._adapters.finish()

    def _finish_forgetting(self, connection: sqlite3.Connection) -> bool:
        """Deletes from the disk what `forget` has deleted from the database; again, if an earlier writer was killed.

        False if another process still reads the former state, so that copies of its pages have to stay for now.
        """
        rows = connection.execute("SELECT what FROM unfinished").fetchall()
        if not rows:
            return True
        forgotten = {part for (what,) in rows for part in what.split()}
        for file in self.home.glob("runs/*/trials.jsonl"):
            if file.resolve().is_relative_to(self.home.resolve()):
                Journal(file).drop(
                    lambda r: (
                        not forgotten.isdisjoint(map(str, (r.get("passage"), r.get("memory"), r.get("quarantined"))))
                    )
                )
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._adapters.clear(self._addresses(connection))
        finally:
            connection.execute("ROLLBACK")
        self._adapters.delete(BEFORE_MIGRATION)
        connection.execute("VACUUM")
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            connection.executemany("DELETE FROM unfinished WHERE what = ?", rows)
        return not busy

    def _connection(self, write: bool = False, create: bool = False) -> sqlite3.Connection:
        """This thread's connection. For a home that does not exist, an empty database in memory, unless `create`."""
        try:
            file = os.stat(self._path)
        except FileNotFoundError:
            file = None
        process, inode, connection = getattr(self._local, "known", None) or (None, None, None)
        if connection and file and (process, inode) == (os.getpid(), file.st_ino):
            return connection
        self.close()
        if migrate.is_pending(self.home):
            if not self._is_writable():
                raise MemoryStoreError(
                    f"{self.home} was written by an earlier selfedit and has to be upgraded once, "
                    f"but it is read-only; make it writable"
                )
            migrate.migrate(self.home, self.lock_timeout_s)
        elif file is None and not create:
            return database.empty()
        elif not self._is_writable() and not write:
            return database.connect(self._path, readonly=True, timeout_s=self.lock_timeout_s)
        self.home.mkdir(parents=True, exist_ok=True)
        connection = database.connect(self._path, timeout_s=self.lock_timeout_s)
        self._local.known = (os.getpid(), os.stat(self._path).st_ino, connection)
        if not database.index_is_current(connection):
            self.rebuild_index()
        return connection

    def _is_writable(self) -> bool:
        return all(os.access(path, os.W_OK) for path in (self.home, self._path) if path.exists())

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """What the disk or SQLite objects to, as one clear line."""
        where = f"cannot {verb} {self.home} (--home or SELFEDIT_HOME)"
        with disk.plain_errors(where.removeprefix("cannot "), MemoryStoreError):
            try:
                yield
            except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
                raise  # our own fault
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise MemoryStoreError(
                        f"another selfedit process is writing to {self.home}; wait or end it, then try again"
                    ) from error
                kind = DamagedError if "index_" in str(error) else MemoryStoreError
                raise kind(f"{where}: {error}; correct that or choose another folder") from error
            except sqlite3.Error as error:
                raise DamagedError(f"{self._path} is damaged: {error}; restore it from a backup") from error


class _IndexReader:
    """Through this a router reads the database: a damaged index is replaced, in memory if the home cannot be
    written."""

    def __init__(self, store: MemoryStore):
        self._store = store
        self._in_memory: sqlite3.Connection | None = None

    def execute(self, statement: str, values: Sequence = ()) -> list[tuple]:
        if self._in_memory:
            return self._in_memory.execute(statement, values).fetchall()
        try:
            return self._read(statement, values)
        except DamagedError:
            if self._store._is_writable():
                self._store.rebuild_index()
                return self._read(statement, values)
            self._in_memory = self._store._new_index()
            return self.execute(statement, values)

    def _read(self, statement: str, values: Sequence) -> list[tuple]:
        with self._store._reading() as connection:
            return connection.execute(statement, values).fetchall()


def _adapter_of(connection: sqlite3.Connection, id: str) -> tuple[str, str]:
    """The address of a memory's own adapter and the hash of its weights."""
    return connection.execute("SELECT adapter, adapter_hash FROM memories WHERE id = ?", (id,)).fetchone()


def _lost(id: str) -> str:
    return f"memory {id} is not on disk, and nobody forgot it; `selfedit memory forget {id}` ends that"


def _exists(source: str) -> bool:
    """Whether a source may still exist: what is no file cannot be checked."""
    return "://" in source or os.path.exists(source)
