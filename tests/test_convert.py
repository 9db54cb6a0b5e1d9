"""Documents of every format become text that means what the document means."""

import io
import json
import logging
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from document_files import pdf_from, pdf_with_text
from pypdf import PdfReader, PdfWriter

from selfedit.documents.convert import convert
from selfedit.documents.passages import split
from selfedit.documents.records import Document, Raw
from selfedit.errors import DocumentError

CASES = Path(__file__).parent / "data" / "documents"


def document(name: str, content: str | bytes, **known) -> Document:
    return convert(Raw(f"/{name}", name, content if isinstance(content, bytes) else content.encode(), **known))


def text(name: str, content: str | bytes, **known) -> str:
    """The title and the passages of a document."""
    return "\n\n".join(f"{p.title}\n{p.text}" for p in split(document(name, content, **known), passage_words=220))


def refusal(name: str, content: str | bytes, **known) -> str:
    with pytest.raises(DocumentError) as caught:
        document(name, content, **known)
    message = str(caught.value)
    assert message.startswith(f"/{name}: ") and "\n" not in message and len(message) < 400
    return message


FACTS: dict[str, tuple[list[str], list[str]]] = {
    "superscripts.html": (
        ["3 × 10^14 neutrons", "holds 10^6 pellets", "read 2^10 times", "5 W/m² through", "until 2031 [1]."],
        ["1014", "106", "210", "20311", "m2"],
    ),
    "aside-header.html": (
        [
            "Velmora API 4 was released on 3 May 2031 and needs a licence key from Torvik.",
            "Warning: More than 42 calls a minute lock the account for 9 hours.",
            "A session ends after 30 minutes. On weekends it ends after 55 minutes.",
            "The last call of a session is always seal_flow.",
        ],
        ["Home", "Blog", "©", "minutes.1"],
    ),
    "docutils.rst": (
        [
            "Velmora API\nEach client opens a session with begin_flow.",
            "Warning: More than 42 calls a minute lock the account for 9 hours.",
            "A session ends after 30 minutes. On weekends it ends after 55 minutes.",
            "Who may call: Only members of the Torvik guild may call it.",
        ],
        ["pandoc", "===", "[1]", ".."],
    ),
    "ordered-list.html": (
        ["1. Open the grey valve.\n2. Prime the rotor", "3. Turn the key twice.\n4. Log the pressure."],
        [],
    ),
    "table.html": (
        [
            "Plan: Fern Basic; Storage: 20 GB; Support hours: 4",
            "Plan: Fern Plus; Seats: 12; Support hours: 9",
            "Plan: Oak; Seats: 40; Storage: 900 GB; Support hours: 24",
            "Plan: Oak; Seats: 80; Storage: 2 TB; Support hours: 24",
        ],
        [],
    ),
    "table.md": (
        ["Plan: Fern Basic; Storage: 20 GB; Support hours: 4", "Plan: Fern Plus; Seats: 12; Support hours: 9"],
        ["|", "---"],
    ),
    "plans.csv": (["plan: Fern; Basic; seats: 3; price: 1.200,50", "plan: Oak; seats: 40; price: 99"], ['"']),
    "soft-hyphen.html": (
        ["Hafenmeister", "Brunhild Osterkamp", "lighthouse", "Norderwelle", "password", "Zollhausarchive"],
        ["\u00ad", "\u200b"],
    ),
    "notebook.ipynb": (["counted 412 herons in 2031", "plot(herons)", "August 2034"], ["eUK98", "execution_count"]),
    "notebook-as-markdown.md": (["counted 412 herons in 2031", "plot(herons)", "August 2034"], []),
    "front-matter.md": (
        [
            "The Quillon Bridge is dated 2 April 2031.",
            "The bridge was opened by Oda Brenn.",
            "It replaced a ferry. The ferry was called Marla.",
            "It cost 12 million crowns.",
        ],
        ["999", "layout", "post", "draft", "---", "===", "[^1]"],
    ),
    "readme-with-badges.md": (
        [
            "It needs port 7433",
            "Option: depth; Default: 17",
            "Option: ttl; Default: 45 s",
            "The index holds at most 10^6 entries. On Fridays it holds twice as many.",
        ],
        ["1111", "30", "img", "import", "Tabs", "Build", "PyPI", "sidebar", "http", "<"],
    ),
    "readme-clean.md": (["Option: ttl; Default: 45 s", "10^6 entries. On Fridays it holds twice as many."], ["|", "#"]),
    "roles-and-substitutions.rst": (
        [
            "Marlin Gate listens on port 7733, see the port list and Gate.",
            "Note: The default password is changed after 12 days.",
            "Option: depth; Default: 17",
            "Name: alpha; Value: 11",
        ],
        ["9999", "55", "|prod|", ":ref:", "`", "Table", "=="],
    ),
    "ligature.pdf": (["The office in Draffel keeps the field flag of captain Griffin."], ["ﬁ", "ﬂ", "ﬃ", "ﬀ"]),
    "form.pdf": (["Name of the keeper: Orsolya Pender", "Keys handed over: 17"], []),
    "empty_pw_AES-256.pdf": (["The Zander lock opens at 5 in the morning."], ["FINAL"]),
    "report.rtf": (["The Brisk treaty was signed in 2031 by Müller."], ["\\", "Arial", "{"]),
    "latin1-label-windows-1252-bytes.html": (["“we pay 40 € a day” – Wenzel’s rule."], ["\x93", "\ufffd"]),
}
"""File → what must stand in its passages, and what must not."""


