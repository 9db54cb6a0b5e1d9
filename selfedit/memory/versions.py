"""The versions of a store: each keeps only what it changed, and the hash of all that came before.

In: a change. Out: the history, and any former state. A state says which memories are active, in which order, and which
of them answer from a shared adapter. The table `active` is the present state; `versions` and `changes` are its history,
to which rows are only ever added. A former state is the present one with the later changes undone, newest first.

`previous` is the version that a version followed, `undo_to` the one that undoing it leads to: `previous`, but after an
undo it is the `undo_to` of the version that was gone back to, so undoing again goes further back. `seal` is the SHA-256
of the version, its changes and the seal before: whoever changes one has to change all later ones. In records for people
and in JSON it is called `check`.

All functions take the database connection; those that write run inside the caller's transaction.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from selfedit.errors import MemoryStoreError
from selfedit.types import text_hash

FORMAT = 2
"""Of a version's record; 0 and 1 were lines of a file, see `memory.migrate`."""
START: dict = {"version": 0, "action": None, "memories": [], "undo_to": None}


class Place(NamedTuple):
    """Where an active memory stands."""

    position: int
    shared: str | None = None
    """The shared adapter that answers for it, if not its own."""


State = dict[str, Place]
"""Active memories by id, in no particular order; `ordered` sorts them."""


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def checked_id(id: object) -> str:
    """An id as it was read from outside; raises MemoryStoreError if it is none."""
    if not isinstance(id, str) or not re.fullmatch("[0-9a-f]{12}", id):
        raise MemoryStoreError(f"the store holds {str(id)[:80]!r} where the id of a memory belongs; restore a backup")
    return id


def ordered(state: State) -> list[str]:
    return sorted(state, key=lambda id: state[id].position)


def present(connection: sqlite3.Connection) -> State:
    rows = connection.execute("SELECT memory_id, position, shared FROM active ORDER BY position")
    return {checked_id(id): Place(position, shared and checked_id(shared)) for id, position, shared in rows}


def former(connection: sqlite3.Connection, version: int) -> State:
    """The state that a version led to."""
    state = present(connection)
    rows = connection.execute(f"{_CHANGES} WHERE version > ? ORDER BY version DESC", (version,))
    for _, id, position, _, shared, _ in rows:
        _set(state, id, position, shared)
    return state


def place_of(connection: sqlite3.Connection, id: str) -> Place | None:
    """None: the memory is not active."""
    row = connection.execute("SELECT position, shared FROM active WHERE memory_id = ?", (id,)).fetchone()
    return row and Place(*row)


def end(connection: sqlite3.Connection) -> int:
    """The position behind the last active memory."""
    return connection.execute("SELECT coalesce(max(position), 0) + 1 FROM active").fetchone()[0]


def number(connection: sqlite3.Connection) -> int:
    """The present version."""
    return connection.execute("SELECT coalesce(max(version), 0) FROM versions").fetchone()[0]


def last_undo_to(connection: sqlite3.Connection) -> int | None:
    """The version that undoing the present one leads to."""
    row = connection.execute("SELECT undo_to FROM versions ORDER BY version DESC LIMIT 1").fetchone()
    return row[0] if row else None


def lines(connection: sqlite3.Connection) -> list[dict]:
    """One record per version, oldest first, without the states."""
    return [_line(row) for row in connection.execute(f"{_VERSIONS} ORDER BY version")]


def begun(connection: sqlite3.Connection, since: int, memories: Collection[str]) -> int:
    """The first version from `since` on after which only these memories were kept or superseded."""
    past, actions = lines(connection), ("keep", "quarantine", "supersede")
    while (
        past
        and past[-1]["version"] > since
        and past[-1]["action"] in actions
        and set(past[-1]["memories"]) <= set(memories)
    ):
        past.pop()
    return past[-1]["version"] if past else 0


def history(connection: sqlite3.Connection) -> list[dict]:
    """As `lines`, each with the state that it led to: `active`, and `adapters`, the shared adapter by memory."""
    return [_with_state(_line(row), state) for row, _, state in _replayed(connection)]


def kept(lines: Iterable[dict]) -> list[str]:
    """The memories that were kept and not forgotten, active or not."""
    ids: dict[str, None] = {}
    for line in lines:
        if line["action"] == "forget":
            ids = {id: None for id in ids if id not in line["memories"]}
        elif line["action"] in ("keep", "quarantine", "approve"):
            ids |= dict.fromkeys(line["memories"])
    return list(ids)


