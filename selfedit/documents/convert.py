"""The bytes of a document → Document.

`_READERS` is the table of formats: suffix → function. The content decides if it contradicts the suffix. Most readers
make HTML, which `markup` turns into blocks. A document that cannot be read raises a DocumentError of one line that
begins with its source.
"""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePath

from selfedit.documents import header, markdown
from selfedit.documents.mail import read_mail
from selfedit.documents.markup import read_markup
from selfedit.documents.normalize import decode, normal_form
from selfedit.documents.office import read_workbook, slides_html
from selfedit.documents.pdf import read_pdf
from selfedit.documents.records import Block, Content, Document, Raw, shortened
from selfedit.documents.tables import csv_rows, table_blocks
from selfedit.errors import DocumentError
from selfedit.text import language, sentence_ends
from selfedit.types import Unit, as_utf8

MAX_UNZIPPED = 300_000_000
"""Bytes of an office document or book when unzipped."""
PANDOC_TIMEOUT_S = 25
_PANDOC_OPTIONS = "--sandbox --mathml --syntax-highlighting=none --wrap=none --track-changes=accept -t html".split()
_PANDOC_MEMORY = "+RTS -M700M -RTS".split()

_RST_MARKS = re.compile(r"^\.\. (?:[\w-]+::|_[^_\n]+:)|(?<![\w`]):[a-z]+(?:[:-][a-z]+)*:`[^`\n]+`", re.MULTILINE)
"""Directives, targets and roles of reStructuredText."""

CODE = frozenset(
    ".py .pyi .js .mjs .jsx .ts .tsx .c .h .cc .cpp .hpp .cs .java .kt .go .rs .rb .php .swift .scala .lua .r .jl .pl "
    ".toml .yaml .yml .json .jsonl .cfg .ini .conf .sh .bash .sql .xml .css".split()
)
"""Suffixes of source code and configuration, which is learned as it is."""


def convert(raw: Raw) -> Document:
    """Reads a document of any format. Raises DocumentError."""
    suffix = PurePath(raw.name).suffix.lower()
    try:
        if not raw.data.strip(b"\0"):
            raise DocumentError("empty; give a document with text in it")
        if suffix in CODE:
            content = Content("", {}, list(_code_blocks(normal_form(decode(raw.data, raw.charset)))))
        else:
            content = (_by_content(raw) or _READERS.get(suffix, _text))(raw)
        title = " ".join((header.title_of(content.fields) or content.title).split())
        has_headings = any(block.headings for block in content.blocks)
        title, blocks = _titled(title if re.search(r"\w", title) else "", content.blocks)
        title = title or re.sub(r"[-_\s]+", " ", PurePath(raw.name).stem).strip()
        title = shortened(title)
        if not any(block.parts for block in blocks):
            parts = "headings without text below them" if has_headings else "white space or markup"
            raise DocumentError(f"has only {parts}; give a document with text in it")
        blocks = [*header.facts(title, content.fields), *blocks]
    except DocumentError as error:
        raise DocumentError(f"{raw.source}: {error}") from None
    # A file name may be invalid Unicode, but a record must be valid.
    return Document(as_utf8(raw.source), as_utf8(title), tuple(blocks))


def _titled(title: str, blocks: list[Block]) -> tuple[str, list[Block]]:
    """Removes the one outermost heading if it is the title or a part of it; without another title it is the title."""
    tops = {block.headings[0] for block in blocks if block.headings}
    if len(tops) != 1 or (top := tops.pop()).casefold() not in (title or top).casefold():
        return title, blocks
    return title or top, [
        block._replace(
            headings=block.headings[1:], units=tuple(unit._replace(headings=unit.headings[1:]) for unit in block.units)
        )
        for block in blocks
    ]


# Text


def _text(raw: Raw) -> Content:
    text = normal_form(decode(raw.data, raw.charset))
    if len(_RST_MARKS.findall(text)) > 1:  # as Django's and Python's documentation has it
        return _rst(raw)
    fields, text = header.header_lines(text)
    return Content("", fields, list(_text_blocks(text)))


def _text_blocks(text: str) -> Iterator[Block]:
    """The paragraphs of a plain text, as they are; `#` begins a heading and three backticks a block of code."""
    code = language(text)
    headings: list[str] = []
    for paragraph in _paragraphs(text):
        if paragraph.startswith(("```", "~~~")):
            yield Block((paragraph,), (Unit("code", paragraph, tuple(headings)),), tuple(headings))
            continue
        while match := re.match(r"(#{1,6})\s+(.*\S)[ \t]*(?:\n|$)", paragraph):
            del headings[len(match[1]) - 1 :]
            headings.append(re.sub(r"\s+#+$", "", match[2]))
            yield Block((), (), tuple(headings))
            paragraph = paragraph[match.end() :]
        parts = tuple(_slices(paragraph, sentence_ends(paragraph, code)))
        if paragraph:
            yield Block(
                parts,
                tuple(Unit("sentence", " ".join(part.split()), tuple(headings)) for part in parts),
                tuple(headings),
            )


