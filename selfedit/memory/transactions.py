"""Reading and writing transactions on the database of one home; each thread has its own connection.

In a transaction of either kind all statements see one state. A writer that is killed leaves nothing but an adapter
folder that no row refers to, which the next writer removes. What `forget` deletes from the disk after its commit is
noted in the table `unfinished`; if the process is killed meanwhile, the next writer does it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory import database, entries, index, migrate
from selfedit.memory.adapters import BEFORE_MIGRATION, AdapterFolders
from selfedit.memory.database import transaction

REPLIES = "replies.jsonl"
"""What a remote writer replied about the passages, in the home; deleted by every `forget`, since it has their text."""
_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process: closing them here would disturb it."""


class DamagedError(MemoryStoreError):
    """SQLite cannot read the database."""


class Transactions:
    def __init__(self, home: Path, lock_timeout_s: float):
        self.home, self.path, self.lock_timeout_s = home, home / "memory.db", lock_timeout_s
        self.adapters = AdapterFolders(home)
        self._local = threading.local()

    @property
    def _opened(self) -> tuple[int | None, int | None, sqlite3.Connection | None]:
        """The process that opened this thread's connection, the inode of the file, and the connection."""
        return getattr(self._local, "opened", (None, None, None))

    def close(self) -> None:
        """Closes this thread's connection; the next use opens another."""
        process, _, connection = self._opened
        if connection and process != os.getpid():
            _inherited.append(connection)
        elif connection:
            connection.close()
        self._local.opened = (None, None, None)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the database, whatever others write meanwhile."""
        with self.errors("read"):
            connection = self.connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if connection is not self._opened[2]:
                    connection.close()

    @contextmanager
    def writing(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction: no other process writes meanwhile; all of it happens, or nothing."""
        with self.errors("write to"):
            connection = self.connection(write=True, create=create)
            self._finish_forgetting(connection)
            try:
                with transaction(connection):
                    if self.adapters.was_killed():
                        self._clear_adapters(connection)
                    yield connection
            except BaseException:
                with suppress(sqlite3.Error, OSError), transaction(connection):
                    self._clear_adapters(connection)
                raise
            self.adapters.finish()

    def _clear_adapters(self, connection: sqlite3.Connection) -> None:
        """Deletes the adapters that nothing refers to; none where the home has lost its database."""
        if connection is self._opened[2]:
            self.adapters.clear(entries.addresses(connection))

    def finish_forgetting(self) -> bool:
        """Deletes from the disk what `forget` has deleted from the database.

        False if another process still reads the former state, so that copies of its pages have to stay for now.
        """
        with self.errors("write to"):
            return self._finish_forgetting(self.connection(write=True))

    def _finish_forgetting(self, connection: sqlite3.Connection) -> bool:
        rows = connection.execute("SELECT what FROM unfinished").fetchall()
        if not rows:
            return True
        forgotten = {part for (what,) in rows for part in what.split()}

        def is_forgotten(record: dict) -> bool:
            of_record = [str(record.get(key)) for key in ("passage", "memory", "quarantined", "text")]
            return not forgotten.isdisjoint([*of_record, *record.get("passages", ())])

        for file in self.home.glob("runs/*/*"):
            if file.resolve().is_relative_to(self.home.resolve()):
                if file.name == "trials.jsonl":
                    Journal(file).drop(is_forgotten)
                elif file.suffix in disk.TURN and file.stem.removeprefix(".") in forgotten:
                    file.unlink(missing_ok=True)  # a passage's id is the hash of its text
        with transaction(connection):
            self._clear_adapters(connection)
        (self.home / REPLIES).unlink(missing_ok=True)
        self.adapters.delete(BEFORE_MIGRATION)
        connection.execute("VACUUM")
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            connection.executemany("DELETE FROM unfinished WHERE what = ?", rows)
        return not busy

    def rebuild_index(self) -> None:
        """Replaces the retrieval index by a new one of all stored memories that can be read."""
        with self.errors("write to"):
            connection = self.connection(write=True)
            with transaction(connection):
                index.replace(connection)
            connection.execute("VACUUM")

    def connection(self, write: bool = False, create: bool = False) -> sqlite3.Connection:
        """This thread's connection. For a home that does not exist, an empty database in memory, unless `create`."""
        try:
            file = os.stat(self.path)
        except FileNotFoundError:
            file = None
        process, inode, connection = self._opened
        if connection and file and (process, inode) == (os.getpid(), file.st_ino):
            return connection
        self.close()
        if migrate.is_pending(self.home):
            if not self.is_writable():
                raise MemoryStoreError(
                    f"{self.home} was written by an earlier selfedit and has to be upgraded once, "
                    f"but it is read-only; make it writable"
                )
            migrate.migrate(self.home, self.lock_timeout_s)
        elif file is None and not create:
            return database.empty()
        elif self._is_empty() and self.adapters.addresses() and self._is_empty():  # not if it was just created
            raise MemoryStoreError(
                f"{self.home} has adapters but no memory.db: restore it from a backup, choose another home, or delete "
                f"{self.adapters.folder} to begin anew"
            )
        elif not self.is_writable() and not write:
            return database.connect(self.path, readonly=True, timeout_s=self.lock_timeout_s)
        self.home.mkdir(parents=True, exist_ok=True)
        connection = database.connect(self.path, timeout_s=self.lock_timeout_s)
        self._local.opened = (os.getpid(), os.stat(self.path).st_ino, connection)
        if not database.index_is_current(connection):
            self.rebuild_index()
        return connection

    def _is_empty(self) -> bool:
        return not self.path.exists() or not self.path.stat().st_size

    def is_writable(self) -> bool:
        return all(os.access(path, os.W_OK) for path in (self.home, self.path) if path.exists())

    @contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """What the disk or SQLite objects to, as one clear line."""
        what = f"{verb} {self.home} (--home or SELFEDIT_HOME)"
        with disk.plain_errors(what, MemoryStoreError):
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
                raise kind(f"cannot {what}: {error}; correct that or choose another folder") from error
            except sqlite3.Error as error:
                raise DamagedError(f"{self.path} is damaged: {error}; restore it from a backup") from error


class IndexReader:
    """Reads for a router. A damaged index is replaced: in memory, if the home cannot be written."""

    def __init__(self, transactions: Transactions):
        self._database = transactions
        self._in_memory: sqlite3.Connection | None = None
        self._is_current = False
        """Whether the index was found to have the present format."""

    def execute(self, statement: str, values: Sequence = ()) -> list[tuple]:
        if self._in_memory:
            return self._in_memory.execute(statement, values).fetchall()
        try:
            return self._read(statement, values)
        except DamagedError:
            if self._database.is_writable():
                self._database.rebuild_index()
                return self._read(statement, values)
            with self._database.reading() as connection:
                self._in_memory = index.expected(connection)
            return self.execute(statement, values)

    def _read(self, statement: str, values: Sequence) -> list[tuple]:
        with self._database.reading() as connection:
            self._is_current = self._is_current or database.index_is_current(connection)
            if not self._is_current:  # of an older selfedit, in a home that cannot be written
                raise DamagedError(f"{self._database.path} has an index of an older selfedit")
            return connection.execute(statement, values).fetchall()
