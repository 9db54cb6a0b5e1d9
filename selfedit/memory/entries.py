"""Rows of the database ↔ what the program works with: `MemoryEntry`, self-edits, shared adapters.

Passage, scores and edits are JSON, compressed. `seal` is the SHA-256 of a row: the version that kept a memory has it
too, so a changed row is found when it is read, and a changed row with a changed seal when the store is verified.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256

from selfedit.errors import MemoryStoreError
from selfedit.memory.adapters import StoredAdapter
from selfedit.memory.versions import checked_id, now
from selfedit.types import Example, MemoryEntry, Passage, SelfEdit, Unit, text_hash

COLUMNS = (
    "memories.id, passage_id, model, model_hash, adapter, adapter_hash, created, size_bytes, record, memories.seal, "
    "library"
)


def memory_id(adapter_hash: str, passage: Passage, model_hash: str) -> str:
    return text_hash(adapter_hash, passage.id, model_hash)[:12]


def learned_text(passage: Passage, edits: Sequence[SelfEdit]) -> str:
    """The text that retrieval indexes for a memory, without repetitions: more text only looks less like a question."""
    flat = " ".join(passage.text.split())
    studied = dict.fromkeys(e.text for edit in edits for e in edit.examples if " ".join(e.text.split()) not in flat)
    return "\n".join([passage.title, passage.text, *studied])


def write(
    connection: sqlite3.Connection,
    adapter: StoredAdapter,
    model: str,
    model_hash: str,
    passage: Passage,
    edits: Sequence[SelfEdit],
    scores: dict,
) -> str:
    """Stores a memory, in the place of a damaged row with its id. Returns the row's seal."""
    packed_edits, record = packed(passage, edits, scores)
    id, size_bytes = memory_id(adapter.weights_hash, passage, model_hash), adapter.size_bytes + len(packed_edits)
    fields = (id, passage.id, model, model_hash, adapter.address, adapter.weights_hash, now(), size_bytes + len(record))
    insert(connection, (*fields, record), packed_edits, row_seal := seal(*fields, record), passage.library)
    return row_seal


def packed(passage: Passage, edits: Sequence[SelfEdit], scores: dict) -> tuple[bytes, bytes]:
    """The columns `edits` and `record`; the latter has the hash of the former."""
    packed_edits = pack([asdict(edit) for edit in edits])
    return packed_edits, pack(
        {"passage": passage_fields(passage), "scores": scores, "edits": sha256(packed_edits).hexdigest()}
    )


def passage_fields(passage: Passage) -> dict:
    """What is stored of a passage. Its units are needed where it is about a library, for writing code."""
    of_libraries = () if passage.library else ("library", "units")
    return {name: value for name, value in asdict(passage).items() if name not in of_libraries}


def stored_passage(fields: dict) -> Passage:
    """The passage that `passage_fields` told."""
    units = tuple(Unit(kind, text, tuple(headings)) for kind, text, headings in fields.get("units", ()))
    return Passage(**fields | {"units": units})


def insert(connection: sqlite3.Connection, fields: tuple, edits: bytes, seal: str, library: str = "") -> None:
    names = "id passage_id model model_hash adapter adapter_hash created size_bytes record edits seal library".split()
    updates = ", ".join(f"{name} = excluded.{name}" for name in names)
    connection.execute(
        f"INSERT INTO memories({', '.join(names)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        f"ON CONFLICT(id) DO UPDATE SET {updates}",
        (*fields, edits, seal, library),
    )


def entry(row: tuple) -> MemoryEntry:
    """The entry of a row of `COLUMNS`; raises MemoryStoreError if the row is not what was stored."""
    *fields, row_seal, library = row
    id, _, model, model_hash, _, adapter_hash, created, size_bytes, packed = fields
    try:
        if row_seal != seal(*fields):
            raise ValueError("its record has changed")
        record = unpack(packed)
        passage = stored_passage(record["passage"])
        if memory_id(adapter_hash, passage, model_hash) != id or passage.library != library:
            raise ValueError("its id or its library does not fit it")
        return MemoryEntry(id, model, model_hash, adapter_hash, created, size_bytes, passage, record["scores"])
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise corrupt(checked_id(id), error) from error