def _paragraphs(text: str) -> Iterator[str]:
    """Yields what blank lines separate; a heading is separate, and a block between fences is not split."""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if not fence and (not line.strip() or mark):
            if lines:
                yield "\n".join(lines)
            lines = []
        if line.strip() or fence:
            lines.append(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            yield "\n".join(lines)
            lines, fence = [], ""
    if lines:
        yield "\n".join(lines)


def _code_blocks(text: str) -> Iterator[Block]:
    for part in re.split(r"\n{2,}", text):
        if part.strip():
            yield Block((part,), (Unit("code", part),))


def _slices(text: str, ends: Iterable[int]) -> Iterator[str]:
    start = 0
    for end in ends:
        yield text[start:end]
        start = end


# Markup


def _html(raw: Raw) -> Content:
    return _page(decode(raw.data, raw.charset))


def _page(html: str) -> Content:
    content = read_markup(normal_form(html))
    return content._replace(fields=header.known(content.fields))


def _markdown(raw: Raw) -> Content:
    text = normal_form(decode(raw.data, raw.charset))
    fields, text = header.front_matter(text)
    if not fields:
        fields, text = header.header_lines(text)
    return read_markup(markdown.markdown_html(text))._replace(fields=fields)


def _notebook(raw: Raw) -> Content:
    return read_markup(markdown.notebook_html(normal_form(decode(raw.data, raw.charset))))


def _rst(raw: Raw) -> Content:
    fields, text = header.header_lines(normal_form(decode(raw.data, raw.charset)))
    if not fields:
        fields, text = header.docinfo(text)
    return _pandoc("rst", raw._replace(data=markdown.plain_rst(text).encode()))._replace(fields=fields)


def _mail(raw: Raw) -> Content:
    subject, fields, text, is_html = read_mail(raw.data)
    content = read_markup(normal_form(text)) if is_html else Content("", {}, list(_text_blocks(normal_form(text))))
    return Content(subject, fields, content.blocks)


def _text_markup(format: str, raw: Raw) -> Content:
    return _pandoc(format, raw._replace(data=normal_form(decode(raw.data, raw.charset)).encode()))


def _asciidoc(raw: Raw) -> Content:
    # Pandoc does not know footnotes of AsciiDoc, and refuses a document whose included files it may not read.
    text = re.sub(r"^include::.*\[.*\]$", "", normal_form(decode(raw.data, raw.charset)), flags=re.MULTILINE)
    return _pandoc("asciidoc", raw._replace(data=re.sub(r"footnote:\w*\[([^\]\n]+)\]", r" (\1)", text).encode()))


def _rtf(raw: Raw) -> Content:
    # Pandoc takes two characters instead of one as the replacement that follows \uN, unless a space separates them.
    return _pandoc("rtf", raw._replace(data=re.sub(rb"(\\u-?\d+)(?=\?)", rb"\1 ", raw.data)))


def _pandoc(format: str, raw: Raw) -> Content:
    from pypandoc import get_pandoc_path

    # A standalone page has the metadata of a document; that of reStructuredText would lose its first heading.
    command = [get_pandoc_path(), "-f", format, *_PANDOC_OPTIONS, *(["-s"] if format != "rst" else []), *_PANDOC_MEMORY]
    try:
        done = subprocess.run(command, input=raw.data, capture_output=True, timeout=PANDOC_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise DocumentError(f"cannot be read as {format} within {PANDOC_TIMEOUT_S} s; split it") from None
    except OSError as error:
        raise DocumentError(f"pandoc cannot be started ({error}); run: pip install pypandoc_binary") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0][:200] or f"exit code {done.returncode}"
        raise DocumentError(f"a damaged {format} document ({reason}); save it again")
    page = re.sub(
        r'<(h1|p) class="(?:title|author|date)">.*?</\1>', "", done.stdout.decode(errors="replace"), flags=re.DOTALL
    )
    return _page(page)


# Tables and PDF


def _csv(raw: Raw) -> Content:
    return Content("", {}, list(table_blocks(csv_rows(normal_form(decode(raw.data, raw.charset))), ())))


def _workbook(raw: Raw) -> Content:
    title, blocks = read_workbook(raw.data)
    return Content(title, {}, blocks)


def _slides(raw: Raw) -> Content:
    return _page(slides_html(raw.data))


def _pdf(raw: Raw) -> Content:
    title, text = read_pdf(raw.data)
    return Content(title, {}, list(_text_blocks(as_utf8(normal_form(text)))))


# The table of formats

_Reader = Callable[[Raw], Content]


def _unsupported(advice: str, raw: Raw) -> Content:
    raise DocumentError(advice)


_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".text", ".log", ""), _text),
    **dict.fromkeys((".md", ".markdown", ".mdx", ".mkd", ".qmd", ".rmd"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
    **dict.fromkeys((".rst", ".rest"), _rst),
    **dict.fromkeys((".csv", ".tsv", ".tab"), _csv),
    **dict.fromkeys((".xlsx", ".xlsm"), _workbook),
    **dict.fromkeys((".adoc", ".asciidoc", ".asc"), _asciidoc),
    **dict.fromkeys((".tex", ".latex"), partial(_text_markup, "latex")),
    **dict.fromkeys((".wiki", ".mediawiki"), partial(_text_markup, "mediawiki")),
    **dict.fromkeys((".man", ".1", ".3", ".5", ".7", ".8"), partial(_text_markup, "man")),
    ".org": partial(_text_markup, "org"),
    ".typ": partial(_text_markup, "typst"),
    ".textile": partial(_text_markup, "textile"),
    ".ipynb": _notebook,
    ".rtf": _rtf,
    ".docx": partial(_pandoc, "docx"),
    ".pptx": _slides,
    ".odt": partial(_pandoc, "odt"),
    ".epub": partial(_pandoc, "epub"),
    ".pdf": _pdf,
    ".eml": _mail,
}
READABLE = frozenset(_READERS) | CODE
"""Suffixes of the files that are read from a folder; a file that is named itself may have any suffix."""
SUPPORTED = "text, Markdown, HTML, reStructuredText, notebooks, CSV, PDF, mail, docx, pptx, xlsx, odt, rtf and epub"


_BINARY = frozenset((".pdf", ".docx", ".pptx", ".odt", ".epub", ".xlsx", ".xlsm", ".rtf"))
"""Suffixes of formats that the first bytes show."""
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL
)


