"""Writes 300 hostile documents: `python tests/hostile.py FOLDER`.

Bombs, deep nesting, entity expansion, wrong names, cut and damaged files of every kind, inputs that make parsers slow.
Deterministic, and nothing is taken from elsewhere.
"""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pypandoc import get_pandoc_path

MARKDOWN = (
    "# The gate\n\nThe *gate* is red, see [the wall](https://example.org).\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n"
)
PANDOC = {"docx": "docx", "odt": "odt", "epub": "epub", "pptx": "pptx", "rtf": "rtf", "ipynb": "ipynb", "rst": "rst"}
LONG = 60_000


def pdf(*objects: bytes, trailer: bytes = b"/Root 1 0 R") -> bytes:
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size, start = len(objects) + 1, len(data)
    return data + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        size,
        table,
        size,
        trailer,
        start,
    )


def page(content: bytes, extra: bytes = b"", more: bytes = b"") -> bytes:
    """A PDF of one page with this content stream. `extra`: for the stream's dictionary, `more`: for the page's."""
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> /XObject << /X 4 0 R >> >> " + more + b" >>",
        b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), extra, content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )


def zipped(**members: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def samples() -> dict[str, bytes]:
    """One sound document of each kind, by suffix."""
    files = {
        "md": MARKDOWN.encode(),
        "csv": b"a;b\n1;2\n",
        "json": b'{"gate": "red"}',
        "py": b'"""The gate."""\nx = 1\n',
    }
    files["pdf"] = page(b"BT /F1 12 Tf 72 720 Td (The gate is red.) Tj ET")
    files["eml"] = b"From: a@example.org\nSubject: The gate\nContent-Type: text/plain\n\nThe gate is red.\n"
    files["html"] = (
        b"<html><title>The gate</title><body><p>The gate is <b>red</b>.</p><table><tr><td>1</table></body></html>"
    )
    for suffix, kind in PANDOC.items():
        command = [get_pandoc_path(), "-f", "markdown", "-t", kind, "-s", "-o", "-"]
        files[suffix] = subprocess.run(command, input=MARKDOWN.encode(), stdout=subprocess.PIPE, check=True).stdout
    return files | {"xlsx": zipped(**sheet("<c r='A1'><v>1</v></c>"))}


def sheet(cells: str, dimension: str = "A1") -> dict[str, str]:
    """The parts of a workbook with one row."""
    types = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    return {
        "[Content_Types].xml": f"<Types xmlns='{package}/content-types'><Default Extension='rels' ContentType="
        "'application/vnd.openxmlformats-package.relationships+xml'/><Override PartName='/xl/workbook.xml' "
        "ContentType='application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml'/><Override "
        "PartName='/xl/s.xml' ContentType="
        "'application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml'/></Types>",
        "_rels/.rels": f"<Relationships xmlns='{package}/relationships'><Relationship Id='r1' "
        f"Type='{types}/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        "xl/workbook.xml": f"<workbook xmlns='{main}' xmlns:r='{types}'><sheets><sheet name='S' sheetId='1' r:id='r1'/>"
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships xmlns='{package}/relationships'><Relationship Id='r1' "
        f"Type='{types}/worksheet' Target='s.xml'/></Relationships>",
        "xl/s.xml": f"<worksheet xmlns='{main}'><dimension ref='{dimension}'/><sheetData><row r='1'>{cells}</row>"
        "</sheetData></worksheet>",
    }


LAUGHS = (
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY l0 'ha'>"
    + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 12))
    + "<!ENTITY f SYSTEM 'file:///etc/passwd'>]><a><p>&l11;</p><p>&f;</p></a>"
)
PARTS = {  # of a document in a zip file, the one that has the text
    "docx": "word/document.xml",
    "odt": "content.xml",
    "pptx": "ppt/slides/slide1.xml",
    "xlsx": "xl/s.xml",
    "epub": "EPUB/text/ch001.xhtml",
}


