"""Files, folders and web addresses → Passages.

In: names of sources. Out: Passages, without repetitions within a document. This module fetches the bytes, `formats`
converts them to text, and `passages` splits the text. A bad file or address raises a DocumentError of one line that
begins with the source. Inside a folder, a bad file is skipped and the reason is passed to `on_skip`.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import PurePath
from time import monotonic

from selfedit.errors import DocumentError
from selfedit.tasks.formats import HTML, READABLE, Document, decode, parse_document
from selfedit.tasks.passages import split_passages
from selfedit.types import Passage

MAX_BYTES = 20_000_000


def read_documents(
    sources: Sequence[str],
    *,
    passage_words: int = 220,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = 20.0,
    on_skip: Callable[[str], None] = lambda reason: None,
) -> list[Passage]:
    """Returns passages of at most `passage_words` words, in the order of the sources.

    A document of up to 1.25 times that length stays whole. A passage that occurs in several documents is returned once
    per document. `max_bytes` limits every file and download, `timeout_s` a whole download. Raises DocumentError.
    """
    passages: dict[tuple[str, str], Passage] = {}
    for source in sources:
        for document in _read(source, max_bytes, timeout_s, on_skip):
            where = document.source if "://" in document.source else os.path.abspath(document.source)
            for passage in split_passages(
                document.title, document.text, where, passage_words=passage_words, is_code=document.is_code
            ):
                passages.setdefault((passage.id, where), passage)
    return list(passages.values())


def read_text(path: str | PurePath, max_bytes: int = MAX_BYTES) -> str:
    """Returns the text of a file in UTF-8, or UTF-16 with a byte-order mark; raises DocumentError on anything else.

    A file whose name ends in .gz is unzipped; `max_bytes` limits both its zipped and its unzipped size.
    """
    name = str(path)
    data = _file_bytes(name, max_bytes)
    return decode(name, _unzipped(name, data, max_bytes) if name.lower().endswith(".gz") else data)


def _read(source: str, max_bytes: int, timeout_s: float, on_skip: Callable[[str], None]) -> Iterator[Document]:
    if source.lower().startswith(("http://", "https://")):
        yield _read_url(source, max_bytes, timeout_s)
    elif os.path.isdir(source):
        yield from _read_folder(source, max_bytes, on_skip)
    else:
        yield parse_document(source, source, _file_bytes(source, max_bytes))


def _read_folder(folder: str, max_bytes: int, on_skip: Callable[[str], None]) -> Iterator[Document]:
    """Yields the readable files, sorted by name, a folder before its subfolders; skips hidden files."""

    def skip_folder(error: OSError) -> None:
        reason = f"{error.filename}: the folder cannot be listed ({error.strerror}); change its permissions"
        if error.filename == folder:
            raise DocumentError(reason)
        on_skip(reason)

    is_empty = True
    for parent, folders, names in os.walk(folder, onerror=skip_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or PurePath(name).suffix.lower() not in READABLE:
                continue
            path = os.path.join(parent, name)
            try:
                document = parse_document(path, path, _file_bytes(path, max_bytes))
            except DocumentError as error:
                on_skip(str(error))
            else:
                is_empty = False
                yield document
    if is_empty:
        raise DocumentError(f"{folder}: no readable document in this folder; put text, HTML or PDF files there")


def _file_bytes(path: str, max_bytes: int) -> bytes:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise DocumentError(
            f"{path!r}: no such file or folder; check the path (a web address starts with http:// or https://)"
        ) from None
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise DocumentError(f"{path}: a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError(f"{path}: neither a file nor a folder; save its content to a file")
    if status.st_size > max_bytes:
        size = f"{status.st_size / 1e6:.1f} MB, over the limit of {max_bytes / 1e6:g} MB"
        raise DocumentError(f"{path}: {size}; split it, or raise max_bytes")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None


def _unzipped(path: str, data: bytes, max_bytes: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            unzipped = file.read(max_bytes + 1)  # the unzipped size is unknown and may be huge
    except (OSError, EOFError, zlib.error) as error:
        raise DocumentError(
            f"{path}: not a complete gzip file ({error}); zip it again, or give it unzipped without .gz"
        ) from None
    if len(unzipped) > max_bytes:
        raise DocumentError(
            f"{path}: over the limit of {max_bytes / 1e6:g} MB when unzipped; split it, or raise max_bytes"
        )
    return unzipped


def _read_url(url: str, max_bytes: int, timeout_s: float) -> Document:
    import httpx

    deadline = monotonic() + timeout_s
    too_large = f"{url}: over the limit of {max_bytes / 1e6:g} MB; save the part you need to a file, or raise max_bytes"
    too_slow = f"{url}: no complete response within {timeout_s:g} s; try again later, or raise timeout_s"
    body = bytearray()
    try:
        headers = {"user-agent": "selfedit"}
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout_s) as response:
            if response.status_code != 200:
                raise DocumentError(f"{url}: the server answered {response.status_code}; open the address in a browser")
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    raise DocumentError(too_large)
                if monotonic() > deadline:  # the timeout of httpx is per read, so a slow stream would never end
                    raise DocumentError(too_slow)
    except httpx.TimeoutException:
        raise DocumentError(too_slow) from None
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:  # ImportError: a SOCKS proxy without its library
        raise DocumentError(f"{url}: cannot be fetched ({error}); check the address and the connection") from None

    content_type = response.headers.get("content-type", "")
    name = response.url.path.rstrip("/").rpartition("/")[2] or response.url.host
    if "html" in content_type and PurePath(name).suffix not in HTML:
        name += ".html"
    return parse_document(url, name, bytes(body), response.charset_encoding)