@pytest.mark.parametrize("name", FACTS)
def test_the_facts_of_each_case_stand_in_its_passages_and_nothing_that_its_author_struck_or_hid(name):
    read = text(name, (CASES / name).read_bytes())
    facts, absent = FACTS[name]
    assert [fact for fact in facts if fact not in read] == [], read
    assert [word for word in absent if word in read] == [], read


def test_every_case_has_its_facts():
    assert {path.name for path in CASES.iterdir()} == FACTS.keys()


VARIANTS = yaml.safe_load((CASES.parent / "conversions.yaml").read_text())


@pytest.mark.parametrize("case", VARIANTS)
def test_meaning_is_kept(case):
    variant = VARIANTS[case]
    read = text(variant["file"], variant["content"])
    assert [fact for fact in variant["facts"] if fact not in read] == [], read
    assert [word for word in variant.get("absent", ()) if word in read] == [], read


# Five formats of one text


RICH = """# The harbour of Osk

The harbour of Osk was opened on 3 May 2031 by Oda Brenn. It has 14 berths and costs ~~30~~ 45 crowns a day.[^1]

## Rules

> A ship that is late pays double.

1. Open the grey valve.
2. Prime the rotor with *oil*.
3. Turn the key **twice**:
   - once to the left
   - once to the right

The tank holds 10<sup>6</sup> litres and CO<sub>2</sub>.

## Prices

| Berth | Length | Price |
|-------|--------|-------|
| Mole  | 20 m   | 45    |
| Quay  |        | 60    |

Start the pump with this command:

```
pump --speed 7 --valve grey
```

### Night

At night the keeper is Ulf Tarn; see [the list](https://osk.example). His `lamp` is blue.

[^1]: On Sundays it is free.
"""
RICH_RST = """The harbour of Osk
==================

The harbour of Osk was opened on 3 May 2031 by Oda Brenn. It has 14 berths and costs 45 crowns a day. [#]_

Rules
-----

   A ship that is late pays double.

1. Open the grey valve.
2. Prime the rotor with *oil*.
3. Turn the key **twice**:

   - once to the left
   - once to the right

The tank holds 10\\ :sup:`6` litres and CO\\ :sub:`2`.

Prices
------

.. list-table::
   :header-rows: 1

   * - Berth
     - Length
     - Price
   * - Mole
     - 20 m
     - 45
   * - Quay
     -
     - 60

Start the pump with this command::

   pump --speed 7 --valve grey

Night
~~~~~

At night the keeper is Ulf Tarn; see `the list <https://osk.example>`_. His ``lamp`` is blue.

.. [#] On Sundays it is free.
"""


def pandoc(text: str, to: str, folder: Path, format: str = "markdown") -> bytes:
    """The text in another format; its raw HTML as what it means."""
    import subprocess

    from pypandoc import get_pandoc_path

    text = re.sub(r"<su(?:p>(.*?)</sup|b>(.*?)</sub)>", lambda m: f"^{m[1]}^" if m[1] else f"~{m[2]}~", text)
    path = folder / f"made.{to}"
    command = [get_pandoc_path(), "-s", "--metadata", "title=", "-f", format, "-t", to, "-o", str(path)]
    subprocess.run(command, input=text.encode(), check=True, capture_output=True)
    return path.read_bytes()


