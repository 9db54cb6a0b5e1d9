"""A lock file and the memories of a home → which dependencies have moved, and what their release notes say is new.

A dependency has moved if the memories are about other versions of it than the one that the lock file pins, or if it is
another one than when this lock file was last watched. HOME/watch/ has the versions of the last time, one file per lock
file; the version of a dependency that has moved is written there once its release notes are learned.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from packaging.version import Version

from selfedit import disk
from selfedit.documents import worker
from selfedit.documents.package import is_release_notes
from selfedit.documents.records import Document, Skipped
from selfedit.errors import DocumentError, LibraryError
from selfedit.libraries import PACKAGE, Library, Wanted, applies, newest
from selfedit.locks import find_lock, read_lock
from selfedit.types import text_hash

FOLDER = "watch"
_VERSION = re.compile(r"(?<![\w.])v?(\d{1,9}(?:\.\d{1,9}){1,3})(?:\.?(?:a|b|rc|dev|post)\d+)?(?!\w|\.\d)")
_GUIDE = re.compile(r"migrat|upgrad", re.IGNORECASE)
"""In the path of what is about one change of versions, even if it names none."""
_CHANGE = re.compile(r"\bto\b|→|->")
_YEAR = 1900
"""What begins with a number from this one on is a date, if another version stands beside it."""


@dataclass(frozen=True)
class Moved:
    """A dependency whose pinned version is not the one that is known."""

    library: str
    before: str
    """The version that was watched last or is known from memories; empty: none."""
    now: str

    @property
    def source(self) -> str:
        return f"{PACKAGE}{self.library}@{self.now}"

    @property
    def tag(self) -> str:
        return str(Library.parse(f"{self.library}@{self.now}"))

    def record(self) -> dict:
        return {"library": self.library, "before": self.before or None, "now": self.now, "source": self.source}


class Watch:
    """What was watched of a lock file in a home. A missing home is created by `note` only."""

    def __init__(self, home: Path, place: Path):
        """`place`: the lock file or its folder. Raises LibraryError."""
        if not (lock := find_lock(place)):
            raise LibraryError(f"{place.resolve()} has no lock file; name one")
        self.lock = lock.resolve()
        self._file = home / FOLDER / f"{text_hash(str(self.lock))[:16]}.json"

    def moved(self, tags: Collection[Library], everything: bool = False) -> list[Moved]:
        """The dependencies that have moved; those that are seen for the first time are watched from now on.

        `tags`: of the memories. `everything`: also dependencies that no memory is about and that were never watched.
        Raises LibraryError.
        """
        pins, before = read_lock(self.lock), self._read()
        watched = before.keys() | {tag.name for tag in tags} | (pins.keys() if everything else set())
        present = {name: pins[name] for name in sorted(watched & pins.keys())}
        if new := {name: version for name, version in present.items() if name not in before}:
            self.note(new)
        moved = (_moved(name, now, before.get(name, ""), tags, everything) for name, now in present.items())
        return list(filter(None, moved))

    def note(self, versions: Mapping[str, str]) -> None:
        """Notes that these versions are known."""
        with disk.plain_errors(f"write to {self._file.parent} (--home or SELFEDIT_HOME)", LibraryError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            content = {"lock": str(self.lock), "versions": self._read() | dict(versions)}
            disk.replace(self._file, json.dumps(content, indent=1).encode())

    def _read(self) -> dict[str, str]:
        try:
            versions = json.loads(self._file.read_bytes())["versions"]
            return {str(Library.parse(name).name): str(version) for name, version in versions.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LibraryError(f"{self._file} is damaged ({error}); delete it, and watching begins anew") from None


def _moved(name: str, now: str, watched: str, tags: Collection[Library], everything: bool) -> Moved | None:
    of_library = [tag for tag in tags if tag.name == name]
    if Library.parse(f"{name}@{now}") in of_library:  # its release notes are known
        return None
    if watched and watched != now:
        return Moved(name, watched, now)
    if any(applies(tag, Wanted(name, now)) for tag in of_library) or not (of_library or everything):
        return None
    older = [tag for tag in of_library if tag.lowest and tag.lowest < _point(now)]
    return Moved(name, newest(name, older).version.removeprefix("=="), now)


def _point(version: str) -> Version:
    return Wanted("", f"=={version}").point


# What a package says is new


def release_notes(moved: Moved, allow_private: bool = False) -> tuple[list[Document], list[Skipped]]:
    """The release notes that the package ships: the sections that are newer than the version before; where none is
    known, those of its major version (of 0.x, its minor one). Raises DocumentError if there are none."""
    raws, _ = worker.read_package(moved.source, include=(), allow_private=allow_private)
    documents: dict[str, Document] = {}  # by their texts, as some are in two files
    skipped = []
    for raw in raws:
        if is_release_notes(raw.source):
            try:
                document = worker.convert(raw)
                documents.setdefault(document.text, document)
            except DocumentError as error:
                skipped.append(Skipped(raw.source, str(error).removeprefix(f"{raw.source}: ")))
    found = sorted(documents.values(), key=lambda document: -len(document.text))
    have_versions = any(any(_versions(document)) for document in found)
    kept = [newer(one, moved) for one in found if not have_versions or _is_dated(one)]
    if not (kept := [document for document in kept if document.blocks]):
        reason = skipped[0].reason if skipped else "the package ships no release notes of this version"
        raise DocumentError(f"{reason}; name a file or web page: `selfedit learn FILE|URL --for {moved.tag}`")
    return kept, skipped


def _is_dated(document: Document) -> bool:
    return any(_versions(document)) or bool(_GUIDE.search(document.source))


def _versions(document: Document) -> list[Version | None]:
    """The version that each block is about, by its headings, else by the title of the document or its file name."""
    by_heading = [_first_version(block.headings) for block in document.blocks]
    whole = _first_version((document.title, PurePosixPath(document.source).stem))
    return by_heading if any(by_heading) else [whole] * len(by_heading)


def newer(document: Document, moved: Moved) -> Document:
    """The document with the sections about versions after the one before, up to the one now; whole, if it names no
    versions."""
    versions = _versions(document)
    if not any(versions):
        return document
    now = _point(moved.now)
    before = _point(moved.before) if moved.before else now
    major = Version(".".join(map(str, now.release[: 1 if now.major else 2])))
    is_new = partial(operator.lt, before) if before < now else partial(operator.le, major)
    kept = [
        block for block, version in zip(document.blocks, versions) if version and is_new(version) and version <= now
    ]
    return document._replace(blocks=tuple(kept))


def _first_version(texts: Iterable[str]) -> Version | None:
    """The version in the first of the texts that has one; where a text names a change from one to another, the
    latter."""
    for text in texts:
        found = [Version(match[1]) for match in _VERSION.finditer(text)]
        if versions := [version for version in found if version.major < _YEAR] or found:
            return max(versions) if _CHANGE.search(text) else versions[0]
    return None