def append(
    connection: sqlite3.Connection,
    action: str,
    memories: Iterable[str],
    after: Mapping[str, Place | None],
    *,
    undo_to: int | None = -1,
    **extra: object,
) -> int:
    """Makes a new version the present one and returns its number.

    `after`: the place of each memory that changes; None takes it out of the active ones. As soon as one memory no
    longer answers from a shared adapter, none does; `apart` lists those that answer from their own again.
    """
    after = dict(after)
    before = {id: place for id in after if (place := place_of(connection, id))}
    left = {place.shared for id, place in before.items() if place.shared and _shared(after[id]) != place.shared}
    for shared in sorted(left):
        rows = connection.execute("SELECT memory_id, position FROM active WHERE shared = ?", (shared,)).fetchall()
        for id, position in rows:
            before[id] = Place(position, shared)
            after.setdefault(id, Place(position))
    if action not in ("consolidate", "rollback"):
        apart = {id: place for id, place in before.items() if place.shared and (new := after[id]) and not new.shared}
        extra |= {"apart": ordered(apart)} if apart else {}
    changes = [(id, *columns(before.get(id), after[id])) for id in sorted(after) if before.get(id) != after[id]]
    previous = number(connection)
    undo_to = previous if undo_to == -1 else undo_to
    row = (previous + 1, now(), action, json.dumps(list(memories)), previous, undo_to, json.dumps(extra))
    insert(connection, row, changes)
    moved = {
        id: place for id, place in after.items() if columns(before.get(id), place)[0] != (place and place.position)
    }
    connection.executemany("DELETE FROM active WHERE memory_id = ?", [(id,) for id in moved])
    places = [(id, place.position) for id, place in moved.items() if place]
    connection.executemany("INSERT INTO active(memory_id, position) VALUES (?, ?)", places)
    answering = [(place.shared, id) for id, place in after.items() if place]
    connection.executemany("UPDATE active SET shared = ? WHERE memory_id = ?", answering)
    return previous + 1


def insert(connection: sqlite3.Connection, row: tuple, changes: list[tuple], seal: str | None = None) -> None:
    """Adds a version and its changes to the history; `seal` is computed unless it is given."""
    seal = _seal(_last_seal(connection), row, changes) if seal is None else seal
    connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, seal))
    connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)", [(row[0], *change) for change in changes])


def record(connection: sqlite3.Connection) -> dict:
    """The present version for people and JSON, as the last of `history`."""
    line = _line(connection.execute(f"{_VERSIONS} ORDER BY version DESC LIMIT 1").fetchone())
    return _with_state(line, present(connection))


def faults(connection: sqlite3.Connection) -> list[str]:
    """What is not as it was written, in words."""
    faults: list[str] = []
    seal, last = "", {}
    for row, changes, state in _replayed(connection, faults.append):
        if row[-1] != _seal(seal, row[:-1], changes):
            faults.append(f"version {row[0]} or one before it has been changed")
        seal, last = row[-1], state
    if last != present(connection):
        faults.append("the active memories are not those that the last version led to; restore memory.db from a backup")
    return faults


_VERSIONS = "SELECT version, time, action, memories, previous, undo_to, extra, seal FROM versions"
_CHANGES = "SELECT version, memory_id, position_before, position_after, shared_before, shared_after FROM changes"


def _replayed(
    connection: sqlite3.Connection, note: Callable[[str], object] = lambda fault: None
) -> Iterator[tuple[tuple, list[tuple], State]]:
    """(version, its changes, the state that it led to), oldest first. The state is the same object throughout."""
    changes: dict[int, list[tuple]] = {}
    for version, *change in connection.execute(f"{_CHANGES} ORDER BY version, memory_id"):
        checked_id(change[0])
        changes.setdefault(version, []).append(tuple(change))
    state: State = {}
    for row in connection.execute(f"{_VERSIONS} ORDER BY version").fetchall():
        for id, position_before, position, shared_before, shared in changes.get(row[0], ()):
            if columns(state.get(id), None)[::2] != (position_before, shared_before):
                note(f"version {row[0]} does not fit the one before it")
            _set(state, id, position, shared)
        yield row, changes.get(row[0], []), state


def _line(row: tuple) -> dict:
    version, time, action, memories, previous, undo_to, extra, seal = row
    try:
        memories, extra = json.loads(memories), json.loads(extra)
        line = {"version": version, "format": FORMAT, "time": time, "action": action}
        line |= {"memories": [checked_id(id) for id in memories], "previous": previous, "undo_to": undo_to}
        return line | dict(extra) | {"check": seal}
    except (ValueError, TypeError):
        raise MemoryStoreError(f"version {version} of the store is damaged; restore memory.db from a backup") from None


def _with_state(line: dict, state: State) -> dict:
    active = ordered(state)
    adapters = {id: state[id].shared for id in active if state[id].shared}
    head = {key: line[key] for key in ("version", "format", "time", "action", "memories")}
    return head | {"active": active, "adapters": adapters} | line


def _shared(place: Place | None) -> str | None:
    return place and place.shared


def columns(before: Place | None, after: Place | None) -> tuple:
    (position, shared), (new_position, new_shared) = before or (None, None), after or (None, None)
    return position, new_position, shared, new_shared


def _set(state: State, id: str, position: int | None, shared: str | None) -> None:
    if position is None:
        state.pop(id, None)
    else:
        state[id] = Place(position, shared)


def _last_seal(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT seal FROM versions ORDER BY version DESC LIMIT 1").fetchone()
    return row[0] if row else ""


def _seal(before: str, row: tuple, changes: list[tuple]) -> str:
    return text_hash(before, json.dumps([row, changes]))
