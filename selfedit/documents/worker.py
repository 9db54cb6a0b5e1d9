"""The operations on bytes from outside, which run in a child process: fetch, read_package, convert.

A document whose reading exceeds a limit of time, memory or output raises a DocumentError, and the next one is read by
a new process.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from selfedit.documents.records import Block, Document, Raw
from selfedit.errors import DocumentError
from selfedit.types import Unit, as_utf8
from selfedit.worker import Worker, WorkerError, serve

SECONDS = 27.0
"""Time limit for the conversion of a document."""
PACKAGE_SECONDS = 120.0

worker = Worker("selfedit.documents.worker")


def convert(raw: Raw) -> Document:
    """Converts a document in the child process. Raises DocumentError."""
    return _document(_request(raw.source, SECONDS, "convert", raw=_packed(raw)))


def fetch(url: str, source: str, *, max_bytes: int, seconds: float, allow_private: bool) -> Raw:
    """Fetches a document in the child process. Raises DocumentError."""
    options = {"url": url, "max_bytes": max_bytes, "allow_private": allow_private}
    return _unpacked(_request(source, seconds, "fetch", **options, timeout_s=seconds))


def read_package(spec: str, *, include: Sequence[str], allow_private: bool) -> tuple[list[Raw], int]:
    """Reads the documentation of a package, and the files that match a pattern, in the child process; also counts the
    other files. Raises DocumentError."""
    options = {"spec": spec, "include": list(include), "allow_private": allow_private}
    documents, left_out = _request(spec, PACKAGE_SECONDS, "package", **options)
    return list(map(_unpacked, documents)), left_out


def _request(source: str, seconds: float, operation: str, **fields: object):
    try:
        reply = worker.request(seconds, operation=operation, **fields)
    except WorkerError as error:
        advice = "split it, or save it as plain text" if operation == "convert" else "try again later"
        raise DocumentError(f"{source}: {error}; {advice}") from None
    if "error" in reply:
        raise DocumentError(reply["error"])
    return reply["value"]


def _packed(raw: Raw) -> list:
    return list(raw._replace(data=base64.b64encode(raw.data).decode()))


def _unpacked(fields: list) -> Raw:
    raw = Raw(*fields)
    return raw._replace(data=base64.b64decode(raw.data))


def _document(fields: list) -> Document:
    source, title, blocks = fields
    return Document(source, title, tuple(map(_block, blocks)))


def _block(fields: list) -> Block:
    parts, units, headings, *rest = fields
    units = (Unit(kind, text, tuple(above)) for kind, text, above in units)
    return Block(tuple(parts), tuple(units), tuple(headings), *rest)


# In the child


def _reply(operation: str, **fields) -> dict:
    try:
        return {"value": _OPERATIONS[operation](**fields)}
    except MemoryError:
        raise
    except DocumentError as error:
        return {"error": as_utf8(str(error))}
    except Exception as error:  # a library failed on a damaged document
        source = Raw(*fields["raw"]).source if "raw" in fields else fields.get("spec") or fields["url"]
        return {"error": as_utf8(f"{source}: damaged, or of an unknown kind ({type(error).__name__}); save it as text")}


def _convert(raw: list) -> Document:
    from selfedit.documents.convert import convert

    return convert(_unpacked(raw))


def _fetch(url: str, timeout_s: float, **options) -> list:
    from selfedit.documents.fetch import fetch

    return _packed(fetch(url, seconds=timeout_s, **options))


def _read_package(spec: str, include: list[str], allow_private: bool) -> tuple[list, int]:
    from selfedit.documents.package import is_documentation, read_package
    from selfedit.documents.walk import matches

    def is_wanted(path: str) -> bool:
        return is_documentation(path) or matches(path, include)

    seconds = PACKAGE_SECONDS / 2
    documents, left_out = read_package(spec, seconds=seconds, is_wanted=is_wanted, allow_private=allow_private)
    return list(map(_packed, documents)), left_out


_OPERATIONS = {"convert": _convert, "fetch": _fetch, "package": _read_package}


def main() -> None:
    serve(_reply)