def cells(text: str) -> str:
    """The text as a notebook whose code block is a cell."""
    before, code, after = re.split(r"```\n", text)
    kinds = ("markdown", "code", "markdown")
    return json.dumps(
        {
            "cells": [
                {"cell_type": kind, "source": source.strip().splitlines(keepends=True), "outputs": []}
                for kind, source in zip(kinds, (before.replace("[^1]", " On Sundays it is free."), code, after))
            ]
        }
    )


def test_five_formats_of_one_text_give_the_same_passages(tmp_path):
    made = {
        "a.md": RICH.encode(),
        "a.html": pandoc(RICH, "html", tmp_path),
        "a.docx": pandoc(RICH, "docx", tmp_path),
        "a.rst": RICH_RST.encode(),
        "a.odt": pandoc(RICH, "odt", tmp_path),
        "a.epub": pandoc(RICH, "epub", tmp_path),
        "a.ipynb": cells(RICH.partition("[^1]: ")[0]).encode(),
    }
    expected = text("a.md", RICH)
    assert "costs 45 crowns a day. On Sundays it is free.\n" in expected
    for name, data in made.items():
        read = text(name, data)
        if name == "a.odt":  # pandoc reads a paragraph in a fixed-width font, and no block of code
            read = read.replace("pump --speed", "```\npump --speed").replace("valve grey", "valve grey\n```")
        assert read.split() == expected.split(), name


# Office documents and mail


def test_slides_keep_titles_lists_marks_tables_and_notes():
    from pptx import Presentation
    from pptx.util import Cm

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Harbour"
    frame = slide.placeholders[1].text_frame
    frame.text = "It holds 10"
    for word, attribute, value in (("6", "baseline", "30000"), (" ships", "", ""), (" or 55", "strike", "sngStrike")):
        run = frame.paragraphs[0].add_run()
        run.text = word
        if attribute:
            run._r.get_or_add_rPr().set(attribute, value)
    frame.add_paragraph().text = "It has 14 berths."
    slide.notes_slide.notes_text_frame.text = "Say that Oda opened it."
    table = deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_table(2, 2, 0, 0, Cm(9), Cm(3)).table
    for row, cells in enumerate((("Berth", "Price"), ("Mole", "45"))):
        for column, cell in enumerate(cells):
            table.cell(row, column).text = cell
    deck.save(buffer := io.BytesIO())
    read = text("a.pptx", buffer.getvalue())
    assert "Harbour\n- It holds 10^6 ships\n- It has 14 berths.\n\nSay that Oda opened it." in read
    assert "Berth: Mole; Price: 45" in read and "55" not in read


def test_a_workbook_gives_what_its_visible_cells_show():
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Plans"
    sheet.append(["Plans of 2031"])
    sheet.append(["Plan", "Secret", "Price", "Start", "Share"])
    sheet.append(["Fern", 77, 1200.5, datetime.date(2031, 4, 2), 0.25])
    sheet.append(["Oak", 78, 99, None, 1])
    sheet.append(["", 79, 88, None, 1])
    sheet.append(["Elm", 80, 66, None, 1])
    sheet["E3"].number_format = "0%"
    sheet.merge_cells("A4:A5")
    sheet.column_dimensions["B"].hidden = True
    sheet.row_dimensions[6].hidden = True
    book.create_sheet("Towns").append(["Osk"])
    hidden = book.create_sheet("Hidden")
    hidden.append([66])
    hidden.sheet_state = "hidden"
    book.save(buffer := io.BytesIO())
    read = text("a.xlsx", buffer.getvalue())
    assert (
        "## Plans\n\nPlans of 2031\n\nPlan: Fern; Price: 1200.5; Start: 2031-04-02; Share: 25%\n"
        "Plan: Oak; Price: 99; Share: 1\nPlan: Oak; Price: 88; Share: 1\n\n## Towns\n\nOsk" in read
    )
    assert not re.search(r"7[789]|66", read)


