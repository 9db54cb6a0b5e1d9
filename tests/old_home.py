"""Writes a home as selfedit 0.1 did (commit 0b5d50a): files and a ledger, format 0 or 1. For the tests of migration."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from selfedit.disk import file_hash, json_line
from selfedit.memory.adapters import ADAPTER_FILES
from selfedit.types import MemoryEntry, Passage, SelfEdit, text_hash


class OldHome:
    def __init__(self, home: Path, format: int = 1):
        self.home, self.format = home, format
        self.lines: list[dict] = []
        (home / "memories").mkdir(parents=True)

    def keep(self, passage: Passage, edits: list[SelfEdit], scores: dict, write_adapter, **more) -> MemoryEntry:
        """A memory in a folder and in force, or wherever `more`, the fields of the ledger's line, says."""
        folder = self.home / "memories" / "new"
        folder.mkdir()
        write_adapter(folder)
        (folder / "edits.jsonl").write_bytes(b"".join(json_line(asdict(edit)) for edit in edits))
        (folder / "source.json").write_bytes(json_line(asdict(passage)))
        (folder / "scores.json").write_bytes(json_line(scores))
        size = sum(path.stat().st_size for path in folder.iterdir())
        created = f"2026-01-{1 + len(self.lines):02}T00:00:00.000+00:00"
        fields = {"model": "tiny", "model_hash": "m" * 64, "created": created, "size_bytes": size}
        weights_hash = self._seal(folder, fields)
        id = text_hash(weights_hash, passage.id, "m" * 64)[:12]
        folder.rename(self.home / "memories" / id)
        manifest = {"manifest": file_hash(self.home / "memories" / id / "manifest.json")} if self.format else {}
        self.line(**{"action": "keep", "memories": [id], "active": [*self.active, id]} | manifest | more)
        return MemoryEntry(id, "tiny", "m" * 64, weights_hash, created, size, passage, scores)

    def share(self, write_adapter, members: list[str], rehearsed: list[str] = ()) -> str:
        (self.home / "shared").mkdir(exist_ok=True)
        folder = self.home / "shared" / "new"
        folder.mkdir()
        write_adapter(folder)
        (folder / "scores.json").write_bytes(json_line({"general_change": 0.1}))
        weights_hash = self._seal(folder, {"created": "t", "members": members, "rehearsed": list(rehearsed)})
        id = text_hash(weights_hash, *members, "", *rehearsed)[:12]
        folder.rename(self.home / "shared" / id)
        manifest = file_hash(self.home / "shared" / id / "manifest.json")
        adapters = dict.fromkeys(members, id)
        self.line("consolidate", members, self.active, adapters=adapters, shared=id, manifest=manifest)
        return id

    @property
    def active(self) -> list[str]:
        return self.lines[-1]["active"] if self.lines else []

    def line(self, action: str, memories: list[str], active: list[str], adapters: dict | None = None, **extra) -> dict:
        last = self.lines[-1] if self.lines else {"version": 0, "check": "", "adapters": {}}
        version, time = last["version"] + 1, f"2026-01-{1 + len(self.lines):02}T00:00:00.000+00:00"
        follows = {"previous": last["version"], "undo_to": last["version"]}
        if self.format == 0:
            action = {"disable": "forget", "forget": "erase"}.get(action, action)
            line = {"version": version, "time": time, "action": action, "memory": memories[0] if memories else None}
            line |= {"active": active} | follows | extra
        else:
            line = {"version": version, "format": 1, "time": time, "action": action, "memories": memories}
            line |= {"active": active, "adapters": last["adapters"] if adapters is None else adapters} | follows | extra
            line["check"] = text_hash(last["check"], json.dumps(line, sort_keys=True))
        self.lines.append(line)
        self.write()
        return line

    def write(self, head: int | None = None) -> None:
        (self.home / "ledger.jsonl").write_bytes(b"".join(map(json_line, self.lines)))
        (self.home / "HEAD").write_text(f"{self.lines[-1]['version'] if head is None else head}\n")

    def _seal(self, folder: Path, fields: dict) -> str:
        files = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
        (folder / "manifest.json").write_bytes(json_line(fields | {"files": files}))
        return files[ADAPTER_FILES[0]]
