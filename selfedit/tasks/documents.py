"""Outside documents become Passages.

In: files, folders and web addresses of text, HTML or PDF. Out: Passages, each once. Whatever the format, a document
becomes one text with markdown headings and a blank line between paragraphs, which `passages` then splits.

This is a boundary: what is wrong with a file or an address is found here and raised as a DocumentError of one line.
Inside a folder a bad file is skipped, and the reason goes to `on_skip`.

Left out: office formats, notebooks, scanned pages, web pages that only a script fills.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import PurePath
from time import monotonic
from typing import NamedTuple

from selfedit.errors import DocumentError
from selfedit.tasks.passages import split_passages
from selfedit.types import Passage

HTML = frozenset({".html", ".htm", ".xhtml"})
PROSE = frozenset({"", ".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".adoc", ".org", ".tex", ".log"})
CODE = frozenset(
    ".py .pyi .js .mjs .jsx .ts .tsx .c .h .cc .cpp .hpp .cs .java .kt .go .rs .rb .php .swift .scala .lua .r .jl .pl "
    ".toml .yaml .yml .json .jsonl .cfg .ini .conf .sh .bash .sql .csv .tsv .xml .css".split()
)
READABLE = HTML | PROSE | CODE | {".pdf"}
"""Suffixes of what is read from a folder; a file that is named outright is read whatever its suffix."""

MAX_BYTES = 20_000_000


class _Document(NamedTuple):
    source: str
    title: str
    text: str
    is_code: bool


def read_documents(
    sources: Sequence[str],
    *,
    passage_words: int = 220,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = 20.0,
    on_skip: Callable[[str], None] = lambda reason: None,
) -> list[Passage]:
    """Passages of at most `passage_words` words (a document of up to 1.25 times that stays whole), in the order given.

    `max_bytes` bounds every file and download, `timeout_s` a whole download. Raises DocumentError.
    """
    passages: dict[str, Passage] = {}
    for source in sources:
        for document in _read(source, max_bytes, timeout_s, on_skip):
            for passage in split_passages(
                document.title, document.text, document.source, passage_words=passage_words, is_code=document.is_code
            ):
                passages.setdefault(passage.id, passage)
    return list(passages.values())


def read_text(path: str, max_bytes: int = MAX_BYTES) -> str:
    """A file's text as it stands. UTF-8, or UTF-16 with a byte-order mark; anything else is a DocumentError."""
    return _decode(path, _file_bytes(path, max_bytes))


def _read(source: str, max_bytes: int, timeout_s: float, on_skip: Callable[[str], None]) -> Iterator[_Document]:
    if source.lower().startswith(("http://", "https://")):
        yield _read_url(source, max_bytes, timeout_s)
    elif os.path.isdir(source):
        yield from _read_folder(source, max_bytes, on_skip)
    else:
        yield _parse(source, source, _file_bytes(source, max_bytes))


