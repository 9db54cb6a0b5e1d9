"""The bytes of a document → text.

In: the bytes of a text, HTML or PDF file. Out: a title, and a text with Markdown headings and blank lines between
paragraphs. An unreadable document raises a DocumentError of one line that begins with the source.

Left out: office formats, notebooks, scanned pages, and web pages that need JavaScript.
"""

from __future__ import annotations

import codecs
import logging
import re
import warnings
from io import BytesIO
from pathlib import PurePath
from typing import NamedTuple

from selfedit.documents.old_passages import heading_text
from selfedit.errors import DocumentError
from selfedit.types import as_utf8

HTML = frozenset({".html", ".htm", ".xhtml"})
PROSE = frozenset({"", ".txt", ".text", ".md", ".markdown", ".mdx", ".rst", ".adoc", ".org", ".tex", ".log"})
CODE = frozenset(
    ".py .pyi .js .mjs .jsx .ts .tsx .c .h .cc .cpp .hpp .cs .java .kt .go .rs .rb .php .swift .scala .lua .r .jl .pl "
    ".toml .yaml .yml .json .jsonl .cfg .ini .conf .sh .bash .sql .csv .tsv .xml .css".split()
)
READABLE = HTML | PROSE | CODE | {".pdf"}
"""Suffixes of the files that are read from a folder; a file that is named itself may have any suffix."""


class Document(NamedTuple):
    source: str
    title: str
    text: str
    is_code: bool


def parse_document(source: str, name: str, data: bytes, charset: str | None = None) -> Document:
    """Converts a document to text. Raises DocumentError.

    `name`: the file name; its suffix determines the format, and its stem is the title of a document without a title.
    `charset`: the encoding that a server declared; by default the encoding that a page declares, or UTF-8.
    """
    path = PurePath(name)
    suffix = path.suffix.lower()
    if not data:
        raise DocumentError(f"{source}: empty; give a document with text in it")
    if suffix in HTML:
        title, text = _html(source, decode(source, data, charset or _declared_charset(data)))
    elif suffix == ".pdf" or data.startswith(b"%PDF-"):
        title, text = _pdf(source, data)
    else:
        text = decode(source, data, charset)
        text = _rst(text) if suffix == ".rst" else text
        title = "" if suffix in CODE else _first_heading(text)
    text = _normalise(text)
    if not text:
        raise DocumentError(f"{source}: has only white space or markup; give a document with text in it")
    title = title or re.sub(r"[-_\s]+", " ", path.stem).strip()
    # A file name may be invalid Unicode, but a record must be valid.
    return Document(as_utf8(source), as_utf8(title), text, suffix in CODE)


def decode(source: str, data: bytes, charset: str | None = None) -> str:
    """Decodes the bytes as UTF-16 if they have its byte-order mark, else in the given encoding, by default UTF-8."""
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


def _normalise(text: str) -> str:
    """Converts to Unix newlines; removes white space at line ends and repeated blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _first_heading(markdown: str) -> str:
    without_fences = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    match = re.search(r"^# .+", without_fences, re.MULTILINE)
    return heading_text(match[0]) if match else ""


_RST_RULE = r"""[=\-~^"'`*+#:.]"""
_RST_HEADING = re.compile(rf"^(?:({_RST_RULE})\1{{2,}}\n)?(\S.*)\n({_RST_RULE})\3{{2,}}$", re.MULTILINE)


def _rst(text: str) -> str:
    """Converts underlined headings to Markdown; a heading at the start of the document is its title."""
    return re.sub(r"\A\s*##", "#", _RST_HEADING.sub(r"## \2", _normalise(text)))


def _pdf(source: str, data: bytes) -> tuple[str, str]:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every defect that it repairs
    try:
        reader = PdfReader(BytesIO(data))
        text = "\n".join(page.extract_text() for page in reader.pages)
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (FileNotDecryptedError, DependencyError):
        raise DocumentError(f"{source}: an encrypted PDF; save a copy without password first") from None
    except Exception as error:  # a damaged file makes pypdf raise exceptions of any kind
        raise DocumentError(f"{source}: a damaged PDF ({type(error).__name__}); save or download it again") from None
    if not text.strip():
        raise DocumentError(f"{source}: a PDF without text, perhaps scanned pages; run OCR on it first (e.g. ocrmypdf)")
    return " ".join(title.split()), as_utf8(text.replace("\0", ""))


_HTML_NOISE = frozenset({"script", "style", "noscript", "template", "title", "nav", "header", "footer", "aside"})
_BLOCKS = ["p", "div", "section", "article", "main", "blockquote", "ul", "ol", "dl", "table", "figure"]
_HTML_MARKS = {
    **{f"h{level}": (f"\n\n{'#' * level} ", "\n\n") for level in range(1, 7)},
    **dict.fromkeys(_BLOCKS, ("\n\n", "\n\n")),
    **dict.fromkeys(["br", "tr", "dt", "dd"], ("\n", "")),
    **dict.fromkeys(["td", "th"], ("", " ")),
    "li": ("\n- ", ""),
    "pre": ("\n\n```\n", "\n```\n\n"),
}
"""Element → the text inserted before it and after it."""


def _html(source: str, markup: str) -> tuple[str, str]:
    from bs4 import BeautifulSoup, NavigableString, ParserRejectedMarkup, Tag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BeautifulSoup warns if the text resembles XML, a file name or an address
        try:
            soup = BeautifulSoup(markup, "html.parser")
        except ParserRejectedMarkup:
            raise DocumentError(f"{source}: damaged HTML; save the page again, or as text") from None
    titles = (" ".join(tag.get_text().split()) for tag in (soup.title, soup.h1) if tag)
    title = next(filter(None, titles), "")

    # The tree is walked with an explicit stack: thousands of unclosed paragraphs may be nested too deeply for
    # recursion. Changing the tree in place would take time quadratic in the number of siblings.
    parts: list[str] = []
    stack = [soup]
    while stack:
        node = stack.pop()
        if isinstance(node, Tag):
            if node.name not in _HTML_NOISE and "headerlink" not in node.get("class", ()):
                before, after = _HTML_MARKS.get(node.name, ("", ""))
                inside = [node.get_text()] if node.name == "pre" else node.contents
                stack += [after, *reversed(inside), before]
        elif type(node) is NavigableString:
            parts.append(re.sub(r"\s+", " ", node))
        elif type(node) is str:  # a text of _HTML_MARKS or a <pre>; other nodes are comments and the like
            parts.append(node)
    text = re.sub(r"^ (?! )", "", "".join(parts), flags=re.MULTILINE)  # a space before the first word of an element
    return title, re.sub(r"^- \s+", "- ", text, flags=re.MULTILINE)
