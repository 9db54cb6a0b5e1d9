"""The memory store: what was kept, on disk, so that no kill, full disk or second process can leave it half changed.

In: adapter folders with where they came from (passage, self-edits, scores). Out: `MemoryEntry`s and paths of verified
adapter folders.

    home/
      memories/<id>/, shared/<id>/   what lies there: `memory.folders`
      ledger.jsonl, HEAD             which memories are in force, version by version: `memory.ledger`
      .lock                          held by whoever writes; readers need none

The idea: write everything new beside the old (a staging folder, renamed into place), then let the ledger move on. A
write has happened entirely or not at all. Killed before that, it leaves a staging folder (removed by the next write) or
a memory that is not active: harmless. Forgetting deletes after the ledger has moved; if killed, the next write ends it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from selfedit import disk
from selfedit.errors import AdapterError, MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory.folders import ADAPTER_FILES, Folders, WriteAdapter
from selfedit.memory.ledger import EMPTY, Ledger
from selfedit.memory.route import Router
from selfedit.types import MemoryEntry, Passage, SelfEdit

T = TypeVar("T")


def default_home() -> Path:
    return disk.user_path(os.environ.get("SELFEDIT_HOME") or user_data_path("selfedit"))


def learned_text(passage: Passage, edits: Sequence[SelfEdit]) -> str:
    """What a memory knows, as the router reads it: nothing twice, since more text would only look less like a question."""
    flat = " ".join(passage.text.split())
    studied = dict.fromkeys(e.text for edit in edits for e in edit.examples if " ".join(e.text.split()) not in flat)
    return "\n".join([passage.title, passage.text, *studied])


class MemoryStore:
    """The memories under one home folder. Opening and reading never write; a missing home is an empty store.

    Wherever an id is asked for, the start of one will do if it is unique.
    """

    def __init__(self, home: Path | str, lock_timeout_s: float = 10.0):
        self.home = Path(home)
        self.lock_timeout_s = lock_timeout_s
        self._folders = Folders(self.home)
        self._ledger = Ledger(self.home)

    # reading

    def active(self, model_hash: str | None = None) -> list[MemoryEntry]:
        """The memories in force, in the order they were kept; only those of one model if its hash is given."""
        entries = self._entries(lambda state: state["active"])
        return [entry for entry in entries if model_hash in (None, entry.model_hash)]

    def active_ids(self) -> list[str]:
        """As `active`, of any model, without reading a memory."""
        return self._ledger.state()["active"]

    @property
    def version(self) -> int:
        """Of the ledger: another after every change."""
        return self._ledger.state()["version"]

    def all(self) -> list[MemoryEntry]:
        """Every memory on disk, active or not, oldest first."""
        return sorted(self._entries(self._stored), key=lambda entry: entry.created)

    def get(self, id: str) -> MemoryEntry:
        return self._folders.load(self._find(id))

    def remaining(self, ids: Sequence[str]) -> list[MemoryEntry]:
        """Of memories that were there a moment ago, by their whole ids, those that no other process has forgotten since."""
        return self._entries(
            lambda state: [id for id in ids if id not in _forgotten(state) and (self._folders.memories / id).exists()]
        )

    def edits(self, id: str) -> list[SelfEdit]:
        """What was studied to make the memory."""
        return self._folders.edits(self._find(id))

    def answering_path(self, id: str) -> Path:
        """The folder of the PEFT adapter that answers for a memory in force: one that it shares with others, or its own."""
        id = self._find(id)
        shared = self._ledger.state()["adapters"].get(id)
        return self._folders.shared_path(shared) if shared else self.adapter_path(id)

    def adapter_path(self, id: str) -> Path:
        """The folder of a memory's own PEFT adapter, its bytes checked against the manifest at every call."""
        id = self._find(id)
        self._folders.load(id, *ADAPTER_FILES)
        return self._folders.memories / id

    def history(self) -> list[dict]:
        """The ledger lines that led to the present state, oldest first."""
        return self._ledger.history()

    def find(self, selector: str) -> list[str]:
        """The ids of what a person means: the start of an id, a source (its whole path, or its name), or the day it was kept.

        Active or not, oldest first. Raises MemoryStoreError if nothing fits, or a name fits several sources.
        """
        if self._is_id(selector):
            return [self._find(selector)]
        entries, of = self.all(), self._sources()
        of_day = [e.id for e in entries if e.created[:10] == selector]
        fits = {
            e.id: {s for s in of(e) if selector in (s, Path(s).name) or os.path.abspath(selector) == s} for e in entries
        }
        named = [e for e in entries if fits[e.id]]
        sources = sorted(set().union(*fits.values()))
        if len(sources) > 1:
            raise MemoryStoreError(
                f"{selector!r} fits {len(sources)} sources ({', '.join(sources)}); give the whole path"
            )
        if not of_day and not named:
            raise MemoryStoreError(
                f"no memory in {self.home} has an id, a source or a day {selector!r}; see `selfedit memory list --all`"
            )
        return of_day or [e.id for e in named]

    def router(self, model_hash: str) -> Router:
        """Over the memories in force for a model."""
        return self.read_consistently(
            lambda state: Router.of_texts({entry.id: self._known(entry.id) for entry in self.active(model_hash)})
        )

    def read_consistently(self, read: Callable[[dict], T]) -> T:
        """What `read` makes of the present state; again, where another process forgot a memory meanwhile."""
        while True:
            state = self._ledger.state()
            try:
                return read(state)
            except (MemoryStoreError, AdapterError):
                if self.version == state["version"]:
                    raise

    # changing what is in force

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

        `quarantine`: on disk only, until a person approves it. `scores` must be JSON. If an intact memory of this passage
        with the same weights is there already, it is made active again as it is.
        """
        with self._writing() as state:
            same = [
                e
                for e in map(self._folders.load, state["active"])
                if (e.passage.id, e.model_hash) == (passage.id, model_hash)
            ]
            replaced, of = [e.id for e in same], self._sources()
            sources = {passage.source}.union(*(of(e) for e in same))
            id = self._folders.keep(write_adapter, model, model_hash, passage, edits, scores)
            also = {"sources": sorted(sources)} if sources != of(entry := self._folders.load(id)) else {}
            manifest = disk.file_hash(self._folders.memories / id / "manifest.json")
            active = list(dict.fromkeys(id if other in replaced else other for other in state["active"]))
            active = active if replaced else [*active, id]
            if quarantine and id not in state["active"]:
                self._ledger.append(
                    "quarantine", [id], state["active"], manifest=manifest, undo_to=state["undo_to"], **also
                )
            elif active != state["active"] or manifest != self._manifests().get(id):
                self._ledger.append("keep", [id], active, manifest=manifest, **also)
            elif also:
                self._note_sources(state, entry, sources)
            return entry

    def add_sources(self, found: Mapping[str, set[str]]) -> None:
        """Memory → other sources that have its passage, too: word for word the same, a copy or the file where it lies now."""
        of = self._sources()
        if new := [entry for entry in self.remaining([*found]) if not found[entry.id] <= of(entry)]:
            with self._writing() as state:
                for entry in new:
                    state = self._note_sources(state, entry, of(entry) | found[entry.id])

    def share(
        self,
        write_adapter: WriteAdapter,
        members: Sequence[MemoryEntry],
        scores: dict,
        rehearsed: Sequence[MemoryEntry] = (),
    ) -> str:
        """Keeps an adapter that answers for all these memories from now on; their own stay. Returns its id.

        `rehearsed`: what else it was trained on, which is in its weights too. Raises MemoryStoreError if a member is in
        force no more.
        """
        ids = [entry.id for entry in members]
        with self._writing() as state:
            if gone := [entry.id for entry in (*members, *rehearsed) if entry.id not in state["active"]]:
                raise MemoryStoreError(f"memory {gone[0]} was taken out of force meanwhile; consolidate again")
            shared = self._folders.share(
                write_adapter, ids, [entry.id for entry in rehearsed if entry not in members], scores
            )
            manifest = disk.file_hash(self._folders.shared / shared / "manifest.json")
            former = {state["adapters"].get(id) for id in ids}
            adapters = {id: other for id, other in state["adapters"].items() if other not in former} | dict.fromkeys(
                ids, shared
            )
            self._ledger.append("consolidate", ids, state["active"], adapters, shared=shared, manifest=manifest)
            return shared

    def disable(self, selector: str) -> dict:
        """Takes memories out of force; they stay on disk, and `approve` or `rollback` brings them back. Returns the new ledger line."""
        found = self.find(selector)
        with self._writing() as state:
            ids = [id for id in found if id in state["active"]]
            if not ids:
                raise MemoryStoreError(
                    f"{selector}: not in force already; `selfedit memory forget {selector}` deletes it"
                )
            return self._ledger.append("disable", ids, [id for id in state["active"] if id not in ids])

    def supersede(self, passages: Sequence[Passage], model_hash: str, there: Collection[str] = ()) -> list[str]:
        """`passages` are all that their source has now: takes the memories of what it had before out of force; their ids.

        What another source has, too, stays, unless that is a file that is no more: then it was only moved. `there`: sources
        that are known to be. Undoing this undoes the keeping of what came instead, too: `rollback` brings the older version
        of the source back.
        """
        now, source = {p.id for p in passages}, passages[0].source
        of = self._sources()
        own = [e for e in self.active(model_hash) if source in of(e)]
        gone = {
            e.id: (e, {other for other in of(e) - {source} if other in there or _is_there(other)})
            for e in own
            if e.passage.id not in now
        }
        old = [id for id, (_, others) in gone.items() if not others]
        if len(old) < len(gone):
            with self._writing() as state:
                for entry, others in gone.values():
                    if others:
                        state = self._note_sources(state, entry, others)
        if old:
            new = {e.id for e in own if e.passage.id in now and e.passage.source_hash == passages[0].source_hash}
            with self._writing() as state:
                past = self.history()
                while len(past) > 1 and (
                    past[-1]["action"] in ("source", "quarantine")
                    or past[-1]["action"] == "keep"
                    and set(past[-1]["memories"]) <= new
                ):
                    past.pop()
                old = [id for id in old if id in state["active"]]
                if old:
                    self._ledger.append(
                        "supersede", old, [id for id in state["active"] if id not in old], undo_to=past[-1]["version"]
                    )
        return old

    def approve(self, selector: str) -> dict:
        """Puts memories in force that are on disk only: disabled, quarantined, or superseded; one by its id in the place of
        that of the same passage. A source or a day must not stand for several versions of a document."""
        found = self.find(selector)
        with self._writing() as state:
            ids = [id for id in found if id not in state["active"]]
            if not ids:
                raise MemoryStoreError(f"{selector}: in force already")
            entries = [self._folders.load(id) for id in found]
            approved = [self._folders.load_all(id) for id in ids]
            same = {(e.passage.id, e.model_hash) for e in approved}
            documents = {(e.passage.source, e.model_hash) for e in entries}
            passages = {(e.passage.id, e.model_hash) for e in entries}
            several = len(passages) < len(found) or len(
                {(e.passage.source, e.model_hash, e.passage.source_hash) for e in entries}
            ) > len(documents)
            if several and not self._is_id(selector):
                raise MemoryStoreError(
                    f"{selector}: there are several versions; give ids from `selfedit memory list --all`"
                )
            others = [
                id for id in state["active"] if ((e := self._folders.load(id)).passage.id, e.model_hash) not in same
            ]
            return self._ledger.append("approve", ids, [*others, *ids])

    def forget(self, selector: str) -> dict:
        """Deletes memories from the disk for good: weights, what was studied, questions, records of the runs that made
        them, and shared adapters that were trained on them.

        Returns the new ledger line. What remains in the ledger is that something with this id was there, and the paths where
        its passage was found again.
        """
        ids = self.find(selector)
        with self._writing() as state:
            trained = self._folders.adapters_trained_on(ids)
            adapters = {id: shared for id, shared in state["adapters"].items() if shared not in trained}
            line = self._ledger.append("forget", ids, [id for id in state["active"] if id not in ids], adapters)
            self._clear(line)
            return line

    def rollback(self, to: str | None = None) -> dict:
        """Makes a former state the present one and returns the new ledger line, whose `restored` says which.

        `None` undoes the last change, called again the one before it, and so on. Or: a version (`3`, `v3`), or a
        memory: the state right after it was last put in force. What was forgotten since stays away, which `note` then says.
        """
        with self._writing() as state:
            past = {0: EMPTY} | {line["version"]: line for line in self.history()}
            if to is None and state["undo_to"] is None:
                raise MemoryStoreError(f"there is no change left to undo in {self.home}")
            target = past[state["undo_to"] if to is None else self._version(to, past)]
            gone = [id for id in target["active"] if not (self._folders.memories / id).exists()]
            active = [id for id in target["active"] if id not in gone]
            undo_to = target["undo_to"] if to is None else state["version"]
            note = {"note": f"left out, as forgotten for good: {', '.join(gone)}"} if gone else {}
            adapters = {
                id: shared for id, shared in target["adapters"].items() if (self._folders.shared / shared).exists()
            }
            return self._ledger.append(
                "rollback", [], active, adapters, undo_to=undo_to, restored=target["version"], **note
            )

    def export(self, id: str, to: Path | str) -> None:
        """Copies the PEFT adapter, with what it was made from and its scores, into a new or empty folder."""
        source, to = self.adapter_path(id), Path(to)
        with disk.plain_errors(f"export to {to}", MemoryStoreError):
            if to.exists() and any(to.iterdir()):
                raise MemoryStoreError(f"{to} is not empty; name a new folder to export to")
            to.mkdir(parents=True, exist_ok=True)
            for name in (*ADAPTER_FILES, "source.json", "scores.json"):
                shutil.copyfile(source / name, to / name)

    def verify(self) -> dict:
        """Recomputes every hash. `faults`: what is not as it was kept, in words; `memories`, `versions`: so many were looked at."""
        while True:
            version, found = self.version, self.read_consistently(self._verify)
            if not found["faults"] or self.version == version:
                return found
            # Another process changed something while we read: look again.

    def _verify(self, state: dict) -> dict:
        faults, history = self._ledger.faults(), self.history()
        stored, manifests = self._stored(state), self._manifests()

        def check(what: str, load: Callable[[str], object], folder: Path, id: str) -> None:
            try:
                load(id)
                if id in manifests and disk.file_hash(folder / id / "manifest.json") != manifests[id]:
                    faults.append(f"{what} {id}: manifest.json is not the one it was kept with")
            except MemoryStoreError as error:
                faults.append(str(error))

        for id in stored:
            check("memory", self._folders.load_all, self._folders.memories, id)
        faults += [
            f"memory {id} is not on disk, and nobody forgot it; `selfedit memory forget {id}` ends that"
            for id in self._kept()
            if id not in stored
        ]
        for id in sorted(set(state["adapters"].values())):
            check("shared adapter", self._folders.shared_path, self._folders.shared, id)
        return {"memories": len(stored), "versions": len(history), "faults": faults}

    # inside

    @contextmanager
    def _writing(self) -> Iterator[dict]:
        """The present state, held still: no other process writes meanwhile."""
        with disk.plain_errors(f"write to {self.home} (--home or SELFEDIT_HOME)", MemoryStoreError):
            self._folders.memories.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(self.home / ".lock", timeout=self.lock_timeout_s):
                    state = self._ledger.state()
                    self._ledger.start()
                    self._clear(state)
                    yield state
            except Timeout:
                raise MemoryStoreError(
                    f"another selfedit process is writing to {self.home}; wait or end it, then try again"
                ) from None

    def _clear(self, state: dict) -> None:
        """Deletes what a killed writer left behind, and what is to be forgotten if that was the last change."""
        self._folders.clear_staging()
        for torn in self.home.glob(".*.new"):
            torn.unlink()
        ids = _forgotten(state)
        gone = [id for id in ids if (self._folders.memories / id).exists()]
        passages = {passage for id in gone if (passage := self._folders.passage_id(id))}
        for file in self.home.glob("runs/*/trials.jsonl") if ids else ():
            Journal(file).drop(
                lambda r: r.get("passage") in passages or r.get("memory") in ids or r.get("quarantined") in ids
            )
        for shared in self._folders.adapters_trained_on(ids) if ids else ():
            shutil.rmtree(self._folders.shared / shared)
        for id in gone:
            shutil.rmtree(self._folders.memories / id)

    def _stored(self, state: dict) -> list[str]:
        forgotten = _forgotten(state)
        return [id for id in self._folders.stored() if id not in forgotten]

    def _known(self, id: str) -> str:
        return learned_text(self._folders.load(id).passage, self._folders.edits(id))

    def _sources(self) -> Callable[[MemoryEntry], set[str]]:
        """Of a memory: where its passage stands, as far as is known."""
        noted = {id: line["sources"] for line in self.history() if "sources" in line for id in line["memories"]}
        return lambda entry: set(noted.get(entry.id, (entry.passage.source,)))

    def _note_sources(self, state: dict, entry: MemoryEntry, sources: set[str]) -> dict:
        """Nothing that a person did: undoing goes on to what was before."""
        return self._ledger.append(
            "source", [entry.id], state["active"], undo_to=state["undo_to"], sources=sorted(sources)
        )

    def _manifests(self) -> dict[str, str]:
        """Of each memory and shared adapter that was kept: the hash of its manifest."""
        return {
            id: line["manifest"]
            for line in self.history()
            if "manifest" in line
            for id in ([line["shared"]] if "shared" in line else line["memories"])
        }

    def _version(self, to: str, past: dict[int, dict]) -> int:
        if re.fullmatch(r"v?\d{1,11}", to):  # an id has 12 characters
            version = int(to.removeprefix("v"))
            if version not in past:
                raise MemoryStoreError(f"there is no version {version}; those to go back to are 0 to {max(past)}")
            return version
        id = self._find(to)
        kept = [
            version
            for version, line in past.items()
            if line["action"] in ("keep", "approve") and id in line["memories"]
        ]
        if not kept:
            raise MemoryStoreError(f"memory {id} was never active in {self.home}, so there is no such state")
        return max(kept)

    def _is_id(self, selector: str) -> bool:
        return bool(selector) and any(id.startswith(selector) for id in self._ids())

    def _ids(self) -> set[str]:
        """On disk or in the ledger: a lost folder can still be forgotten."""
        return {*self._stored(self._ledger.state()), *self._kept()}

    def _kept(self) -> list[str]:
        """What the ledger says is there, in force or not."""
        kept: dict[str, None] = {}
        for line in self.history():
            kept |= dict.fromkeys([*line["active"], *(line["memories"] if line["action"] == "quarantine" else ())])
            if line["action"] == "forget":
                kept = {id: None for id in kept if id not in line["memories"]}
        return list(kept)

    def _find(self, prefix: str) -> str:
        if prefix in self._ledger.state()["active"]:
            return prefix
        found = [id for id in sorted(self._ids()) if prefix and id.startswith(prefix)]
        if not found:
            raise MemoryStoreError(f"no memory in {self.home} starts with {prefix!r}; see `selfedit memory list`")
        if len(found) > 1:
            raise MemoryStoreError(f"{prefix!r} fits {len(found)} memories ({', '.join(found)}); give more characters")
        return found[0]

    def _entries(self, ids: Callable[[dict], list[str]]) -> list[MemoryEntry]:
        return self.read_consistently(lambda state: [self._folders.load(id) for id in ids(state)])


def _forgotten(state: dict) -> list[str]:
    return state["memories"] if state["action"] == "forget" else []


def _is_there(source: str) -> bool:
    """Of what is no file nobody knows."""
    return "://" in source or os.path.exists(source)