def _read_folder(folder: str, max_bytes: int, on_skip: Callable[[str], None]) -> Iterator[_Document]:
    """Its readable files, each folder's in order of name and before those of its subfolders; none hidden."""

    def skip_folder(error: OSError) -> None:
        reason = f"{error.filename}: the folder cannot be listed ({error.strerror}); change its permissions"
        if error.filename == folder:
            raise DocumentError(reason)
        on_skip(reason)

    found = False
    for parent, folders, names in os.walk(folder, onerror=skip_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or PurePath(name).suffix.lower() not in READABLE:
                continue
            path = os.path.join(parent, name)
            try:
                document = _parse(path, path, _file_bytes(path, max_bytes))
            except DocumentError as error:
                on_skip(str(error))
            else:
                found = True
                yield document
    if not found:
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
    if not stat.S_ISREG(status.st_mode):
        raise DocumentError(f"{path}: neither a file nor a folder; save what it gives to a file")
    if status.st_size > max_bytes:
        raise DocumentError(_too_large(path, f"{status.st_size / 1e6:.1f} MB", max_bytes))
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None


def _too_large(source: str, size: str, max_bytes: int) -> str:
    return f"{source}: too large ({size}; the limit is {max_bytes / 1e6:.1f} MB); split it, or raise max_bytes"


def _read_url(url: str, max_bytes: int, timeout_s: float) -> _Document:
    import httpx

    deadline = monotonic() + timeout_s
    too_slow = f"{url}: no full answer within {timeout_s:g} s; try again later, or raise timeout_s"
    body = bytearray()
    try:
        with httpx.stream(
            "GET", url, follow_redirects=True, timeout=timeout_s, headers={"user-agent": "selfedit"}
        ) as response:
            if response.status_code != 200:
                raise DocumentError(f"{url}: the server answered {response.status_code}; open the address in a browser")
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    raise DocumentError(_too_large(url, "or more was sent", max_bytes))
                if monotonic() > deadline:  # httpx times each read, so a trickle would never end
                    raise DocumentError(too_slow)
    except httpx.TimeoutException:
        raise DocumentError(too_slow) from None
    except (httpx.HTTPError, httpx.InvalidURL, ImportError) as error:  # ImportError: a proxy that httpx lacks a part for
        raise DocumentError(f"{url}: cannot be fetched ({error}); check the address and the connection") from None

    content_type = response.headers.get("content-type", "")
    name = response.url.path.rstrip("/").rpartition("/")[2] or response.url.host
    if "html" in content_type and PurePath(name).suffix not in HTML:
        name += ".html"
    return _parse(url, name, bytes(body), response.charset_encoding)


def _parse(source: str, name: str, data: bytes, charset: str | None = None) -> _Document:
    """`name`: the file name, whose suffix tells the format and whose stem is the title of a document without one."""
    path = PurePath(name)
    suffix = path.suffix.lower()
    if not data:
        raise DocumentError(f"{source}: empty; give a document with text in it")
    if suffix in HTML:
        title, text = _html(_decode(source, data, charset or _declared_charset(data)))
    elif suffix == ".pdf" or data.startswith(b"%PDF-"):
        title, text = _pdf(source, data)
    else:
        text = _decode(source, data, charset)
        title = "" if suffix in CODE else _first_heading(text)
    text = _normalise(text)
    if not text:
        raise DocumentError(f"{source}: holds nothing but white space or markup; give a document with text in it")
    title = title or re.sub(r"[-_\s]+", " ", path.stem).strip()
    # A file name need not be valid Unicode; a record must be.
    return _Document(_valid(source), _valid(title), text, suffix in CODE)


def _decode(source: str, data: bytes, charset: str | None = None) -> str:
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in data and not is_utf16:
        raise DocumentError(f"{source}: a binary file (it has NUL bytes); save it as text, HTML or PDF")
    encoding = "utf-16" if is_utf16 else charset or "utf-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeError, LookupError) as error:
        raise DocumentError(f"{source}: cannot be decoded as {encoding} ({error}); save it as UTF-8 text") from None


def _declared_charset(html: bytes) -> str | None:
    match = re.search(rb"""<meta[^>]{0,200}charset=["']?([\w-]+)""", html[:4096], re.IGNORECASE)
    return match[1].decode("ascii", "replace") if match else None


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _normalise(text: str) -> str:
    """Unix newlines, no white space at ends of lines, at most one blank line in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _first_heading(markdown: str) -> str:
    without_fences = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    match = re.search(r"^# +(.*?)[ #]*$", without_fences, re.MULTILINE)
    return match[1] if match else ""


def _pdf(source: str, data: bytes) -> tuple[str, str]:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every flaw that it then mends
    try:
        reader = PdfReader(BytesIO(data))
        text = "\n".join(page.extract_text() for page in reader.pages)
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (FileNotDecryptedError, DependencyError):
        raise DocumentError(f"{source}: an encrypted PDF; save a copy without password first") from None
    except Exception as error:  # pypdf raises whatever a damaged file makes it stumble over
        raise DocumentError(f"{source}: a damaged PDF ({type(error).__name__}); save or download it again") from None
    if not text.strip():
        raise DocumentError(f"{source}: a PDF without text, perhaps scanned pages; run OCR on it first (e.g. ocrmypdf)")
    return " ".join(title.split()), _valid(text.replace("\0", ""))


_HTML_NOISE = ["script", "style", "noscript", "template", "nav", "header", "footer", "aside", "title"]
_BLOCK = ("\n\n", "\n\n")
_HTML_MARKS = {
    **{f"h{level}": (f"\n\n{'#' * level} ", "\n\n") for level in range(1, 7)},
    **dict.fromkeys(["p", "div", "section", "article", "main", "blockquote", "ul", "ol", "dl", "table", "figure"], _BLOCK),
    "pre": ("\n\n```\n", "\n```\n\n"),
    "li": ("\n- ", ""),
    "dt": ("\n", ""),
    "dd": ("\n", ""),
    "tr": ("\n", ""),
    "td": ("", " "),
    "th": ("", " "),
    "br": ("\n", ""),
}
"""What stands in the text before and after an element."""


def _html(markup: str) -> tuple[str, str]:
    from bs4 import BeautifulSoup, NavigableString

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guesses that the text might be XML, a file name or an address
        soup = BeautifulSoup(markup, "html.parser")
    titles = (" ".join(tag.get_text().split()) for tag in (soup.title, soup.h1) if tag)
    title = next(filter(None, titles), "")
    for tag in [*soup(_HTML_NOISE), *soup("a", class_="headerlink")]:
        tag.decompose()
    for string in soup.find_all(string=True):
        if type(string) is NavigableString and not string.find_parent("pre"):  # a comment is a subclass
            string.replace_with(re.sub(r"\s+", " ", string))
    for tag in soup(list(_HTML_MARKS)):
        before, after = _HTML_MARKS[tag.name]
        tag.insert_before(before)
        tag.insert_after(after)
    text = re.sub(r"^ (?! )", "", soup.get_text(), flags=re.MULTILINE)  # the space before an element's first word
    return title, re.sub(r"^- \s+", "- ", text, flags=re.MULTILINE)