def with_part(data: bytes, name: str, content: str | bytes) -> bytes:
    """The zip file with other content in one of its members, which is added if it lacks it."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    return zipped(**{entry: archive.read(entry) for entry in archive.namelist() if entry != name} | {name: content})


def bombs(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    size = 400_000_000
    packer, crc, pieces = zlib.compressobj(1, wbits=-15), 0, []
    for _ in range(0, size, 10_000_000):
        block = b"<p>a</p><p>b</p>" * 625_000
        crc = zlib.crc32(block, crc)
        pieces.append(packer.compress(block))
    packed = b"".join([*pieces, packer.flush()])
    for suffix, part in PARTS.items():
        yield f"bomb.{suffix}", with_packed(with_part(files[suffix], part, b"!"), part.encode(), packed, size, crc)
    for suffix in PARTS:
        yield f"many-members.{suffix}", zipped(**{f"{i}.xml": "" for i in range(5000)})
        yield (
            f"traversal.{suffix}",
            zipped(**{"../../etc/x.xml": "<a/>", "/etc/passwd": "x", PARTS[suffix]: "<a>text</a>"}),
        )
    yield "bomb.txt.gz", zlib.compress(bytes(50_000_000), wbits=31)
    yield "bomb.gz", zlib.compress(zlib.compress(bytes(50_000_000), wbits=31), wbits=31)
    yield "flate-bomb.pdf", page(zlib.compress(b"BT (a) Tj ET " * 20_000_000), b"/Filter /FlateDecode")
    twice = zlib.compress(zlib.compress(bytes(300_000_000)))
    yield "flate-twice.pdf", page(twice, b"/Filter [/FlateDecode /FlateDecode]")


def with_packed(data: bytes, name: bytes, packed: bytes, size: int, crc: int) -> bytes:
    """The zip file with one more member of this name, which is compressed already."""
    header = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
    end = data.rfind(b"PK\5\6")
    count, length, offset = struct.unpack("<HII", data[end + 10 : end + 20])
    entry = b"PK\1\2" + struct.pack("<H", 20) + header + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name
    directory = data[offset : offset + length] + entry
    local = b"PK\3\4" + header + name + packed
    tail = struct.pack("<HHHHIIH", 0, 0, count + 1, count + 1, len(directory), offset + len(local), 0)
    return data[:offset] + local + directory + b"PK\5\6" + tail


def nested(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for tag in ("div", "b", "table><tr><td", "ul><li", "blockquote", "svg", "sup", "a href='x'", "pre", "details"):
        yield f"nested-{tag[:5].strip('><')}.html", f"<{tag}>".encode() * 20_000 + b"text"
    for mark in (
        "> ",
        "- ",
        "1. ",
        "*",
        "[",
        "![",
        "(",
        "`",
        "<div>",
        "_a*",
        "| ",
        "#",
        "~",
        "$",
        "\\",
        "[^",
        "::: a\n",
    ):
        yield f"nested-{len(mark)}-{ord(mark[0])}.md", (mark * LONG)[:LONG].encode() + b"text\n"
    yield "deeper-lists.md", "".join(f"{'  ' * i}- item\n" for i in range(500)).encode()
    yield "deeper-lists.rst", "".join(f"{'  ' * i}- item\n\n" for i in range(500)).encode()
    yield "deeper-quotes.rst", "".join(f"{' ' * i}text\n\n" for i in range(1000)).encode()
    yield "directives.rst", "".join(f"{'   ' * i}.. note::\n\n" for i in range(300)).encode()
    for mark in ("*", "`", "|", ":a:`", "[a]_ ", ".. a\n", "=\n", "+-", "`a <b>`_"):
        yield f"marks-{len(mark)}-{ord(mark[0])}.rst", (mark * LONG)[:LONG].encode()
    yield "include.rst", b".. include:: /etc/passwd\n\n.. raw:: html\n   :file: /etc/passwd\n\nText.\n"
    yield (
        "substitutions.rst",
        "".join(f".. |a{i}| replace:: |a{i + 1}| |a{i + 1}|\n" for i in range(40)).encode() + b"\n|a0|\n",
    )
    yield "self.rst", b".. |a| replace:: |a| |a|\n\n|a|\n"
    yield "deep.json", b"[" * 500_000
    yield "deep-object.json", b'{"a":' * 100_000
    yield "deep.ipynb", b'{"cells": ' + b"[" * 200_000
    yield "deep.xml", b"<a>" * 200_000
    yield "deep.rtf", b"{\\rtf1 " + b"{" * 200_000 + b"text"
    yield "deep.tex", b"\\begin{document}" + b"{\\bf " * 20_000 + b"text"
    yield "macros.tex", b"\\newcommand{\\a}{\\a\\a}\\begin{document}\\a\\end{document}"
    yield "deep.org", "".join(f"{'*' * i} heading\n" for i in range(1, 1000)).encode()
    yield "front-matter.md", b"---\na: &a [x]\n" + b"".join(
        b"b%d: &b%d [*a, *a, *a, *a, *a, *a, *a]\n" % (i, i) for i in range(9)
    ) + b"---\n\ntext\n"  # fmt: skip
    yaml = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    yield "front-matter-bomb.md", f"---\n{yaml}title: *a11\n---\n\ntext\n".encode()
    boundary = "".join(f"Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n" for i in range(3000))
    yield "nested.eml", f"From: a@b\nSubject: x\n{boundary}text".encode()
    yield "nested-mails.eml", b"Content-Type: message/rfc822\n\n" * 5000 + b"text"
    yield "headers.eml", b"Subject: =?utf-8?q?" + b"=41" * 100_000 + b"?=\nTo: " + b"<a@b>, " * 50_000 + b"\n\ntext"
    for suffix, part in PARTS.items():
        yield f"deep.{suffix}", with_part(files[suffix], part, "<a>" * 50_000)


def expanding(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for suffix in ("xml", "html", "xhtml", "svg", "md"):
        yield f"laughs.{suffix}", LAUGHS.encode()
    for suffix, part in PARTS.items():
        yield f"laughs.{suffix}", with_part(files[suffix], part, LAUGHS)
    for i, attack in enumerate(
        (
            b"<a ",
            b"<",
            b"<!--",
            b"<![CDATA[",
            b"</",
            b"&",
            b"&#x",
            b"<a href='",
            b'<a b="c" ',
            b"<script>",
            b"<style><p>",
            b"<p ",
        )
    ):
        yield f"unclosed-{i}.html", attack * (LONG // len(attack))
    yield "spaces.txt", b" " * 1_000_000 + b"x"
    yield "spaces.md", b"a" + b" " * 500_000 + b"\n"
    yield "one-word.txt", b"a" * 500_000
    yield "no-spaces.md", b"a.b" * 300_000
    yield "newlines.txt", b"\n" * 2_000_000 + b"x"
    yield "titles.md", b"# " + b"title " * 100_000
    yield "rules.md", b"=\n-\n" * 30_000
    yield "emphasis.md", b"a**b" * 15_000
    yield "references.md", b"[a][b](c" * 8000
    yield "footnotes.md", b"".join(b"[^%d]: x[^%d]\n\n" % (i, i + 1) for i in range(3000)) + b"y[^0]\n"
    yield "combining.txt", ("e" + "\u0301" * 300_000).encode()
    yield "directions.txt", ("\u202e\u2066" * 100_000 + "x").encode()
    yield "zero-width.txt", ("a\u200b" * 200_000).encode()
    yield "escapes.txt", b"\x1b]0;title\x07\x1b[2Jtext " * 1000
    yield "colspan.html", b"<table><tr><td colspan=100000000 rowspan=100000000>a<td>b" * 50
    yield "columns.html", b"<table><tr>" + b"<td>a" * 100_000
    yield "rows.html", b"<table>" + b"<tr><td>a<td>b" * 5_000
    yield "cells.csv", b"a," * 300_000
    yield "rows.csv", b"a,b\n" + b"1,2\n" * 20_000
    yield "quotes.csv", b'"' * 200_001
    yield "table.md", b"|a" * 3000 + b"|\n" + b"|-" * 3000 + b"|\n" + (b"|x" * 3000 + b"|\n") * 20
    yield "far-cell.xlsx", zipped(**sheet("<c r='XFD1'><v>1</v></c>", "A1:XFD1048576"))
    yield "no-cell.xlsx", zipped(**sheet("<c r='ZZZZZZZ99999999999'><v>1e999999</v></c>"))
    yield "number.json", b"9" * 200_000
    yield (
        "number.ipynb",
        b'{"nbformat": 99999999999999999999999, "cells": [{"cell_type": "markdown", "source": 1e999}]}',
    )
    yield "number.html", b"<ol start=99999999999999999999><li value=-9e99>a</ol>&#99999999999999;&#xd800;&#0;" * 100
    yield "number.md", b"99999999999999999999999999. a\n" * 100
    yield "number.rtf", b"{\\rtf1\\ansi \\u99999999999 \\bin999999999999 \\li" + b"9" * 10_000 + b" text}"
    cell = {"cell_type": "code", "source": "x = 1", "outputs": [{"output_type": "display_data"}], "metadata": {}}
    cell["outputs"][0]["data"] = {"image/png": "QUJD" * 1_000_000, "text/html": "<a " * 100_000}
    yield "outputs.ipynb", json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}).encode()


def pdfs() -> Iterator[tuple[str, bytes]]:
    catalog, font = b"<< /Type /Catalog /Pages 2 0 R >>", b"BT /F1 12 Tf (a) Tj ET "
    yield "kids-loop.pdf", pdf(catalog, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>")
    yield (
        "parent-loop.pdf",
        pdf(catalog, b"<< /Type /Pages /Kids [3 0 R] /Count 1 /Parent 3 0 R >>", b"<< /Type /Page /Parent 3 0 R >>"),
    )
    yield "count.pdf", pdf(catalog, b"<< /Type /Pages /Kids [] /Count 99999999999 >>")
    yield "prev-loop.pdf", pdf(catalog, b"<< /Type /Pages /Kids [] /Count 0 >>", trailer=b"/Root 1 0 R /Prev 9")
    yield "root-loop.pdf", pdf(b"1 0 R", b"1 0 R")
    yield "length-loop.pdf", page(font).replace(b"/Length", b"/Length 4 0 R /Old")
    yield "filters.pdf", page(font, b"/Filter [" + b"/ASCIIHexDecode " * 20_000 + b"]")
    yield (
        "predictor.pdf",
        page(zlib.compress(b"a"), b"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Columns 999999999 >>"),
    )
    yield "form-loop.pdf", page(b"/X Do " * 1000, b"/Type /XObject /Subtype /Form /BBox [0 0 1 1]")
    yield "operators.pdf", page(b"q " * 300_000 + font)
    yield "arrays.pdf", page(b"[" * 100_000 + font)
    yield "dictionaries.pdf", page(font, more=b"/A " + b"<< /A " * 20_000)
    yield "strings.pdf", page(b"BT /F1 12 Tf (" + b"(" * 100_000 + b") Tj ET")
    yield "many-texts.pdf", page(font * 100_000)
    yield "objects.pdf", pdf(*[b"<< /A %d 0 R >>" % (i + 2) for i in range(20_000)])


def derived(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Sound documents under wrong names, cut off, damaged, and with NULs."""
    wrong = random.Random(0)
    for suffix, data in files.items():
        for other in wrong.sample(sorted(files.keys() - {suffix}), 3):
            yield f"wrong-{suffix}.{other}", data
        for share in (0.3, 0.9):
            yield f"cut-{share}.{suffix}", data[: int(len(data) * share)]
        for seed in range(2):
            damaged, dice = bytearray(data), random.Random(f"{suffix} {seed}")
            for _ in range(1 + len(data) // 50):
                damaged[dice.randrange(len(data))] = dice.randrange(256)
            yield f"damaged-{seed}.{suffix}", bytes(damaged)
        yield f"nul.{suffix}", data[: len(data) // 2] + b"\0" * 1000 + data[len(data) // 2 :]


def documents() -> dict[str, bytes]:
    files = samples()
    made = dict(part for source in (bombs(files), nested(files), expanding(files), pdfs()) for part in source)
    noise = random.Random(1)
    for name, data in derived(files):
        made[name] = data
    while len(made) < 300:
        suffix = noise.choice(sorted(files))
        made[f"noise-{len(made)}.{suffix}"] = noise.randbytes(noise.randrange(1, 5000))
    return made


def write(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    made = documents()
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return sorted(made)


if __name__ == "__main__":
    print(len(write(Path(sys.argv[1]))), "documents")
