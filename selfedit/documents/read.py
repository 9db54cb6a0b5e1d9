"""Names of files, folders, web addresses and packages → Passages.

In: names of sources. Out: a Reading: the passages in the order of the sources, without repetitions within a document,
and a reason for everything that was left out. `walk` lists a folder, `worker` fetches and converts in a child process,
and `passages` splits. One bad document never ends the job: it is left out with its reason, and the others are read.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

from selfedit.config import LearnConfig
from selfedit.documents import worker
from selfedit.documents.fetch import public_url, requested_url, unzipped, without_password
from selfedit.documents.package import library_of
from selfedit.documents.passages import split
from selfedit.documents.records import Document, Raw, Reading, Skipped, shortened
from selfedit.documents.walk import walk, without_links
from selfedit.errors import DocumentError
from selfedit.libraries import PACKAGE
from selfedit.text import count_words
from selfedit.types import Passage, Progress, as_utf8, no_progress

MAX_BYTES = 20_000_000
_ADVICE = "check the path (a web address starts with http:// or https://)"
_SAME_SOURCE = (
    "another page was read under this address, as the two differ only in what is not recorded (a password, or a "
    "parameter that is named like a secret); save this one to a file"
)
_SHOWN = 3
"""Reasons in the message that nothing could be read."""


class Intake(NamedTuple):
    """What may be read, and what is read in spite of the usual rules."""

    include: Sequence[str] = ()
    """Patterns, as in .gitignore, of files in folders and packages that are read although the rules leave them out."""
    exclude: Sequence[str] = ()
    """Patterns of files that are not read."""
    allow_private: bool = False
    """Whether web addresses in private networks are read."""
    max_bytes: int = MAX_BYTES
    """The limit for a file or a download."""
    timeout_s: float = 20.0
    """The limit for a whole download."""


def read_documents(
    sources: Sequence[str],
    *,
    passage_words: int = LearnConfig.passage_words,
    length: Callable[[str], int] = count_words,
    library: str = "",
    intake: Intake = Intake(),
    progress: Progress = no_progress,
) -> Reading:
    """Reads and splits documents into passages of at most `passage_words`, as `length` counts them.

    A document of up to 1.25 times that length stays whole. A passage that occurs in several documents is returned once
    per document. `library`: as in `split_documents`. Raises DocumentError if nothing can be read.
    """
    documents, skipped = load_documents(sources, intake, progress)
    return Reading(split_documents(documents, passage_words, length, library), skipped)


def load_documents(
    sources: Sequence[str], intake: Intake = Intake(), progress: Progress = no_progress
) -> tuple[list[Document], list[Skipped]]:
    """Returns the documents, and what was left out. Raises DocumentError if nothing can be read."""
    items = [item for source in dict.fromkeys(sources) for item in _items(source, intake)]
    documents: dict[str, Document] = {}
    addresses: dict[str, str] = {}  # source → what was requested
    skipped: list[Skipped] = []
    for i, item in enumerate(items):
        progress("read", i, len(items))
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        try:
            for raw in _raws(item, intake, skipped):
                try:
                    if raw.source not in documents:
                        documents[raw.source] = worker.convert(raw)
                        addresses[raw.source] = _requested(item)
                    elif _requested(item) != addresses[raw.source]:
                        skipped.append(Skipped(raw.source, _SAME_SOURCE))
                except DocumentError as error:
                    skipped.append(_skipped(raw.source, error))
        except DocumentError as error:
            skipped.append(_skipped(item, error))
    progress("read", len(items), len(items))
    if not documents:
        raise _nothing_read(skipped)
    return list(documents.values()), skipped


def _nothing_read(skipped: Sequence[Skipped]) -> DocumentError:
    """The error that gives the first reasons."""
    reasons = [f"{source}: {reason}" for source, reason in skipped]
    if len(reasons) == 1:
        return DocumentError(reasons[0])
    more = f"; and {len(reasons) - _SHOWN:,} more" if len(reasons) > _SHOWN else ""
    return DocumentError(f"there is nothing to read: {'; '.join(reasons[:_SHOWN])}{more}")


def split_documents(
    documents: Sequence[Document], passage_words: int, length: Callable[[str], int] = count_words, library: str = ""
) -> list[Passage]:
    """Splits each document into passages of at most `passage_words`, as `length` counts them.

    `library`: the tag of all passages, in place of that of the package that ships a document.
    """
    passages: dict[tuple[str, str], Passage] = {}
    for document in documents:
        for passage in split(document, passage_words=passage_words, length=length):
            tag = library or library_of(document.source)
            passage = replace(passage, title=shortened(passage.title), library=tag)
            passages.setdefault((passage.id, passage.source), passage)
    return list(passages.values())


def read_text(path: str | PurePath, max_bytes: int = MAX_BYTES) -> str:
    """Returns the text of a file in UTF-8, or UTF-16 with a byte-order mark; raises DocumentError on anything else.

    A file whose name ends in .gz is unzipped; `max_bytes` limits both its zipped and its unzipped size.
    """
    name = str(path)
    data = _file_bytes(name, max_bytes)
    if name.lower().endswith(".gz"):
        data = unzipped(name, data, max_bytes)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    if b"\0" in data and encoding == "utf-8":
        raise DocumentError(f"{name}: a binary file (it has NUL bytes); save it as UTF-8 text")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        raise DocumentError(f"{name}: cannot be decoded as {encoding} ({error}); save it as UTF-8 text") from None


def _items(source: str, intake: Intake) -> Iterator[str | Skipped]:
    """The source, or the files of a folder and what is left out of it."""
    try:
        if not os.path.isdir(source):  # False for a name that is impossible
            yield source
            return
        is_empty = True
        for item in without_links(walk(source, _is_readable, _is_code, include=intake.include, exclude=intake.exclude)):
            is_empty = False
            yield item
        if is_empty:
            raise DocumentError(f"{source}: an empty folder; put documents there")
    except DocumentError as error:
        yield _skipped(source, error)


def _raws(source: str, intake: Intake, skipped: list[Skipped]) -> Iterator[Raw]:
    if source.startswith(PACKAGE):
        raws, left_out = worker.read_package(source, include=intake.include, allow_private=intake.allow_private)
        yield from raws
        if left_out:
            skipped.append(Skipped(raws[0].source.rpartition("/")[0], f"{left_out:,} files that are no documentation"))
    elif _is_web(source):
        limits = {"max_bytes": intake.max_bytes, "seconds": intake.timeout_s, "allow_private": intake.allow_private}
        yield worker.fetch(source, public_url(source), **limits)
    else:
        yield Raw(os.path.abspath(source), os.path.basename(source), _file_bytes(source, intake.max_bytes, _ADVICE))


def _is_web(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _requested(source: str) -> str:
    """The whole address of a web page; empty for files and packages, whose sources have no secrets."""
    return requested_url(source) if _is_web(source) else ""


def _skipped(source: str, error: DocumentError) -> Skipped:
    """What the error says, divided: its message begins with the source, which may be written in another way."""
    message = str(error)
    for name in (source, repr(source)):
        if message.startswith(f"{name}: "):
            return Skipped(as_utf8(source) or name, message.removeprefix(f"{name}: "))
    return Skipped(*message.split(": ", 1)) if ": " in message else Skipped(as_utf8(source), message)


def _is_readable(name: str) -> bool:
    from selfedit.documents.convert import READABLE  # here, since only folders need it, and it loads every parser

    return PurePath(name).suffix.lower() in READABLE


def _is_code(name: str) -> bool:
    from selfedit.documents.convert import CODE

    return PurePath(name).suffix.lower() in CODE


def _file_bytes(path: str, max_bytes: int, advice: str = "check the path") -> bytes:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        shown = without_password(path) if ":" in path else path  # it may be a misspelt address
        raise DocumentError(f"{shown!r}: no such file or folder; {advice}") from None
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise DocumentError(f"{path}: a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError(f"{path}: neither a file nor a folder; save its content to a file")
    if status.st_size > max_bytes:
        size = f"{status.st_size / 1e6:.1f} MB, over the limit of {max_bytes / 1e6:g} MB"
        raise DocumentError(f"{path}: {size}; split it")
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None