def test_tracked_changes_of_a_docx_are_accepted_and_its_comments_left_out(tmp_path):
    known = '[("author","O"),("date","2031-01-01T00:00:00Z"),("id","0")]'
    native = (
        f'[Para [Str "It costs ",Span ("",["deletion"],{known}) [Str "30"],Span ("",["insertion"],{known}) [Str "45"],'
        f'Space,Span ("",["comment-start"],{known}) [Str "wrong"],Str "crowns.",Span ("",["comment-end"],{known}) []]]'
    )
    read = text("a.docx", pandoc(native, "docx", tmp_path, "native"))
    assert "It costs 45 crowns." in read and "30" not in read and "wrong" not in read


def test_the_chapters_of_a_book_are_in_order(tmp_path):
    chapters = "".join(f"# Chapter {i}\n\nGate {i} is open.\n\n" for i in range(1, 13))
    read = text("a.epub", pandoc(chapters, "epub", tmp_path))
    assert [int(number) for number in re.findall(r"Gate (\d+) is", read)] == list(range(1, 13))


MAIL = b"""From: Oda Brenn <oda@osk.example>
To: Ulf Tarn <ulf@osk.example>
Date: Mon, 05 May 2031 09:30:00 +0200
Subject: =?utf-8?q?The_gates_of_=C3=96sk?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: multipart/alternative; boundary=y

--y
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Nine gates of =D6sk, plainly.
--y
Content-Type: text/html; charset=utf-8

<p>Nine gates are <s>open</s> shut.</p>
--y--
--x
Content-Type: application/pdf
Content-Disposition: attachment; filename="plan.pdf"
Content-Transfer-Encoding: base64

AAAA
--x--
"""


def test_the_header_of_a_mail_is_facts_and_its_best_text_is_read():
    (passage,) = split(document("a.eml", MAIL), passage_words=220)
    assert passage.title == "The gates of Ösk"
    assert passage.text == (
        "The gates of Ösk was sent by Oda Brenn (oda@osk.example).\n"
        "The gates of Ösk was sent to Ulf Tarn (ulf@osk.example).\n"
        "The gates of Ösk is dated 5 May 2031, 09:30.\n"
        "The gates of Ösk has the attachments plan.pdf.\n\nNine gates are shut."
    )


def test_words_that_a_hyphen_divides_in_a_pdf_are_joined():
    drawn = pdf_with_text("The har-) Tj 0 -14 Td (bour of Osk is well-) Tj 0 -14 Td (Known. It has 9 gates.")
    assert "The harbour of Osk is well-\nKnown." in text("a.pdf", drawn)


def test_a_list_of_lists_in_a_front_matter_is_no_work_without_end():
    levels = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
    assert text("a.md", f"---\na: &a [x, x]\n{levels}title: *i\n---\nNine gates.\n").endswith("Nine gates.")


# Titles


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("release_notes-2031.txt", "Nothing new this year.", "release notes 2031"),
        ("a.md", "```sh\n# not this\n```\n# The *Guide* #\n\nText.", "The Guide"),
        ("my_tool.py", "# A comment\nprint('hello')\n", "my tool"),
        ("a.htm", "<title></title><article><header><h1>Hello</h1></header><p>Text.</p></article>", "Hello"),
        ("a.html", "<title>Gates — Osk docs</title><h1>Gates</h1><p>Nine.", "Gates — Osk docs"),
        ("a.html", "<title>Osk docs</title><h1>Gates</h1><p>Nine.", "Osk docs"),
        ("a.txt", "# Osk\n\nNine.", "Osk"),
        ("a.md", "# One\n\nText.\n\n# Two\n\nText.", "a"),
    ],
)
def test_a_document_has_a_title(name, content, title):
    assert document(name, content).title == title


def test_attributes_without_a_value_are_read():
    line = "<p><a href>A link</a> and <span role class=title-ref>a role</span>.</p>"
    assert document("a.html", line).text == "A link and a role."
    page = (
        "<meta name content><main><p class style id role aria-hidden>One.</p><ol start type><li value>two</ol>"
        "<table role><tr><th colspan rowspan>Key<th>Value<tr><td>a<td>b</table><pre data-caption>code</pre><input type>"
        "<p>Three.<sup role epub:type><a href class role>1</a></sup><a name id></a><img alt src></main>"
    )
    read = document("a.html", page).text
    assert all(part in read for part in ("One.", "1. two", "Key: a; Value: b", "code", "Three."))


