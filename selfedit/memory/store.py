"""The memory store: what was kept, on disk, so that no kill, full disk or second process can leave it half changed.

In: adapter folders with where they came from (passage, self-edits, scores). Out: `MemoryEntry`s and paths of verified
adapter folders. An adapter is opaque here: two files and a hash. Only safetensors and JSON, never pickle.

    home/
      memories/<id>/          adapter_model.safetensors, adapter_config.json, edits.jsonl, source.json, scores.json,
                              manifest.json: the SHA-256 of the other files; never changed once it is there
      shared/<id>/            an adapter that several memories share, and a manifest that says which and how it scored
      ledger.jsonl, HEAD      which memories are active, version by version (`memory.ledger`)
      index/<model>.npz       for the router, of what is in force; made anew from the memories where it is missing or old
      .lock                   held by whoever writes; readers need none

The idea: write everything new beside the old (a staging folder, renamed into place), then let the ledger move on. A
write has happened entirely or not at all. Killed before that, it leaves a staging folder (removed by the next write) or
a memory that is not active: harmless. Forgetting deletes after the ledger has moved; if killed, the next write ends it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_path

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory.ledger import EMPTY, Ledger, now
from selfedit.memory.route import Router
from selfedit.types import Example, MemoryEntry, Passage, SelfEdit, text_hash

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def default_home() -> Path:
    return Path(os.environ.get("SELFEDIT_HOME") or user_data_path("selfedit")).expanduser()


def memory_id(adapter_hash: str, passage: Passage, model_hash: str) -> str:
    return text_hash(adapter_hash, passage.id, model_hash)[:12]


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
        self._memories = self.home / "memories"
        self._ledger = Ledger(self.home)

    def active(self, model_hash: str | None = None) -> list[MemoryEntry]:
        """The memories in force, in the order they were kept; only those of one model if its hash is given."""
        entries = self._entries(lambda state: state["active"])
        return [entry for entry in entries if model_hash in (None, entry.model_hash)]

    def active_ids(self) -> list[str]:
        """As `active`, of any model, without reading a memory."""
        return self._ledger.state()["active"]

    def router(self, model_hash: str) -> Router:
        """Over the memories in force for a model: as the last writer left it, else built now."""
        router = self._indexes().get(model_hash[:16])
        if router is None or router.of != _named(self._ledger.state()):
            router = Router({entry.id: self._known(entry.id) for entry in self.active(model_hash)})
        return router

    def all(self) -> list[MemoryEntry]:
        """Every memory on disk, active or not, oldest first."""
        return sorted(self._entries(self._stored_ids), key=lambda entry: entry.created)

    def get(self, id: str) -> MemoryEntry:
        return self._load(self._find(id))

    def edits(self, id: str) -> list[SelfEdit]:
        """What was studied to make the memory."""
        id = self._find(id)
        self._load(id, "edits.jsonl")
        lines = map(json.loads, (self._memories / id / "edits.jsonl").read_bytes().splitlines())
        return [SelfEdit(**line | {"examples": tuple(Example(**x) for x in line["examples"])}) for line in lines]

    def answering_path(self, id: str) -> Path:
        """The folder of the PEFT adapter that answers for a memory in force: one that it shares with others, or its own."""
        shared = self._ledger.state()["adapters"].get(id)
        return self._shared_path(shared) if shared else self.adapter_path(id)

    def adapter_path(self, id: str) -> Path:
        """The folder of a memory's own PEFT adapter, its bytes checked against the manifest at every call."""
        id = self._find(id)
        self._load(id, *ADAPTER_FILES)
        return self._memories / id

    def history(self) -> list[dict]:
        """The ledger lines that led to the present state, oldest first."""
        return self._ledger.history()

    def add(
        self,
        write_adapter: Callable[[Path], None],
        *,
        model: str,
        model_hash: str,
        passage: Passage,
        edits: Sequence[SelfEdit],
        scores: dict,
        quarantine: bool = False,
    ) -> MemoryEntry:
        """Keeps a memory, in the place of the active one of the same passage and model if there is one.

        `quarantine`: on disk only, until a person approves it.
        `write_adapter` gets a folder and writes the two PEFT files into it. `scores` must be JSON. What is there
        already, byte for byte, is not written twice but made active again.
        """
        with self._writing() as state:
            entries = [self._load(id) for id in state["active"]]
            replaced = [e.id for e in entries if (e.passage.id, e.model_hash) == (passage.id, model_hash)]
            staging = self._memories / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                staging.mkdir()
                write_adapter(staging)
                disk.write(staging / "edits.jsonl", b"".join(disk.json_line(asdict(edit)) for edit in edits))
                disk.write(staging / "source.json", disk.json_line(asdict(passage)))
                disk.write(staging / "scores.json", disk.json_line(scores))
                files = {path.name: disk.file_hash(path) for path in sorted(staging.iterdir())}
                assert set(ADAPTER_FILES) <= set(files), f"write_adapter wrote {sorted(files)} only"
                size_bytes = sum(path.stat().st_size for path in staging.iterdir())
                fields = {"model": model, "model_hash": model_hash, "created": now(), "size_bytes": size_bytes}
                disk.write(staging / "manifest.json", disk.json_line(fields | {"files": files}))
                for path in (*staging.iterdir(), staging):
                    disk.sync(path)
                id = memory_id(files["adapter_model.safetensors"], passage, model_hash)
                try:
                    self._load(id, *ADAPTER_FILES, "edits.jsonl")  # there already, and intact
                except MemoryStoreError:
                    shutil.rmtree(self._memories / id, ignore_errors=True)
                    os.rename(staging, self._memories / id)
                    disk.sync(self._memories)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            manifest = disk.file_hash(self._memories / id / "manifest.json")
            active = [id if other in replaced else other for other in state["active"]]
            active = active if replaced else [*active, id]
            if quarantine and id not in state["active"]:
                self._ledger.append("quarantine", [id], state["active"], manifest=manifest)
            elif active != state["active"]:
                self._ledger.append("keep", [id], active, manifest=manifest)
            return self._load(id)

    def share(self, write_adapter: Callable[[Path], None], members: Sequence[MemoryEntry], scores: dict) -> str:
        """Keeps an adapter that answers for all these memories from now on; their own stay. Returns its id.

        Raises MemoryStoreError if one of them is in force no more.
        """
        ids = [entry.id for entry in members]
        with self._writing() as state:
            if gone := [id for id in ids if id not in state["active"]]:
                raise MemoryStoreError(f"memory {gone[0]} was taken out of force meanwhile; consolidate again")
            folder = self.home / "shared"
            folder.mkdir(exist_ok=True)
            staging = folder / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                staging.mkdir()
                write_adapter(staging)
                files = {path.name: disk.file_hash(path) for path in sorted(staging.iterdir())}
                shared = text_hash(files["adapter_model.safetensors"], *ids)[:12]
                disk.write(staging / "manifest.json", disk.json_line({"created": now(), "members": ids, "scores": scores, "files": files}))
                for path in (*staging.iterdir(), staging):
                    disk.sync(path)
                shutil.rmtree(folder / shared, ignore_errors=True)
                os.rename(staging, folder / shared)
                disk.sync(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            manifest = disk.file_hash(folder / shared / "manifest.json")
            adapters = {id: other for id, other in state["adapters"].items() if other not in {state["adapters"].get(m) for m in ids}}
            self._ledger.append("consolidate", ids, state["active"], adapters | dict.fromkeys(ids, shared), shared=shared, manifest=manifest)
            return shared

    def disable(self, selector: str) -> dict:
        """Takes memories out of force; they stay on disk, and `approve` or `rollback` brings them back. Returns the new ledger line."""
        found = self.find(selector)
        with self._writing() as state:
            ids = [id for id in found if id in state["active"]]
            if not ids:
                raise MemoryStoreError(f"{selector}: not in force already; `selfedit memory forget {selector}` deletes it")
            return self._ledger.append("disable", ids, [id for id in state["active"] if id not in ids])

    def supersede(self, source: str, model_hash: str, passages: Collection[str]) -> list[str]:
        """Takes those memories of a source out of force that are of none of these passages, by their ids: it has others now.

        Their ids; `rollback` and `approve` bring them back.
        """
        old = [e.id for e in self.active(model_hash) if e.passage.source == source and e.passage.id not in passages]
        if old:
            with self._writing() as state:
                old = [id for id in old if id in state["active"]]
                self._ledger.append("supersede", old, [id for id in state["active"] if id not in old])
        return old

    def approve(self, selector: str) -> dict:
        """Puts memories in force that are on disk only: disabled, quarantined, or superseded; each in the place of one of the same passage."""
        found = self.find(selector)
        with self._writing() as state:
            ids = [id for id in found if id not in state["active"]]
            if not ids:
                raise MemoryStoreError(f"{selector}: in force already")
            approved = [self._load(id, *ADAPTER_FILES, "edits.jsonl") for id in ids]
            same = {(e.passage.id, e.model_hash) for e in approved}
            others = [id for id in state["active"] if ((e := self._load(id)).passage.id, e.model_hash) not in same]
            return self._ledger.append("approve", ids, [*others, *ids])

    def forget(self, selector: str) -> dict:
        """Deletes memories from the disk for good: weights, what was studied, questions, records of the runs that made them.

        Returns the new ledger line; what remains in the ledger is that something with this id was there.
        """
        ids = self.find(selector)
        with self._writing() as state:
            line = self._ledger.append("forget", ids, [id for id in state["active"] if id not in ids])
            self._clear(line)
            return line

    def rollback(self, to: str | None = None) -> dict:
        """Makes a former state the present one and returns the new ledger line, whose `restored` says which.

        `None` undoes the last change, called again the one before it, and so on. Or: a version (`3`, `v3`), or a
        memory: the state right after it was last kept. What was forgotten since stays away, which `note` then says.
        """
        with self._writing() as state:
            past = {0: EMPTY} | {line["version"]: line for line in self.history()}
            if to is None and state["undo_to"] is None:
                raise MemoryStoreError(f"there is no change left to undo in {self.home}")
            target = past[state["undo_to"] if to is None else self._version(to, past)]
            gone = [id for id in target["active"] if not (self._memories / id).exists()]
            active = [id for id in target["active"] if id not in gone]
            undo_to = target["undo_to"] if to is None else state["version"]
            note = {"note": f"left out, as forgotten for good: {', '.join(gone)}"} if gone else {}
            adapters = {id: shared for id, shared in target["adapters"].items() if (self.home / "shared" / shared).exists()}
            return self._ledger.append("rollback", [], active, adapters, undo_to=undo_to, restored=target["version"], **note)

    def export(self, id: str, to: Path | str) -> None:
        """Copies the PEFT adapter, with what it was made from and its scores, into a new or empty folder."""
        source, to = self.adapter_path(id), Path(to)
        with disk.plain_errors(f"export to {to}", MemoryStoreError):
            if to.exists() and any(to.iterdir()):
                raise MemoryStoreError(f"{to} is not empty; name a new folder to export to")
            to.mkdir(parents=True, exist_ok=True)
            for name in (*ADAPTER_FILES, "source.json", "scores.json"):
                shutil.copyfile(source / name, to / name)

    @contextmanager
    def _writing(self) -> Iterator[dict]:
        """The present state, held still: no other process writes meanwhile."""
        with disk.plain_errors(f"write to {self.home} (--home or SELFEDIT_HOME)", MemoryStoreError):
            self._memories.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(self.home / ".lock", timeout=self.lock_timeout_s):
                    state = self._ledger.state()
                    self._ledger.start()
                    self._clear(state)
                    yield state
                    self._index()
            except Timeout:
                raise MemoryStoreError(
                    f"another selfedit process is writing to {self.home}; wait or end it, then try again"
                ) from None

    def _clear(self, state: dict) -> None:
        """Deletes what a killed writer left behind, and the memories of which the last change is that they are forgotten."""
        for staging in (*self._memories.glob(".staging-*"), *self.home.glob("shared/.staging-*")):
            shutil.rmtree(staging)
        folders = [self._memories / id for id in state["memories"] if state["action"] == "forget"]
        folders = [folder for folder in folders if folder.exists()]
        if passages := {id for folder in folders if (id := _passage_id(folder))}:
            for file in self.home.glob("runs/*/trials.jsonl"):
                Journal(file).drop(lambda record: record.get("passage") in passages)
        forgotten = state["memories"] if state["action"] == "forget" else []
        folders += [folder for folder in self.home.glob("shared/*") if set(_members(folder)) & set(forgotten)]
        for folder in folders:
            shutil.rmtree(folder)

    def _index(self) -> None:
        """So that who asks need not read every memory. They can without it: what goes wrong here is no fault of the change."""
        state, old = self._ledger.state(), self._indexes()
        of, wanted = _named(state), {model: [] for model in old}
        try:
            models = {id: model for model, router in old.items() for id in router.ids}
            for id in state["active"]:
                wanted.setdefault(models.get(id) or self._load(id).model_hash[:16], []).append(id)
            for model, ids in wanted.items():
                if model not in old or old[model].of != of:
                    (self.home / "index").mkdir(exist_ok=True)
                    disk.replace(self.home / f"index/{model}.npz", old.get(model, Router({})).changed(ids, self._known, of).to_bytes())
        except (OSError, MemoryStoreError):
            shutil.rmtree(self.home / "index", ignore_errors=True)

    def _indexes(self) -> dict[str, Router]:
        """By the start of the model's hash; without those that cannot be read."""
        found = {file.stem: _read_index(file) for file in self.home.glob("index/*.npz")}
        return {model: router for model, router in found.items() if router}

    def _known(self, id: str) -> str:
        return learned_text(self._load(id).passage, self.edits(id))

    def _version(self, to: str, past: dict[int, dict]) -> int:
        if re.fullmatch(r"v?\d{1,11}", to):  # an id has 12 characters
            version = int(to.removeprefix("v"))
            if version not in past:
                raise MemoryStoreError(f"there is no version {version}; those to go back to are 0 to {max(past)}")
            return version
        id = self._find(to)
        kept = [version for version, line in past.items() if line["action"] == "keep" and id in line["memories"]]
        if not kept:
            raise MemoryStoreError(f"memory {id} was never active in {self.home}, so there is no such state")
        return max(kept)

    def _stored_ids(self, state: dict) -> list[str]:
        forgotten = state["memories"] if state["action"] == "forget" else []
        names = sorted(path.name for path in self._memories.glob("*"))
        return [name for name in names if re.fullmatch("[0-9a-f]{12}", name) and name not in forgotten]

    def find(self, selector: str) -> list[str]:
        """The ids of what a person means: the start of an id, a source (its whole path, or its name), or the day it was kept.

        Active or not, oldest first. Raises MemoryStoreError if nothing fits, or a name fits several sources.
        """
        state = self._ledger.state()
        stored = self._stored_ids(state)
        if any(id.startswith(selector) for id in {*stored, *state["active"]} if selector):
            return [self._find(selector)]
        entries = self.all()
        of_day = [e.id for e in entries if e.created[:10] == selector]
        named = [e for e in entries if selector in (e.passage.source, Path(e.passage.source).name) or os.path.abspath(selector) == e.passage.source]
        sources = sorted({e.passage.source for e in named})
        if len(sources) > 1:
            raise MemoryStoreError(f"{selector!r} fits {len(sources)} sources ({', '.join(sources)}); give the whole path")
        if not of_day and not named:
            raise MemoryStoreError(f"no memory in {self.home} has an id, a source or a day {selector!r}; see `selfedit memory list --all`")
        return of_day or [e.id for e in named]

    def verify(self) -> dict:
        """Recomputes every hash. `faults`: what is not as it was kept, in words; `memories`, `versions`: so many were looked at."""
        state, faults = self._ledger.state(), self._ledger.faults()
        history = self.history()
        stored = self._stored_ids(state)
        kept = {id: line["manifest"] for line in history if line["action"] in ("keep", "quarantine") and "manifest" in line for id in line["memories"]}
        for id in stored:
            try:
                self._load(id, *ADAPTER_FILES, "edits.jsonl")
                if id in kept and disk.file_hash(self._memories / id / "manifest.json") != kept[id]:
                    faults.append(f"memory {id}: manifest.json is not the one it was kept with")
            except MemoryStoreError as error:
                faults.append(str(error))
        faults += [f"memory {id} is in force and not on disk; `selfedit memory forget {id}` ends that" for id in state["active"] if id not in stored]
        consolidated = {line["shared"]: line["manifest"] for line in history if line["action"] == "consolidate"}
        for shared in sorted(set(state["adapters"].values())):
            try:
                self._shared_path(shared)
                if disk.file_hash(self.home / f"shared/{shared}/manifest.json") != consolidated.get(shared):
                    faults.append(f"shared adapter {shared}: manifest.json is not the one it was kept with")
            except MemoryStoreError as error:
                faults.append(str(error))
        if not faults:
            for model, router in self._indexes().items():
                entries = [entry.id for entry in self.active() if entry.model_hash.startswith(model)]
                if router.of == _named(state) and router.to_bytes() != Router({}).changed(entries, self._known, _named(state)).to_bytes():
                    faults.append(f"{self.home / 'index'}/{model}.npz is not that of the memories in force; delete it, the next change makes it anew")
        return {"memories": len(stored), "versions": len(history), "faults": faults}

    def _find(self, prefix: str) -> str:
        state = self._ledger.state()
        if prefix in state["active"]:
            return prefix
        ids = sorted({*self._stored_ids(state), *state["active"]})  # a lost folder can still be forgotten
        found = [id for id in ids if prefix and id.startswith(prefix)]
        if not found:
            raise MemoryStoreError(f"no memory in {self.home} starts with {prefix!r}; see `selfedit memory list`")
        if len(found) > 1:
            raise MemoryStoreError(f"{prefix!r} fits {len(found)} memories ({', '.join(found)}); give more characters")
        return found[0]

    def _entries(self, ids: Callable[[dict], list[str]]) -> list[MemoryEntry]:
        while True:
            state = self._ledger.state()
            try:
                return [self._load(id) for id in ids(state)]
            except MemoryStoreError:
                if self._ledger.state()["version"] == state["version"]:
                    raise
                # Another process forgot one while we read: look again.

    def _shared_path(self, shared: str) -> Path:
        """The folder of a shared adapter, its bytes checked against its manifest."""
        folder = self.home / "shared" / shared
        try:
            files = json.loads((folder / "manifest.json").read_bytes())["files"]
            if changed := [name for name in ADAPTER_FILES if disk.file_hash(folder / name) != files[name]]:
                raise ValueError(f"{changed[0]} has changed")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemoryStoreError(f"shared adapter {shared} is corrupt: {error}; `selfedit memory consolidate` makes it anew") from error
        return folder

    def _load(self, id: str, *names: str) -> MemoryEntry:
        """The entry of a memory, if its bytes and those of the named files are still what was kept."""
        folder = self._memories / id
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest.pop("files")
            for name in ("source.json", "scores.json", *names):
                if disk.file_hash(folder / name) != files[name]:
                    raise ValueError(f"{name} has changed")
            passage = Passage(**json.loads((folder / "source.json").read_bytes()))
            scores = json.loads((folder / "scores.json").read_bytes())
            adapter_hash = files["adapter_model.safetensors"]
            entry = MemoryEntry(id=id, adapter_hash=adapter_hash, passage=passage, scores=scores, **manifest)
            if memory_id(adapter_hash, passage, entry.model_hash) != id:
                raise ValueError("manifest.json has changed")
            return entry
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MemoryStoreError(
                f"memory {id} is corrupt: {error}; `selfedit memory forget {id}` deletes it"
            ) from error


def _named(state: dict) -> str:
    """What is in force, in one word."""
    return text_hash(*state["active"])


def _read_index(file: Path) -> Router | None:
    try:
        return Router.from_bytes(file.read_bytes())
    except OSError:
        return None


def _members(folder: Path) -> list[str]:
    """Of a shared adapter's folder; none if it cannot be told any more."""
    try:
        return list(json.loads((folder / "manifest.json").read_bytes())["members"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _passage_id(folder: Path) -> str | None:
    """Of a memory's folder; None if it cannot be told any more."""
    try:
        return Passage(**json.loads((folder / "source.json").read_bytes())).id
    except (OSError, ValueError, TypeError, AttributeError):
        return None