def load(connection: sqlite3.Connection, id: str) -> MemoryEntry:
    row = connection.execute(f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,)).fetchone()
    if not row:
        raise corrupt(id, "its record is lost")
    return entry(row)


def load_with_edits(connection: sqlite3.Connection, id: str) -> tuple[MemoryEntry, list[SelfEdit]]:
    """All of a memory's record; raises MemoryStoreError if any of it is not what was stored."""
    return load(connection, id), load_edits(connection, id)


def load_edits(connection: sqlite3.Connection, id: str) -> list[SelfEdit]:
    packed, record = connection.execute("SELECT edits, record FROM memories WHERE id = ?", (id,)).fetchone()
    try:
        if sha256(packed).hexdigest() != unpack(record)["edits"]:
            raise ValueError("its edits have changed")
        return _self_edits(unpack(packed))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise corrupt(id, error) from error


def _self_edits(edits: list[dict]) -> list[SelfEdit]:
    return [SelfEdit(**edit | {"examples": tuple(Example(**x) for x in edit["examples"])}) for edit in edits]


def corrupt(id: str, error: object) -> MemoryStoreError:
    return MemoryStoreError(f"memory {id} is corrupt: {error}; `selfedit memory forget {id}` deletes it")


def exists(connection: sqlite3.Connection, id: str) -> bool:
    return connection.execute("SELECT 1 FROM memories WHERE id = ?", (id,)).fetchone() is not None


def intact_seal(connection: sqlite3.Connection, id: str) -> str | None:
    """The seal of a memory's row, if all of it is as it was stored."""
    try:
        load_with_edits(connection, id)
    except MemoryStoreError:
        return None
    return connection.execute("SELECT seal FROM memories WHERE id = ?", (id,)).fetchone()[0]


def active_of(connection: sqlite3.Connection, passages: Iterable[tuple[str, str]]) -> list[str]:
    """The active memories of these (passage id, model hash) pairs."""
    memories = "SELECT id FROM memories JOIN active ON memory_id = id"
    query = f"{memories} WHERE passage_id = ? AND model_hash = ? ORDER BY position"
    return [id for passage in passages for (id,) in connection.execute(query, passage)]


def libraries(connection: sqlite3.Connection, model_hash: str) -> dict[str, list[str]]:
    """The active memories of a model (of all, if it is empty) that have a tag, by their tags."""
    query = (
        "SELECT library, id FROM memories JOIN active ON memory_id = id "
        "WHERE library != '' AND ? IN ('', model_hash) ORDER BY position"
    )
    tagged: dict[str, list[str]] = {}
    for library, id in connection.execute(query, (model_hash,)):
        tagged.setdefault(library, []).append(id)
    return tagged


def sources(connection: sqlite3.Connection, id: str) -> set[str]:
    """Where the passage of a memory is, as far as is known."""
    return {source for (source,) in connection.execute("SELECT source FROM sources WHERE memory_id = ?", (id,))}


def set_sources(connection: sqlite3.Connection, id: str, sources: Iterable[str]) -> None:
    connection.execute("DELETE FROM sources WHERE memory_id = ?", (id,))
    rows = [(id, source, text_hash(id, source)) for source in sources]
    connection.executemany("INSERT INTO sources VALUES (?, ?, ?)", rows)


def texts_of(connection: sqlite3.Connection, ids: Iterable[str]) -> list[str]:
    """The stored memories without an adapter of the passages of these memories."""
    query = (
        "SELECT other.id FROM memories JOIN memories AS other USING (passage_id, model_hash) "
        "WHERE memories.id = ? AND other.adapter = ''"
    )
    return [text for id in ids for (text,) in connection.execute(query, (id,))]