def test_text_and_code_keep_their_lines_and_indentation():
    assert document("a.txt", "\r\n  one  \r\ntwo\t\r\n\r\n\r\n\r\nthree\r\n").text == "  one\ntwo\n\nthree"
    assert document("a.py", "# A comment\nif x:\n    y()\n").text == "# A comment\nif x:\n    y()"


# Encodings


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252"]
)
def test_text_is_decoded_with_or_without_a_byte_order_mark(encoding):
    assert (
        document("a.txt", "A naïve café in the old town of Osk".encode(encoding)).text
        == "A naïve café in the old town of Osk"
    )


LABELS = [
    ("cp1252", "iso-8859-1", "“5 €”"),
    ("koi8-r", "KOI8-R", "Гавань"),
    ("shift_jis", "x-sjis", "港は青い"),
    ("gb18030", "gb2312", "港口是蓝色的"),
]


@pytest.mark.parametrize(("encoding", "label", "word"), LABELS)
def test_a_page_is_decoded_as_it_or_its_server_declares(encoding, label, word):
    page = f"<p>{word}".encode(encoding)
    for meta in (f'<meta charset="{label}">', f'<meta http-equiv=content-type content="text/html; charset={label}">'):
        assert document("a.html", meta.encode() + page).text == word
    assert document("a.html", page, charset=label).text == word


def test_a_text_about_encodings_is_decoded_as_what_it_is():
    line = "A page begins with `<meta charset=iso-8859-1>` or `<?xml encoding='koi8-r'?>`, café."
    for name in ("a.md", "a.txt", "a.py"):
        assert "café" in document(name, line).text


def test_russian_text_without_a_label_is_recognized():
    russian = "Гавань была открыта третьего мая. В ней четырнадцать причалов, и каждый день приходят корабли. " * 4
    assert document("a.txt", russian.encode("cp1251")).text == russian.strip()


def test_bytes_that_are_no_text_are_refused():
    assert "not readable as text" in refusal("a.txt", bytes(range(1, 256)) * 40)
    assert "a binary file" in refusal("a.txt", b"\x7fELF\x02\x01\0\0\0\x03\0" * 50)


def test_characters_have_one_form():
    assert document("a.txt", "ﬁeld of\u00a0ﬂags, cafe\u0301, a\u200bb\u00adc").text == "field of flags, café, abc"
    assert document("a.txt", "می\u200cخواهم क्\u200dष").text == "می\u200cخواهم क्\u200dष"


# What cannot be read


@pytest.mark.parametrize("suffix", ["pdf", "docx", "pptx", "xlsx", "odt", "epub", "ipynb"])
@pytest.mark.parametrize("content", [b"no such\0 thing", b"PK\x03\x04\0\0\0text", b"\xd0\xcf\x11\xe0old"])
def test_a_damaged_document_is_refused(suffix, content):
    assert (
        "damaged" in (message := refusal(f"a.{suffix}", content)) or "save it as docx" in message or "binary" in message
    )


@pytest.mark.parametrize("suffix", ["pdf", "docx", "pptx", "xlsx", "odt", "epub", "rtf"])
@pytest.mark.parametrize("start", ["<!DOCTYPE html>", "\ufeff<html>", '<?xml version="1.0"?>\n<!-- saved -->\n<html>'])
def test_html_is_read_under_the_name_of_another_format(suffix, start):
    page = f"{start}<title>A page</title><body><p>Lobsters are blue.</p></body></html>"
    assert document(f"a.{suffix}", page) == document("a.html", page)._replace(source=f"/a.{suffix}")
    assert text(f"a.{suffix}", "<p>Lobsters are blue.", media_type="text/html") == "a\nLobsters are blue."


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.html", "a.rst", "a.csv", "README"])
def test_a_text_about_pdf_files_is_no_pdf(name):
    assert "%PDF-1.7" in document(name, "A PDF starts with %PDF-1.7 and ends with %%EOF.").text


