"""The memory store: what was kept, on disk, so that no kill, full disk or second process can leave it half changed.

In: adapter folders with where they came from (passage, self-edits, scores). Out: `MemoryEntry`s and paths of verified
adapter folders. An adapter is opaque here: two files and a hash. Only safetensors and JSON, never pickle.

    home/
      memories/<id>/    adapter_model.safetensors, adapter_config.json, edits.jsonl, source.json, scores.json,
                        manifest.json: the SHA-256 of the other files; never changed once it is there
      ledger.jsonl      one line a version: which memories are active from here on; only ever appended to
      HEAD              the number of the version in force, moved by one atomic replace; 0 is the empty store
      .lock             held by whoever writes; readers need none

The idea: write everything new beside the old (a staging folder renamed into place, then a ledger line), then move HEAD.
The store is what HEAD says, so a write has happened entirely or not at all. Killed before that, it leaves a staging
folder (removed by the next write), a memory that is not active, or a ledger line that no HEAD ever named: harmless. An
erasure deletes after HEAD has moved; if killed, the next write finishes it.

A ledger line's `previous` is the version it followed: the history is that chain. Its `undo_to` is the version that
undoing leads to: `previous`, but after an undo the `undo_to` of the version undone to, so undoing again goes further.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_data_path
from safetensors import SafetensorError

from selfedit.errors import MemoryStoreError
from selfedit.types import Example, MemoryEntry, Passage, SelfEdit, text_hash

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
EMPTY = {"version": 0, "time": None, "action": None, "memory": None, "active": [], "previous": None, "undo_to": None}


def default_home() -> Path:
    return Path(os.environ.get("SELFEDIT_HOME") or user_data_path("selfedit")).expanduser()


class MemoryStore:
    """The memories under one home folder. Opening and reading never write; a missing home is an empty store.

    Wherever an id is asked for, the start of one will do if it is unique.
    """

    def __init__(self, home: Path | str, lock_timeout_s: float = 10.0):
        self.home = Path(home)
        self.lock_timeout_s = lock_timeout_s
        self._memories = self.home / "memories"
        self._ledger = self.home / "ledger.jsonl"
        self._head = self.home / "HEAD"

    # Reading

    def active(self, model_hash: str | None = None) -> list[MemoryEntry]:
        """The memories in force, in the order they were kept; only those of one model if its hash is given."""
        entries = self._entries(lambda state: state["active"])
        return [entry for entry in entries if model_hash in (None, entry.model_hash)]

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

    def adapter_path(self, id: str) -> Path:
        """The folder of the PEFT adapter, its bytes checked against the manifest at every call."""
        id = self._find(id)
        self._load(id, *ADAPTER_FILES)
        return self._memories / id

    def history(self) -> list[dict]:
        """The ledger lines that led to the present state, oldest first."""
        state, past = self._state(), []
        lines = self._lines()
        while state["version"]:
            past.append(state)
            if state["previous"] not in lines:
                raise MemoryStoreError(f"{self._ledger} has lost version {state['previous']}; restore it from a backup")
            state = lines[state["previous"]]
        return past[::-1]

    # Writing

    def add(
        self,
        write_adapter: Callable[[Path], None],
        *,
        model: str,
        model_hash: str,
        passage: Passage,
        edits: Sequence[SelfEdit],
        scores: dict,
    ) -> MemoryEntry:
        """Keeps a memory, in the place of the active one of the same passage and model if there is one.

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
                _write(staging / "edits.jsonl", b"".join(_json(asdict(edit)) for edit in edits))
                _write(staging / "source.json", _json(asdict(passage)))
                _write(staging / "scores.json", _json(scores))
                files = {path.name: _file_hash(path) for path in sorted(staging.iterdir())}
                assert set(ADAPTER_FILES) <= set(files), f"write_adapter wrote {sorted(files)} only"
                size_bytes = sum(path.stat().st_size for path in staging.iterdir())
                fields = {"model": model, "model_hash": model_hash, "created": _now(), "size_bytes": size_bytes}
                _write(staging / "manifest.json", _json(fields | {"files": files}))
                for name in ADAPTER_FILES:
                    _sync(staging / name)
                _sync(staging)
                id = _memory_id(files["adapter_model.safetensors"], passage, model_hash)
                try:
                    self._load(id, *ADAPTER_FILES, "edits.jsonl")  # there already, and intact
                except MemoryStoreError:
                    shutil.rmtree(self._memories / id, ignore_errors=True)
                    os.rename(staging, self._memories / id)
                    _sync(self._memories)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            if replaced:
                active = [id if other in replaced else other for other in state["active"]]
            else:
                active = [*state["active"], id]
            if active != state["active"]:
                self._commit(state, "keep", id, active)
            return self._load(id)

    def forget(self, id: str, erase: bool = False) -> dict:
        """Takes a memory out of use; `erase` also deletes it from disk for good. Returns the new ledger line."""
        id = self._find(id)
        with self._writing() as state:
            if id not in state["active"] and not erase:
                raise MemoryStoreError(f"memory {id} is not active already; --erase deletes it from disk")
            active = [other for other in state["active"] if other != id]
            line = self._commit(state, "erase" if erase else "forget", id, active)
            self._clear(line)
            return line

    def rollback(self, to: str | None = None) -> dict:
        """Makes a former state the present one and returns the new ledger line.

        `None` undoes the last change, called again the one before it, and so on. Or: a version (`3`, `v3`), or a
        memory: the state right after it was last kept. What was erased since stays away, which `note` then says.
        """
        with self._writing() as state:
            past = {0: EMPTY} | {line["version"]: line for line in self.history()}
            if to is None and state["undo_to"] is None:
                raise MemoryStoreError(f"there is no change left to undo in {self.home}")
            target = past[state["undo_to"] if to is None else self._version(to, past)]
            erased = [id for id in target["active"] if not (self._memories / id).exists()]
            active = [id for id in target["active"] if id not in erased]
            undo_to = target["undo_to"] if to is None else state["version"]
            note = {"note": f"left out, as erased from disk: {', '.join(erased)}"} if erased else {}
            return self._commit(state, "rollback", None, active, undo_to=undo_to, restored=target["version"], **note)

    def export(self, id: str, to: Path | str) -> None:
        """Copies the PEFT adapter, with what it was made from and its scores, into a new or empty folder."""
        source, to = self.adapter_path(id), Path(to)
        with _renamed_errors(f"export to {to}"):
            if to.exists() and any(to.iterdir()):
                raise MemoryStoreError(f"{to} is not empty; name a new folder to export to")
            to.mkdir(parents=True, exist_ok=True)
            for name in (*ADAPTER_FILES, "source.json", "scores.json"):
                shutil.copyfile(source / name, to / name)

    # The state

    def _state(self) -> dict:
        """The ledger line that HEAD names."""
        # Looked at before HEAD, which is written before either: a reader beside the very first writer is not alarmed.
        was_used = os.path.exists(self._ledger) or bool(self._stored_ids(EMPTY))
        head = _read(self._head)
        if head is None and not was_used:
            return EMPTY
        lines = self._lines()
        try:
            return lines[int(head or b"")]
        except (ValueError, KeyError):
            found = "is missing" if head is None else f"says {head[:20]!r}, which is no version in {self._ledger.name}"
            raise MemoryStoreError(
                f"{self._head} {found}; restore both files from a backup, or write a version into HEAD: "
                f"0 (no memory active) to {max(lines)} (the last in the ledger)"
            ) from None

    def _lines(self) -> dict[int, dict]:
        """The ledger by version. What is no line of ours was torn by a kill: HEAD never came to name it."""
        lines = {0: EMPTY}
        for text in (_read(self._ledger) or b"").splitlines():
            try:
                line = json.loads(text)
                if line.keys() >= EMPTY.keys() and line["previous"] < line["version"]:
                    lines[line["version"]] = line
            except (ValueError, TypeError, AttributeError):
                continue
        return lines

    def _version(self, to: str, past: dict[int, dict]) -> int:
        if re.fullmatch(r"v?\d{1,11}", to):  # an id has 12 characters
            version = int(to.removeprefix("v"))
            if version not in past:
                raise MemoryStoreError(f"there is no version {version}; those to go back to are 0 to {max(past)}")
            return version
        id = self._find(to)
        kept = [version for version, line in past.items() if (line["action"], line["memory"]) == ("keep", id)]
        if not kept:
            raise MemoryStoreError(f"memory {id} was never active in {self.home}, so there is no such state")
        return max(kept)

    def _commit(self, state: dict, action: str, memory: str | None, active: list[str], **extra: object) -> dict:
        version = 1 + max(self._lines())  # also above a line that a killed writer left behind
        line = {"version": version, "time": _now(), "action": action, "memory": memory, "active": active}
        line |= {"previous": state["version"], "undo_to": state["version"]} | extra
        torn = not (_read(self._ledger) or b"\n").endswith(b"\n")
        _write(self._ledger, b"\n" * torn + _json(line), mode="ab")
        _sync(self.home)
        self._move_head(version)
        return line

    def _move_head(self, version: int) -> None:
        _write(self.home / ".HEAD.new", b"%d\n" % version)
        os.replace(self.home / ".HEAD.new", self._head)
        _sync(self.home)

    @contextmanager
    def _writing(self) -> Iterator[dict]:
        """The present state, held still: no other process writes meanwhile."""
        with _renamed_errors(f"write to {self.home} (--home or SELFEDIT_HOME)"):
            self._memories.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(self.home / ".lock", timeout=self.lock_timeout_s):
                    state = self._state()
                    if state is EMPTY:
                        self._move_head(0)  # so that from now on no HEAD means a lost HEAD
                    self._clear(state)
                    yield state
            except Timeout:
                raise MemoryStoreError(
                    f"another selfedit process is writing to {self.home}; wait or end it, then try again"
                ) from None

    def _clear(self, state: dict) -> None:
        """Deletes what a killed writer left behind, and the memory whose erasure is the last change."""
        for staging in self._memories.glob(".staging-*"):
            shutil.rmtree(staging)
        if state["action"] == "erase" and (self._memories / state["memory"]).exists():
            shutil.rmtree(self._memories / state["memory"])

    # The memories

    def _stored_ids(self, state: dict) -> list[str]:
        erased = state["memory"] if state["action"] == "erase" else None
        names = sorted(path.name for path in self._memories.glob("*"))
        return [name for name in names if re.fullmatch("[0-9a-f]{12}", name) and name != erased]

    def _find(self, prefix: str) -> str:
        state = self._state()
        ids = sorted({*self._stored_ids(state), *state["active"]})  # a lost folder can still be forgotten
        found = [id for id in ids if prefix and id.startswith(prefix)]
        if not found:
            raise MemoryStoreError(f"no memory in {self.home} starts with {prefix!r}; see `selfedit memory list`")
        if len(found) > 1:
            raise MemoryStoreError(f"{prefix!r} fits {len(found)} memories ({', '.join(found)}); give more characters")
        return found[0]

    def _entries(self, ids: Callable[[dict], list[str]]) -> list[MemoryEntry]:
        while True:
            state = self._state()
            try:
                return [self._load(id) for id in ids(state)]
            except MemoryStoreError:
                if self._state()["version"] == state["version"]:
                    raise
                # Another process erased one while we read: look again.

    def _load(self, id: str, *names: str) -> MemoryEntry:
        """The entry of a memory, if its bytes and those of the named files are still what was kept."""
        folder = self._memories / id
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest.pop("files")
            for name in ("source.json", "scores.json", *names):
                if _file_hash(folder / name) != files[name]:
                    raise ValueError(f"{name} has changed")
            passage = Passage(**json.loads((folder / "source.json").read_bytes()))
            scores = json.loads((folder / "scores.json").read_bytes())
            adapter_hash = files["adapter_model.safetensors"]
            entry = MemoryEntry(id=id, adapter_hash=adapter_hash, passage=passage, scores=scores, **manifest)
            if _memory_id(adapter_hash, passage, entry.model_hash) != id:
                raise ValueError("manifest.json has changed")
            return entry
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MemoryStoreError(
                f"memory {id} is corrupt: {error}; `selfedit memory forget {id}` removes it, with --erase from disk too"
            ) from error


@contextmanager
def _renamed_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter is how safetensors says that the disk is full
        reason = getattr(error, "strerror", None) or error
        raise MemoryStoreError(f"cannot {what}: {reason}; mend that or choose another folder") from error


def _memory_id(adapter_hash: str, passage: Passage, model_hash: str) -> str:
    return text_hash(adapter_hash, passage.id, model_hash)[:12]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes | None:
    with _renamed_errors(f"read {path}"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _write(path: Path, data: bytes, mode: str = "wb") -> None:
    with path.open(mode) as file:
        file.write(data)
    _sync(path)


def _sync(path: Path) -> None:
    """Puts a file's bytes, or a folder's names, on the disk itself: a power cut must not reorder the writes."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
