"""What lies in a home folder: a folder a memory, a folder a shared adapter; written whole or not at all, checked when read.

An adapter is opaque here: two files and a hash. Only safetensors and JSON, never pickle. Which memories are in force is
no matter of this file (`memory.ledger`, `memory.store`).

    home/memories/<id>/    adapter_model.safetensors, adapter_config.json, edits.jsonl, source.json, scores.json,
                           manifest.json: the SHA-256 of the other files; never changed once it is there
    home/shared/<id>/      the two files of an adapter that several memories share, scores.json, and a manifest.json that
                           says which (`members`) and what it was trained on (`rehearsed`)
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

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.memory.ledger import now
from selfedit.types import Example, MemoryEntry, Passage, SelfEdit, text_hash

WEIGHTS, CONFIG = ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
WriteAdapter = Callable[[Path], None]
"""Gets a folder and writes the two PEFT files into it."""


def memory_id(adapter_hash: str, passage: Passage, model_hash: str) -> str:
    return text_hash(adapter_hash, passage.id, model_hash)[:12]


class Folders:
    def __init__(self, home: Path):
        self.memories, self.shared = home / "memories", home / "shared"

    def stored(self) -> list[str]:
        """The ids of the memories on disk."""
        return sorted(path.name for path in self.memories.glob("*") if re.fullmatch("[0-9a-f]{12}", path.name))

    def load(self, id: str, *names: str) -> MemoryEntry:
        """The entry of a memory, if its bytes and those of the named files are still what was kept."""
        folder = self.memories / id
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest.pop("files")
            for name in ("source.json", "scores.json", *names):
                if disk.file_hash(folder / name) != files[name]:
                    raise ValueError(f"{name} has changed")
            passage = Passage(**json.loads((folder / "source.json").read_bytes()))
            scores = json.loads((folder / "scores.json").read_bytes())
            entry = MemoryEntry(id=id, adapter_hash=files[WEIGHTS], passage=passage, scores=scores, **manifest)
            if memory_id(entry.adapter_hash, passage, entry.model_hash) != id:
                raise ValueError("manifest.json has changed")
            return entry
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MemoryStoreError(
                f"memory {id} is corrupt: {error}; `selfedit memory forget {id}` deletes it"
            ) from error

    def load_all(self, id: str) -> MemoryEntry:
        """As `load`, every file checked."""
        return self.load(id, *ADAPTER_FILES, "edits.jsonl")

    def edits(self, id: str) -> list[SelfEdit]:
        self.load(id, "edits.jsonl")
        lines = map(json.loads, (self.memories / id / "edits.jsonl").read_bytes().splitlines())
        return [SelfEdit(**line | {"examples": tuple(Example(**x) for x in line["examples"])}) for line in lines]

    def keep(
        self,
        write_adapter: WriteAdapter,
        model: str,
        model_hash: str,
        passage: Passage,
        edits: Sequence[SelfEdit],
        scores: dict,
    ) -> str:
        """The id of a memory that is on disk from now on; one that is there already, and intact, is left as it is."""
        with _staging(self.memories) as staging:
            write_adapter(staging)
            disk.write(staging / "edits.jsonl", b"".join(disk.json_line(asdict(edit)) for edit in edits))
            disk.write(staging / "source.json", disk.json_line(asdict(passage)))
            disk.write(staging / "scores.json", disk.json_line(scores))
            size_bytes = sum(path.stat().st_size for path in staging.iterdir())
            files = _sealed(
                staging, {"model": model, "model_hash": model_hash, "created": now(), "size_bytes": size_bytes}
            )
            id = memory_id(files[WEIGHTS], passage, model_hash)
            try:
                self.load_all(id)
            except MemoryStoreError:
                _moved(staging, self.memories / id)
        return id

    def share(self, write_adapter: WriteAdapter, members: Sequence[str], rehearsed: Sequence[str], scores: dict) -> str:
        """The id of a shared adapter that is on disk from now on; as `keep`."""
        self.shared.mkdir(exist_ok=True)
        with _staging(self.shared) as staging:
            write_adapter(staging)
            disk.write(staging / "scores.json", disk.json_line(scores))
            files = _sealed(staging, {"created": now(), "members": list(members), "rehearsed": list(rehearsed)})
            id = text_hash(files[WEIGHTS], *members, "", *rehearsed)[:12]
            try:
                self.shared_path(id)
            except MemoryStoreError:
                _moved(staging, self.shared / id)
        return id

    def shared_path(self, id: str) -> Path:
        """The folder of a shared adapter, its bytes checked against its manifest."""
        folder = self.shared / id
        try:
            files = json.loads((folder / "manifest.json").read_bytes())["files"]
            if changed := [name for name in ADAPTER_FILES if disk.file_hash(folder / name) != files[name]]:
                raise ValueError(f"{changed[0]} has changed")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemoryStoreError(
                f"shared adapter {id} is corrupt: {error}; `selfedit memory consolidate` makes it anew"
            ) from error
        return folder

    def adapters_trained_on(self, ids: Collection[str]) -> list[str]:
        """The shared adapters that were trained on any of these memories, or of which that cannot be told any more."""
        return [
            folder.name for folder in self.shared.glob("[!.]*") if (own := _rehearsed(folder)) is None or own & set(ids)
        ]

    def passage_id(self, id: str) -> str | None:
        """None if it cannot be told any more."""
        try:
            return Passage(**json.loads((self.memories / id / "source.json").read_bytes())).id
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def clear_staging(self) -> None:
        """Deletes what a killed writer left behind."""
        for staging in (*self.memories.glob(".staging-*"), *self.shared.glob(".staging-*")):
            shutil.rmtree(staging)


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    folder = parent / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sealed(staging: Path, fields: dict) -> dict[str, str]:
    """The hashes of the files there, which the manifest has now beside these fields; all is on the disk itself."""
    files = {path.name: disk.file_hash(path) for path in sorted(staging.iterdir())}
    assert set(ADAPTER_FILES) <= set(files), f"write_adapter wrote {sorted(files)} only"
    disk.write(staging / "manifest.json", disk.json_line(fields | {"files": files}))
    for path in (*staging.iterdir(), staging):
        disk.sync(path)
    return files


def _moved(staging: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)  # was corrupt
    os.rename(staging, to)
    disk.sync(to.parent)


def _rehearsed(folder: Path) -> set[str] | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        return {*manifest["members"], *manifest.get("rehearsed", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