# Adapters


def adapter_of(connection: sqlite3.Connection, id: str) -> tuple[str, str]:
    """The address of a memory's own adapter and the hash of its weights."""
    return connection.execute("SELECT adapter, adapter_hash FROM memories WHERE id = ?", (id,)).fetchone()


def addresses(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT adapter FROM memories UNION SELECT adapter FROM shared")
    return {address for (address,) in rows if address}


def set_verified(connection: sqlite3.Connection, stamps: Mapping[str, str]) -> None:
    """Notes that the adapters with these addresses were intact when their files had these stamps."""
    connection.executemany("INSERT OR REPLACE INTO verified VALUES (?, ?)", stamps.items())


def shared_id(adapter: StoredAdapter, members: Sequence[str], rehearsed: Sequence[str]) -> str:
    return text_hash(adapter.weights_hash, *members, "", *rehearsed)[:12]


def write_shared(
    connection: sqlite3.Connection,
    adapter: StoredAdapter,
    members: Sequence[str],
    rehearsed: Sequence[str],
    scores: dict,
    edits: Mapping[str, Sequence[SelfEdit]],
) -> tuple[str, str]:
    """Stores a shared adapter unless it is there already; returns its id and its seal."""
    id = shared_id(adapter, members, rehearsed)
    row = connection.execute("SELECT * FROM shared WHERE id = ?", (id,)).fetchone()
    if row and row[-1] == seal(*row[:-1]):
        return id, row[-1]
    studied = {member: [asdict(edit) for edit in of_member] for member, of_member in edits.items()}
    record = pack({"members": list(members), "rehearsed": list(rehearsed), "scores": scores, "edits": studied})
    fields = (id, adapter.address, adapter.weights_hash, now(), record)
    connection.execute("INSERT OR REPLACE INTO shared VALUES (?, ?, ?, ?, ?, ?)", (*fields, row_seal := seal(*fields)))
    return id, row_seal


def shared_adapter(connection: sqlite3.Connection, id: str) -> tuple[str, str]:
    """The address of a shared adapter and the hash of its weights."""
    _, address, weights_hash, *_ = _shared_row(connection, id)
    return address, weights_hash


def shared_record(connection: sqlite3.Connection, id: str) -> tuple[dict, dict[str, list[SelfEdit]]]:
    """The scores of a shared adapter, and what was studied for it alone, by memory."""
    row = _shared_row(connection, id)
    try:
        record = unpack(row[4])
        return record["scores"], {id: _self_edits(edits) for id, edits in record.get("edits", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise corrupt_shared(id, error) from error


def _shared_row(connection: sqlite3.Connection, id: str) -> tuple:
    row = connection.execute("SELECT * FROM shared WHERE id = ?", (id,)).fetchone()
    if not row or row[-1] != seal(*row[:-1]):
        raise corrupt_shared(id, "its record has changed" if row else "it is missing")
    return row


def corrupt_shared(id: str, error: object) -> MemoryStoreError:
    return MemoryStoreError(f"shared adapter {id} is corrupt: {error}; `selfedit memory consolidate` makes it anew")


def trained_on(connection: sqlite3.Connection, ids: Collection[str]) -> list[str]:
    """The shared adapters that were trained on any of these memories, or that no longer say on which."""
    trained = []
    for id, packed in connection.execute("SELECT id, record FROM shared"):
        try:
            record = unpack(packed)
            studied = {*record["members"], *record["rehearsed"]}
        except (ValueError, KeyError, TypeError, zlib.error):
            studied = {*ids}
        if studied & {*ids}:
            trained.append(id)
    return trained


def pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), 9)


def unpack(data: bytes):
    return json.loads(zlib.decompress(data))


def seal(*fields: object) -> str:
    return text_hash(*(sha256(f).hexdigest() if isinstance(f, bytes) else str(f) for f in fields))
