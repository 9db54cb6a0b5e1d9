"""What a person types to name memories or a former state → ids, or a version.

A memory is named by its id or by the start of it (at least 4 characters, as long as only one memory fits), by its
source, by the day on which it was kept, or by the tag of a library. All functions raise MemoryStoreError if nothing
fits, or several things do; `home` is for their messages.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import suppress
from pathlib import Path

from selfedit.errors import LibraryError, MemoryStoreError
from selfedit.libraries import Library
from selfedit.memory import versions


def one(connection: sqlite3.Connection, prefix: str, home: Path) -> str:
    """The id that begins so."""
    ids = _with_prefix(connection, prefix)
    if not ids:
        raise MemoryStoreError(
            f"no memory in {home} starts with {prefix!r} (at least 4 characters); see `selfedit memory list`"
        )
    if len(ids) > 1:
        raise MemoryStoreError(f"{prefix!r} fits {len(ids)} memories ({', '.join(ids)}); give more characters")
    return ids[0]


def several(connection: sqlite3.Connection, selector: str, home: Path) -> tuple[list[str], bool]:
    """The memories, active or not, oldest first, that an id, a source (its whole path, or its name), a day or the tag
    of a library selects; and whether the selector is an id."""
    by_id = _with_prefix(connection, selector)
    if by_id == [selector]:
        return by_id, True
    path = os.path.abspath(selector)
    rows = connection.execute("SELECT DISTINCT source FROM sources")
    sources = sorted(source for (source,) in rows if selector in (source, Path(source).name) or path == source)
    tag = ""
    with suppress(LibraryError):
        tag = str(Library.parse(selector))
    rows = connection.execute(
        "SELECT id FROM memories WHERE substr(created, 1, 10) = ? OR (library != '' AND library = ?) "
        "ORDER BY created, id",
        (selector, tag),
    )
    of_day_or_tag = [versions.checked_id(id) for (id,) in rows]
    if by_id and (sources or of_day_or_tag):
        raise MemoryStoreError(
            f"{selector!r} is the start of an id ({', '.join(by_id)}) and a source or a day "
            f"({', '.join(sources) or selector}); give the whole id or the whole path"
        )
    if by_id:
        return [one(connection, selector, home)], True
    if len(sources) > 1:
        raise MemoryStoreError(f"{selector!r} fits {len(sources)} sources ({', '.join(sources)}); give the whole path")
    if not of_day_or_tag and not sources:
        raise MemoryStoreError(
            f"no memory in {home} has an id, a source, a day or a tag {selector!r}; see `selfedit memory list --all`"
        )
    if of_day_or_tag:
        return of_day_or_tag, False
    query = "SELECT id FROM memories JOIN sources ON memory_id = id WHERE source = ? ORDER BY created, id"
    return [versions.checked_id(id) for (id,) in connection.execute(query, sources)], False


def version(connection: sqlite3.Connection, to: str, past: dict[int, dict], home: Path) -> int:
    """A version (`3`, `v3`), or of a memory the version that last made it active. `past`: records by version."""
    if re.fullmatch(r"v?\d{1,11}", to):  # an id has 12 characters
        number, ids = int(to.removeprefix("v")), _with_prefix(connection, to)
        if number in past and not ids:
            return number
        if number in past:
            raise MemoryStoreError(
                f"{to} is a version and the start of a memory's id ({', '.join(ids)}); give v{number} or the id"
            )
        if not ids:
            raise MemoryStoreError(f"there is no version {number}; those to go back to are 0 to {max(past)}")
    id = one(connection, to, home)
    activated = [n for n, line in past.items() if line["action"] in ("keep", "approve") and id in line["memories"]]
    if not activated:
        raise MemoryStoreError(f"memory {id} was never active in {home}, so there is no such state")
    return max(activated)


def _with_prefix(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """The ids that begin so; of memories whose record is lost only if there is no other."""
    if not re.fullmatch("[0-9a-f]{4,12}", prefix):
        return []
    rows = connection.execute("SELECT id FROM memories WHERE id BETWEEN ? AND ? || 'g' ORDER BY id", (prefix, prefix))
    ids = [versions.checked_id(id) for (id,) in rows]
    return ids or sorted(id for id in versions.kept(versions.lines(connection)) if id.startswith(prefix))