def _by_content(raw: Raw) -> _Reader | None:
    """The reader that the first bytes, or else the media type that a server declared, ask for."""
    start = raw.data[:1024].lstrip()
    suffix, media_type = PurePath(raw.name).suffix.lower(), raw.media_type.partition(";")[0].strip()
    is_named_pdf = suffix == ".pdf" or media_type == "application/pdf"  # then other bytes may precede it
    if start.startswith(b"%PDF-") or is_named_pdf and b"%PDF-" in start:
        return _pdf
    if start.startswith(b"{\\rtf"):
        return _rtf
    if start.startswith(b"PK\x03\x04"):
        return _by_parts(raw.data)
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        if "EncryptedPackage".encode("utf-16-le") in raw.data:  # such a file contains a docx, xlsx or pptx
            return partial(_unsupported, "an encrypted office document; save a copy without password first")
        return partial(_unsupported, "an office document of before 2007; save it as docx, xlsx or pptx")
    if media_type in ("text/html", "application/xhtml+xml"):
        return _html
    if suffix not in _READERS.keys() - _BINARY - {".txt", ""} and _HTML.match(start):
        return _html
    if suffix not in _BINARY:
        return None
    if re.search(rb"[\0-\x08\x0e-\x1f]", start):
        return partial(_unsupported, f"damaged, or not a {suffix} file; save it again")
    return partial(_unsupported, f"plain text, not a {suffix} file; rename it, e.g. to .txt, or save it again")


def _by_parts(data: bytes) -> _Reader:
    """The reader of a zip archive that is a document."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            size = sum(part.file_size for part in archive.infolist())
            kind = archive.read("mimetype").decode(errors="replace") if "mimetype" in names else ""
    except Exception:  # a damaged archive makes zipfile raise exceptions of several kinds
        return partial(_unsupported, "a damaged document (not a complete zip archive); save it again")
    if size > MAX_UNZIPPED:
        return partial(
            _unsupported, f"{size / 1e6:.0f} MB when unzipped, over the limit of {MAX_UNZIPPED / 1e6:.0f} MB"
        )
    for prefix, suffix in (("word/", ".docx"), ("ppt/", ".pptx"), ("xl/", ".xlsx")):
        if any(name.startswith(prefix) for name in names):
            return _READERS[suffix]
    for word, suffix in (("epub", ".epub"), ("opendocument.text", ".odt")):
        if word in kind:
            return _READERS[suffix]
    return partial(_unsupported, f"a binary file of a format that is not supported; give {SUPPORTED}")
