"""The memory store: what was kept, on disk, so that no kill, full disk or second process can leave it half changed.

In: adapters with where they came from (passage, self-edits, scores). Out: `MemoryEntry`s and paths of verified adapter
folders.

    home/memory.db            everything but the weights: `memory.database`, with its history in `memory.versions`
    home/adapters/<address>/  the weights: `memory.adapters`

A write is one transaction (`memory.transactions`): first the adapter's folder is written beside the others, then the
database refers to it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from platformdirs import user_data_path

from selfedit import disk
from selfedit.errors import AdapterError, MemoryStoreError
from selfedit.libraries import PACKAGE, Library, Scope, Wanted, applies
from selfedit.memory import database, entries, index, route, selectors, verify, versions
from selfedit.memory.adapters import ADAPTER_FILES, BEFORE_MIGRATION, NO_ADAPTER, WriteAdapter, stamp
from selfedit.memory.entries import COLUMNS, learned_text, passage_fields
from selfedit.memory.route import Router
from selfedit.memory.transactions import DamagedError, IndexReader, Transactions
from selfedit.memory.versions import Place
from selfedit.types import MemoryEntry, Passage, SelfEdit

T = TypeVar("T")
P = ParamSpec("P")
PAGE = 50
"""Memories per page of a list."""
_ACTIVE = f"SELECT {COLUMNS} FROM active JOIN memories ON memories.id = memory_id ORDER BY position"
_ALL = f"SELECT {COLUMNS} FROM memories ORDER BY created, id"


def default_home() -> Path:
    return disk.user_path(os.environ.get("SELFEDIT_HOME") or user_data_path("selfedit"))


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
        self._database = Transactions(self.home, lock_timeout_s)
        self._checked: set[tuple[str, str]] = set()
        self._tagged_at: tuple[tuple[str, int] | None, dict[Library, list[str]]] = (None, {})

    def close(self) -> None:
        """Closes this thread's connection; the next use opens another."""
        if database := getattr(self, "_database", None):  # it is missing where the home's path was no path
            database.close()

    __del__ = close

    # reading

    def active(self, model_hash: str | None = None) -> list[MemoryEntry]:
        """The active memories, in the order they were kept; only those of one model if its hash is given."""
        return [entry for entry in self._entries(_ACTIVE) if model_hash in (None, entry.model_hash)]

    def active_ids(self) -> list[str]:
        """As `active`, of any model, without reading the memories."""
        with self._database.reading() as connection:
            return [*versions.present(connection)]

    def in_force(self) -> dict[str, str | None]:
        """The active memories, each with the shared adapter that answers for it; None: its own does, or its text."""
        with self._database.reading() as connection:
            return {id: place.shared for id, place in versions.present(connection).items()}

    @property
    def version(self) -> int:
        """Its number; another after every change."""
        with self._database.reading() as connection:
            return versions.number(connection)

    def all(self) -> list[MemoryEntry]:
        """Every stored memory, active or not, oldest first."""
        return self._entries(_ALL)

    def page(self, number: int, everything: bool = False) -> tuple[list[MemoryEntry], int]:
        """One page (from 1) of `active` or of `all`, and how many memories there are on all pages."""
        with self._database.reading() as connection:
            query, limits = (_ALL if everything else _ACTIVE), (PAGE, (number - 1) * PAGE)
            (count,) = connection.execute(f"SELECT count(*) FROM {'memories' if everything else 'active'}").fetchone()
            return [entries.entry(row) for row in connection.execute(f"{query} LIMIT ? OFFSET ?", limits)], count

    def about(self, wanted: Wanted, everything: bool = False) -> list[MemoryEntry]:
        """The memories of `active` or of `all` that are tagged with a version of a library."""
        listed = self.all() if everything else self.active()
        return [entry for entry in listed if entry.passage.library and applies(entry.passage.library, wanted)]

    def get(self, id: str) -> MemoryEntry:
        with self._database.reading() as connection:
            return entries.load(connection, selectors.one(connection, id, self.home))

    def active_of(self, passages: Sequence[Passage], model_hash: str) -> list[MemoryEntry]:
        """The active memories of these passages, in their order."""
        with self._database.reading() as connection:
            found = entries.active_of(connection, [(passage.id, model_hash) for passage in passages])
            known = {entry.passage.id: entry for entry in (entries.load(connection, id) for id in found)}
        return [known[passage.id] for passage in passages if passage.id in known]

    def remaining(self, ids: Sequence[str]) -> list[MemoryEntry]:
        """Of memories that existed a moment ago, by their whole ids: those that nobody has forgotten since."""
        with self._database.reading() as connection:
            rows = (connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,)).fetchone() for id in ids)
            return [entries.entry(row) for row in rows if row]

    def sources(self) -> dict[str, set[str]]:
        """Memory → every source that has its passage: files, addresses, `session:NAME`."""
        found: dict[str, set[str]] = {}
        with self._database.reading() as connection:
            for id, source in connection.execute("SELECT memory_id, source FROM sources"):
                found.setdefault(id, set()).add(source)
        return found

    def edits(self, id: str) -> list[SelfEdit]:
        """What was studied to make the memory, or the shared adapter that answers for it."""
        with self._database.reading() as connection:
            id = selectors.one(connection, id, self.home)
            own, place = entries.load_with_edits(connection, id)[1], versions.place_of(connection, id)
            shared = entries.shared_record(connection, place.shared)[1] if place and place.shared else {}
            return shared.get(id, own)

    def shared_scores(self, shared: str) -> dict:
        """How a shared adapter scored when it was kept."""
        with self._database.reading() as connection:
            return entries.shared_record(connection, shared)[0]

    def answering_path(self, id: str) -> Path:
        """The verified folder of the PEFT adapter that answers for an active memory: a shared one or its own."""
        shared = self.shared_adapter(id)
        if not shared:
            return self.adapter_path(id)
        with self._database.reading() as connection:
            try:
                return self._verified(connection, *entries.shared_adapter(connection, shared))
            except (OSError, ValueError) as error:
                raise error if isinstance(error, MemoryStoreError) else entries.corrupt_shared(shared, error) from error

    def reciting_path(self, id: str) -> Path:
        """The verified folder of the adapter that recites a memory's passage: a shared one that learned to, or its
        own."""
        shared = self.shared_adapter(id)
        recites = shared and self.shared_scores(shared).get("recites")
        return self.answering_path(id) if recites else self.adapter_path(id)

    def shared_adapter(self, id: str) -> str | None:
        """The id of the shared adapter that answers for a memory; None if its own does."""
        with self._database.reading() as connection:
            place = versions.place_of(connection, selectors.one(connection, id, self.home))
            return place and place.shared

    def adapter_path(self, id: str) -> Path:
        """The verified folder of a memory's own PEFT adapter."""
        with self._database.reading() as connection:
            return self._adapter_path(connection, selectors.one(connection, id, self.home))

    def history(self) -> list[dict]:
        """One record per version, oldest first, each with the memories active from then on."""
        with self._database.reading() as connection:
            return versions.history(connection)

    def find(self, selector: str) -> list[str]:
        """The ids of what a person means: the start of an id, a source (its whole path, or its name), the day it was
        kept, or its tag.

        Active or not, oldest first. Raises MemoryStoreError if nothing fits, or if the selector is ambiguous.
        """
        with self._database.reading() as connection:
            return selectors.several(connection, selector, self.home)[0]

    def libraries(self, model_hash: str = "") -> list[Library]:
        """The tags of the active memories of a model, or of all models."""
        return list(self._tagged(model_hash))

    def router(self, model_hash: str, scope: Scope | None = None, without_passage: str | None = None) -> Router:
        """Routes questions to the active memories of a model.

        `scope`: which versions of libraries the questions are about; memories of other versions are left out. So is the
        memory of the passage with the id `without_passage`.
        """
        router = Router(IndexReader(self._database), model_hash)
        hidden: list[str] = []
        if scope and (tagged := self._tagged(model_hash)):
            hidden += chain.from_iterable(tagged[tag] for tag in scope.hidden(tagged))
        if without_passage is not None:
            with self._database.reading() as connection:
                hidden += entries.active_of(connection, [(without_passage, model_hash)])
        return router.without(hidden) if hidden else router

    def _tagged(self, model_hash: str = "") -> dict[Library, list[str]]:
        """The ids of the active memories of each tag; read again when the store has changed."""
        with self._database.reading() as connection:
            key = (model_hash, versions.number(connection))
            if self._tagged_at[0] != key:
                read = entries.libraries(connection, model_hash)
                self._tagged_at = key, {Library.parse(text): ids for text, ids in read.items()}
        return self._tagged_at[1]

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
        for folder in (self.home, self._database.adapters.folder):
            disk.check_writable(folder, "--home or SELFEDIT_HOME")
        with self._database.errors("write to"):
            self._database.connection(write=True)
            if not self._database.is_writable():
                raise PermissionError(0, f"{self._database.path} is read-only")

    @_with_sound_index
    def add(
        self,
        write_adapter: WriteAdapter | None,
        *,
        model: str,
        model_hash: str,
        passage: Passage,
        edits: Sequence[SelfEdit],
        scores: dict,
        quarantine: bool = False,
    ) -> MemoryEntry:
        """Keeps a memory, in the place of the active one of the same passage and model if there is one.

        `write_adapter`: None for a memory without an adapter, which answers from its text; it takes no other's place.
        `quarantine`: stored, but not active until a person approves it. `scores` must be JSON. If an intact memory of
        this passage with the same weights is stored already, it is made active again as it is.
        """
        with self._database.writing(create=True) as connection:
            same = entries.active_of(connection, [(passage.id, model_hash)])
            if same and not write_adapter:
                entries.set_sources(connection, same[0], entries.sources(connection, same[0]) | {passage.source})
                return entries.load(connection, same[0])
            adapter = self._database.adapters.keep(write_adapter) if write_adapter else NO_ADAPTER
            id = entries.memory_id(adapter.weights_hash, passage, model_hash)
            sources = {passage.source}.union(*(entries.sources(connection, other) for other in same))
            seal = entries.intact_seal(connection, id)
            is_new = not seal
            if is_new:
                seal = entries.write(connection, adapter, model, model_hash, passage, edits, scores)
                route.remove(connection, id)
                route.add(connection, id, model_hash, learned_text(passage, edits))
            if write_adapter:
                entries.set_verified(connection, {adapter.address: adapter.stamp})
            entries.set_sources(connection, id, sources)
            if quarantine and id not in same:
                undo_to = versions.last_undo_to(connection)
                versions.append(connection, "quarantine", [id], {}, undo_to=undo_to, manifest=seal)
            elif is_new or same != [id]:
                positions = [place.position for other in same if (place := versions.place_of(connection, other))]
                place = Place(min(positions, default=versions.end(connection)))
                after = {} if same == [id] else dict.fromkeys(same) | {id: place}
                versions.append(connection, "keep", [id], after, manifest=seal)
            return entries.load(connection, id)

    def tag(self, id: str, passage: Passage) -> MemoryEntry:
        """Keeps what a memory has learned for its passage with another tag, too."""
        entry, edits = self.get(id), self.edits(id)
        source = self.adapter_path(id) if entry.has_adapter else None

        def copy(folder: Path) -> None:
            assert source
            for name in ADAPTER_FILES:
                shutil.copyfile(source / name, folder / name)

        return self.add(
            copy if source else None,
            model=entry.model,
            model_hash=entry.model_hash,
            passage=replace(passage, index=entry.passage.index),  # by which it recites
            edits=edits,
            scores=entry.scores,
        )

    def add_sources(self, sources: Mapping[str, set[str]]) -> None:
        """Memory → other sources that have its passage too: a copy, or the file where it lies now."""

        def unknown(connection: sqlite3.Connection) -> dict[str, set[str]]:
            """All sources of the memories that get a new one."""
            known = {id: entries.sources(connection, id) for id in sources if entries.exists(connection, id)}
            return {id: known[id] | sources[id] for id in known if not sources[id] <= known[id]}

        with self._database.reading() as connection:
            has_new = bool(unknown(connection))
        if has_new:
            with self._database.writing() as connection:
                for id, all_sources in unknown(connection).items():
                    entries.set_sources(connection, id, all_sources)

    def share(
        self,
        write_adapter: WriteAdapter,
        members: Sequence[MemoryEntry],
        scores: dict,
        rehearsed: Sequence[MemoryEntry] = (),
        *,
        edits: Mapping[str, Sequence[SelfEdit]] | None = None,
        since: int | None = None,
        job: Collection[str] = (),
    ) -> str:
        """Keeps an adapter that answers for all these memories from now on; their own stay. Returns its id.

        `rehearsed`: what else it was trained on, which is in its weights too. `edits`: what was studied, by member, if
        not what the members studied before. `since`: the version at which a job began that made these memories and the
        adapter; undoing this leads back there, as far as nothing but the memories `job` has changed since. Raises
        MemoryStoreError if a member is no longer active.
        """
        ids, others = [entry.id for entry in members], [entry.id for entry in rehearsed if entry not in members]
        with self._database.writing() as connection:
            present = versions.present(connection)
            if gone := [id for id in (*ids, *others) if id not in present]:
                raise MemoryStoreError(f"memory {gone[0]} is no longer active; give the same command again")
            adapter = self._database.adapters.keep(write_adapter)
            entries.set_verified(connection, {adapter.address: adapter.stamp})
            shared, seal = entries.write_shared(connection, adapter, ids, others, scores, edits or {})
            after = {id: Place(present[id].position, shared) for id in ids}
            begun = versions.begun(connection, since, job) if since is not None else versions.number(connection)
            versions.append(connection, "consolidate", ids, after, undo_to=begun, shared=shared, manifest=seal)
            return shared

    @_with_sound_index
    def disable(self, selector: str) -> dict:
        """Makes memories inactive; `approve` or `rollback` brings them back. Returns the new version's record."""
        with self._database.writing() as connection:
            present = versions.present(connection)
            ids = [id for id in selectors.several(connection, selector, self.home)[0] if id in present]
            if not ids:
                raise MemoryStoreError(
                    f"{selector}: not in force already; `selfedit memory forget {selector}` deletes it"
                )
            versions.append(connection, "disable", ids, dict.fromkeys(ids))
            return versions.record(connection)

    @_with_sound_index
    def supersede(self, passages: Sequence[Passage], model_hash: str, existing: Collection[str] = ()) -> list[str]:
        """`passages` are all that their source has now: makes the memories of what it had before inactive; their ids.

        Memories that are tagged with another version of a library stay: the source describes several versions in turn.
        What another source has too stays active, unless that is a file that no longer exists: then it was only moved.
        `existing`: sources known to exist. Undoing this also undoes the keeping of what came instead: `rollback` brings
        the older version of the source back.
        """
        source, now = passages[0].source, {passage.id for passage in passages}
        with self._database.writing() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM sources JOIN active USING (memory_id) JOIN memories ON memories.id = memory_id "
                "WHERE source = ? AND model_hash = ? ORDER BY position",
                (source, model_hash),
            )
            of_source = [entries.entry(row) for row in rows.fetchall()]
            old = []
            for entry in of_source:
                if entry.passage.id in now or entry.passage.library not in ("", passages[0].library):
                    continue
                others = entries.sources(connection, entry.id) - {source}
                if others := {other for other in others if other in existing or _may_exist(other)}:
                    entries.set_sources(connection, entry.id, others)
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
        with self._database.writing() as connection:
            selected, by_id = selectors.several(connection, selector, self.home)
            present = versions.present(connection)
            memories = {id: entries.load(connection, id) for id in selected}
            learned = {(e.passage.id, e.model_hash) for e in memories.values() if e.has_adapter}
            memories = {
                id: e for id, e in memories.items() if e.has_adapter or (e.passage.id, e.model_hash) not in learned
            }
            ids = [id for id in memories if id not in present]
            if not ids:
                raise MemoryStoreError(f"{selector}: in force already")
            for id in ids:
                if memories[id].has_adapter:
                    self._adapter_path(connection, id)
                entries.load_edits(connection, id)
            of_passage = {(e.passage.id, e.model_hash) for e in memories.values()}
            documents = {(e.passage.source, e.model_hash) for e in memories.values()}
            document_versions = {(e.passage.source, e.model_hash, e.passage.source_hash) for e in memories.values()}
            if not by_id and (len(of_passage) < len(memories) or len(document_versions) > len(documents)):
                raise MemoryStoreError(
                    f"{selector}: there are several versions; give ids from `selfedit memory list --all`"
                )
            same = entries.active_of(connection, [(memories[id].passage.id, memories[id].model_hash) for id in ids])
            end = versions.end(connection)
            places = {id: Place(end + i) for i, id in enumerate(ids)}
            versions.append(connection, "approve", ids, dict.fromkeys(same) | places)
            return versions.record(connection)

    def to_forget(self, selector: str) -> list[str]:
        """The memories that `forget` would delete."""
        with self._database.reading() as connection:
            return self._to_forget(connection, selector)

    def _to_forget(self, connection: sqlite3.Connection, selector: str) -> list[str]:
        ids = selectors.several(connection, selector, self.home)[0]
        return [*ids, *(text for text in entries.texts_of(connection, ids) if text not in ids)]

    @_with_sound_index
    def forget(self, selector: str) -> dict:
        """Deletes memories from the disk for good: weights, what was studied, questions, records of the runs that made
        them, shared adapters that were trained on them, and memories without an adapter of the same passages.

        Returns the new version's record. All that remains is that something with this id was there.
        """
        with self._database.writing() as connection:
            ids, present = self._to_forget(connection, selector), versions.present(connection)
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
        if not self._database.finish_forgetting():
            line["note"] = "another process still reads what was forgotten; the next change deletes it from the disk"
        return line

    @_with_sound_index
    def rollback(self, to: str | None = None) -> dict:
        """Makes a former state the present one and returns the new version's record, whose `restored` says which.

        `None` undoes the last change, called again the one before it, and so on. Or: a version (`3`, `v3`), or a
        memory: the state right after it was last made active. What was forgotten since stays away, which `note` then
        says.
        """
        with self._database.writing() as connection:
            past = {0: versions.START} | {line["version"]: line for line in versions.lines(connection)}
            undo_to = past[max(past)]["undo_to"]
            if to is None and undo_to is None:
                raise MemoryStoreError(f"there is no change left to undo in {self.home}")
            version = undo_to if to is None else selectors.version(connection, to, past, self.home)
            if version not in past:
                raise MemoryStoreError(f"{self._database.path} has lost version {version}; restore it from a backup")
            target, present = versions.former(connection, version), versions.present(connection)
            gone = [id for id in versions.ordered(target) if not entries.exists(connection, id)]
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
        """Writes the PEFT adapter in fp16, with what it was made from and its scores, into a new or empty folder."""
        from selfedit.model.peft_folder import export_adapter

        entry, source, to = self.get(id), self.adapter_path(id), Path(to)
        with disk.plain_errors(f"export to {to}", MemoryStoreError):
            if to.exists() and any(to.iterdir()):
                raise MemoryStoreError(f"{to} is not empty; name a new folder to export to")
            export_adapter(source, to)
            disk.write(to / "source.json", disk.json_line(passage_fields(entry.passage)))
            disk.write(to / "scores.json", disk.json_line(entry.scores))

    def verify(self) -> dict:
        """Recomputes every hash. `faults`: what is not as it was kept, in words; `memories`, `versions`: how many were
        checked. Without faults, the files that a migration kept aside are removed."""
        path, adapters = self._database.path, self._database.adapters
        while True:
            version, index_faults = self.version, self._mend_index()
            intact: set[str] = set()
            try:
                with self._database.reading() as connection:
                    result, stored = verify.check_database(connection, path)
                faults, intact = verify.check_adapters(adapters, stored)
                result["faults"] += faults
            except DamagedError as error:
                result = {"memories": 0, "versions": 0, "faults": [str(error)]}
            if not result["versions"] and (stray := adapters.addresses()):
                result["faults"].append(
                    f"{path} is missing or empty, but {adapters.folder} has {len(stray)} adapters; restore it "
                    "from a backup"
                )
            if result["faults"] and self.version != version:
                continue  # another process wrote while we read
            result["faults"] += index_faults
            if not result["faults"] and path.exists() and self._database.is_writable():
                with self._database.writing() as connection:
                    adapters.delete(BEFORE_MIGRATION)
                    present = intact & entries.addresses(connection)
                    entries.set_verified(connection, {address: stamp(adapters.path(address)) for address in present})
            return result

    def rebuild_index(self) -> None:
        """Replaces the retrieval index by a new one of all stored memories that can be read."""
        self._database.rebuild_index()

    # inside

    def _mend_index(self) -> list[str]:
        """Compares the index with a new one, and rebuilds it if it differs; what was wrong, in words."""
        path = self._database.path
        try:
            with self._database.reading() as connection:
                if index.is_sound(connection):
                    return []
        except DamagedError:
            pass
        try:
            self.rebuild_index()
        except MemoryStoreError:  # read-only, or more than the index is damaged, which is found next
            return [f"{path}: the retrieval index is damaged"]
        return [f"{path}: the retrieval index was damaged and has been rebuilt"]

    def _adapter_path(self, connection: sqlite3.Connection, id: str) -> Path:
        if not entries.load(connection, id).has_adapter:
            raise MemoryStoreError(f"memory {id} has no adapter: it answers from its text")
        try:
            return self._verified(connection, *entries.adapter_of(connection, id))
        except (OSError, ValueError) as error:
            raise entries.corrupt(id, error) from error

    def _verified(self, connection: sqlite3.Connection, address: str, weights_hash: str) -> Path:
        """The folder of an adapter; its bytes are hashed unless nobody has written to the files since that was done."""
        folder = self._database.adapters.path(address)
        stamped = (address, stamp(folder))
        if stamped not in self._checked:
            row = connection.execute("SELECT adapter, stamp FROM verified WHERE adapter = ?", (address,)).fetchone()
            if row != stamped:
                self._database.adapters.check(address, weights_hash)
            self._checked.add(stamped)
        return folder

    def _entries(self, query: str) -> list[MemoryEntry]:
        with self._database.reading() as connection:
            return [entries.entry(row) for row in connection.execute(query)]


def _may_exist(source: str) -> bool:
    """Addresses and packages cannot be checked. What a user states (`session:`) stands in no file, so it keeps no
    memory that a later statement supersedes."""
    return "://" in source or source.startswith(PACKAGE) or os.path.exists(source)
