"""The retrieval index as a part of the database: filled from the stored memories, compared with them, and replaced.

The index can always be made anew, so damage to it is never fatal.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from hashlib import sha256

from selfedit.errors import MemoryStoreError
from selfedit.memory import database, entries, route, versions


def replace(connection: sqlite3.Connection) -> None:
    """Replaces the index, inside the caller's transaction, by a new one of all memories that can be read.

    The old tables are removed from the schema without reading them, as damaged ones cannot be dropped. Their pages are
    lost until VACUUM, which the caller runs after the commit.
    """
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute("DELETE FROM sqlite_master WHERE name GLOB 'index_*' OR tbl_name GLOB 'index_*'")
    finally:
        connection.execute("PRAGMA writable_schema = RESET")
    database.create_index(connection)
    _fill(connection, connection)


def expected(connection: sqlite3.Connection) -> sqlite3.Connection:
    """What the index should be, in a database in memory."""
    index = database.empty()
    rows = [(id, place.position) for id, place in versions.present(connection).items()]
    index.executemany("INSERT INTO active(memory_id, position) VALUES (?, ?)", rows)
    _fill(connection, index)
    return index


def is_sound(connection: sqlite3.Connection) -> bool:
    """Whether the index is the one that the memories should have."""
    is_intact = connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
    return is_intact and content_hash(connection) == content_hash(expected(connection))


def content_hash(connection: sqlite3.Connection) -> str:
    """SHA-256 of all that the index says, however it is laid out."""
    connection.execute("DROP TABLE IF EXISTS temp.index_instances")
    connection.execute("CREATE VIRTUAL TABLE temp.index_instances USING fts5vocab('main', 'index_words', 'instance')")
    digest = sha256()
    for query in (
        "SELECT memory_id, model_hash, language, stretches, active, words FROM index_memories ORDER BY memory_id",
        "SELECT * FROM index_totals WHERE stretches > 0 ORDER BY model_hash, language",
        "SELECT term, memory_id FROM temp.index_instances LEFT JOIN index_memories ON number = doc "
        "ORDER BY term, memory_id",
        "SELECT term, doc FROM index_counts ORDER BY term",
        "SELECT value FROM meta WHERE key = 'index_format'",
    ):
        for row in connection.execute(query):
            digest.update(repr(row).encode(errors="replace"))
    connection.execute("DROP TABLE temp.index_instances")
    return digest.hexdigest()


def _fill(connection: sqlite3.Connection, index: sqlite3.Connection) -> None:
    for (id,) in connection.execute("SELECT id FROM memories ORDER BY created, id").fetchall():
        with suppress(MemoryStoreError):  # a corrupt one is reported where it is read
            entry, edits = entries.load_with_edits(connection, id)
            route.add(index, id, entry.model_hash, entries.learned_text(entry.passage, edits))