@pytest.mark.parametrize(
    ("name", "media_type"), [("a.pdf", ""), ("paper", "application/pdf"), ("2301.123", "application/pdf")]
)
def test_a_pdf_may_begin_with_other_bytes(name, media_type):
    pdf = pdf_with_text("Lobsters are blue.")
    assert document(name, b"\0junk\n" + pdf, media_type=media_type).text == "Lobsters are blue."
    assert document("a.txt", pdf).text == "Lobsters are blue."


def test_plain_text_under_the_name_of_another_format_is_named_as_such():
    assert "plain text, not a .pdf file; rename it" in refusal("a.pdf", "Lobsters are blue, café.")
    assert "damaged, or not a .docx file; save it again" in refusal("a.docx", b"\1\2\3 damaged")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", bytes(range(1, 256)) * 40),
        ("a.txt", b"\x7fELF\x02\x01\0\0\0\x03\0" * 50),
        ("a.ipynb", "{}"),
        ("a.ipynb", '{"cells": [{"source'),
        ("a.csv", 'name,note\na,"never closed\n' + "b,c\n" * 50_000),
        ("a.md", "# Only\n\n## headings"),
    ],
)
def test_a_refusal_ends_with_what_to_do(name, content):
    fault, _, advice = refusal(name, content).rpartition("; ")
    assert fault and advice.startswith(("save it", "close the quotation mark", "give a document"))


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.html"])
def test_a_file_of_headings_alone_is_refused_as_such(name):
    for content in ("# Title\n", "# Title\n\n## Part one\n\n## Part two\n"):
        content = re.sub("(?m)^#+ (.*)$", r"<h2>\1</h2>", content) if name == "a.html" else content
        assert "has only headings without text below them; give" in refusal(name, content)


def test_a_file_of_white_space_or_markup_alone_is_refused():
    for name, content in {"a.txt": " \n\t\n ", "a.html": "<p> <script>x</script></p>", "a.md": "<!-- x -->"}.items():
        assert "only white space or markup" in refusal(name, content)


def test_an_archive_of_another_kind_is_refused_with_what_is_supported():
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", "text")
    assert "not supported; give text, Markdown" in refusal("a.zip", buffer.getvalue())


def test_a_document_that_unzips_to_too_much_is_refused():
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(310_000_000))
    assert "310 MB when unzipped" in refusal("a.docx", buffer.getvalue())


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx"])
def test_an_encrypted_office_document_is_not_called_old(suffix):
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000)
    assert "before 2007" in refusal(f"a.{suffix}", old)
    encrypted = old + "EncryptedPackage".encode("utf-16-le") + bytes(100)
    assert "an encrypted office document; save a copy without password" in refusal(f"a.{suffix}", encrypted)


def test_a_pdf_without_text_an_encrypted_one_and_a_damaged_one_are_refused(caplog):
    writer = PdfWriter()
    writer.add_blank_page(200, 200)
    assert "OCR" in refusal("a.pdf", pdf_from(writer))
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_with_text("Secret."))))
    writer.encrypt("password", algorithm="AES-256")
    assert "an encrypted PDF" in refusal("a.pdf", pdf_from(writer))
    with caplog.at_level(logging.DEBUG):
        message = refusal("a.pdf", pdf_with_text("Cut off.")[:200])
    assert "a damaged PDF" in message or "a PDF without text" in message
    assert [record for record in caplog.records if record.name.startswith("pypdf")] == []


# Depth and size


OPEN_TAGS = "<div> <ul><li> <b> <blockquote><p> <table><tr><td> <dl><dd> <sup> <article><ol><li>".split()


@pytest.mark.parametrize("open_tag", OPEN_TAGS)
def test_deep_nesting_is_read_to_its_end(open_tag):
    assert "the bottom" in text("a.html", "<p>The top." + open_tag * 3000 + "the bottom")


def test_deeply_nested_markdown_is_read_or_refused():
    for content in (">" * 5000 + " x", "- " * 3000 + "x", "[" * 5000 + "x" + "]" * 5000, "*" * 20_000 + "x"):
        try:
            document("a.md", content)
        except DocumentError as error:
            assert "deeply nested" in str(error) or "white space" in str(error)


def test_thousands_of_paragraphs_that_are_never_closed_are_read():
    words = document("a.html", "".join(f"<p>Line number {i}." for i in range(5000))).text.split()
    assert words[2::3] == [f"{i}." for i in range(5000)]
