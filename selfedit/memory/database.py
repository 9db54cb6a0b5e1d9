"""The database of a home (`home/memory.db`): how it is opened, which tables it has, and how older ones are upgraded.

Contents: the versions of the store and what each changed, which memories are active, where their passages come from,
what each memory was made of (passage, scores, judging questions, edits; compressed), shared adapters, and the retrieval
index. Adapter weights are not in it: they are folders under `home/adapters` (`memory.store`).

SQLite runs in WAL mode: readers take no lock, one writer at a time holds `BEGIN IMMEDIATE`. `secure_delete` overwrites
deleted content with zeros; a forget also runs VACUUM and truncates the WAL, so no page keeps a copy.

Contract of the retrieval index (`memory.route`), which lives in the same database:

    FORMAT: int                                     raise it whenever the tables or what counts as a word changes;
                                                    the store then rebuilds the index
    create(connection)                              creates the index tables, all named `index_…`, in the caller's
                                                    transaction; called by the migration below and by a rebuild
    add(connection, memory_id, model_hash, text)    adds one memory; cost proportional to the text
    remove(connection, memory_id)                   removes it and every trace of its text (no tombstones in live
                                                    pages); removing an unknown memory does nothing
    Router(connection, model_hash)                  routes to memories of that model that the table `active` lists
    Router.of_texts({id: text}, least=…)            the same, in memory, of a few texts

The index holds every stored memory; `active(memory_id, position)` says which of them may be returned. `add` and
`remove` run inside the writer's transaction and must not commit. VACUUM renumbers implicit rowids, so tables that refer
to rows need an explicit INTEGER PRIMARY KEY. A `sqlite3.DatabaseError` from the index makes the store rebuild it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selfedit.errors import MemoryStoreError
from selfedit.memory import route

BUSY_TIMEOUT_S = 10.0
APPLICATION_ID = 0x5E1FED17
"""In the file's header: tells our database from any other SQLite file."""


def _first_schema(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    for table in ("versions", "changes"):
        for event in ("UPDATE", "DELETE"):
            connection.execute(
                f"CREATE TRIGGER {table}_never_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'versions are immutable'); END"
            )
    create_index(connection)


_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE memories(
    id TEXT PRIMARY KEY, passage_id TEXT NOT NULL, model TEXT NOT NULL, model_hash TEXT NOT NULL,
    adapter TEXT NOT NULL, adapter_hash TEXT NOT NULL, created TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    record BLOB NOT NULL, edits BLOB NOT NULL, seal TEXT NOT NULL
);
CREATE INDEX memories_by_passage ON memories(passage_id, model_hash);
CREATE INDEX memories_by_created ON memories(created);
CREATE TABLE sources(
    memory_id TEXT NOT NULL REFERENCES memories(id) ON DELETE CASCADE, source TEXT NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY(memory_id, source)
) WITHOUT ROWID;
CREATE INDEX sources_by_source ON sources(source);
CREATE TABLE shared(
    id TEXT PRIMARY KEY, adapter TEXT NOT NULL, adapter_hash TEXT NOT NULL, created TEXT NOT NULL,
    record BLOB NOT NULL, seal TEXT NOT NULL
);
CREATE TABLE active(
    memory_id TEXT PRIMARY KEY REFERENCES memories(id), position INTEGER NOT NULL UNIQUE,
    shared TEXT REFERENCES shared(id)
) WITHOUT ROWID;
CREATE INDEX active_by_shared ON active(shared) WHERE shared IS NOT NULL;
CREATE TABLE versions(
    version INTEGER PRIMARY KEY, time TEXT, action TEXT NOT NULL, memories TEXT NOT NULL, previous INTEGER NOT NULL,
    undo_to INTEGER, extra TEXT NOT NULL, seal TEXT NOT NULL
);
CREATE TABLE changes(
    version INTEGER NOT NULL REFERENCES versions(version), memory_id TEXT NOT NULL,
    position_before INTEGER, position_after INTEGER, shared_before TEXT, shared_after TEXT,
    PRIMARY KEY(version, memory_id)
) WITHOUT ROWID;
CREATE TABLE verified(adapter TEXT PRIMARY KEY, stamp TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE unfinished(what TEXT PRIMARY KEY) WITHOUT ROWID
"""


def _add_libraries(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE memories ADD COLUMN library TEXT NOT NULL DEFAULT ''")
    connection.execute("CREATE INDEX memories_by_library ON memories(library) WHERE library != ''")


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_first_schema, _add_libraries]
"""The n-th upgrades a database whose `user_version` is n; append only."""


def connect(path: Path | str, readonly: bool = False, timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Opens the database; unless `readonly`, creates it if it is missing and upgrades it if it is older.

    The connection commits nothing by itself (`isolation_level=None`): a writer begins with `BEGIN IMMEDIATE`. Raises
    MemoryStoreError for a database of a newer program or of another one, sqlite3.Error for what the disk objects to.
    """
    path = Path(path)
    connection = _open(path, "ro" if readonly else "rwc", timeout_s)
    try:
        if readonly:
            connection = _readable(connection, path, timeout_s)
        version = _user_version(connection, path)
        if version < len(MIGRATIONS) and readonly:
            raise MemoryStoreError(f"{path} is of an older selfedit and cannot be upgraded, as it is read-only")
        connection.execute("PRAGMA foreign_keys = ON")
        if not readonly:
            _use_wal(connection, timeout_s)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            if version < len(MIGRATIONS):
                _upgrade(connection, path)
        return connection
    except BaseException:
        connection.close()
        raise


def _open(path: Path, mode: str, timeout_s: float) -> sqlite3.Connection:
    uri = f"{Path(os.path.abspath(path)).as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)


def _readable(connection: sqlite3.Connection, path: Path, timeout_s: float) -> sqlite3.Connection:
    """A read-only WAL database needs its shared-memory file; where that cannot be made, nobody writes: `immutable`."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
        return connection
    except sqlite3.OperationalError:
        if not path.exists() or Path(f"{path}-wal").exists():
            raise
        connection.close()
        return _open(path, "ro&immutable=1", timeout_s)


def _user_version(connection: sqlite3.Connection, path: Path) -> int:
    version, application, tables = connection.execute(  # one statement sees one state: another process may create it
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise MemoryStoreError(f"{path} is not a database of selfedit; choose another home or restore it from a backup")
    if version > len(MIGRATIONS):
        raise MemoryStoreError(
            f"{path} was written by a newer selfedit (format {version}, this one knows {len(MIGRATIONS)}); "
            f"update selfedit"
        )
    return version


def _use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """The first to open a database changes its journal mode; SQLite does not wait for others there, so this does."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """In one transaction; another process may have been faster."""
    with transaction(connection):
        for number in range(_user_version(connection, path), len(MIGRATIONS)):
            MIGRATIONS[number](connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside happens, or nothing; no other process writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def empty() -> sqlite3.Connection:
    """A database in memory that holds nothing."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for migration in MIGRATIONS:
        migration(connection)
    return connection


def create_index(connection: sqlite3.Connection) -> None:
    """Creates an empty retrieval index and notes its format."""
    route.create(connection)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('index_format', ?)", (str(route.FORMAT),))


def index_is_current(connection: sqlite3.Connection) -> bool:
    row = connection.execute("SELECT value FROM meta WHERE key = 'index_format'").fetchone()
    return row == (str(route.FORMAT),)
