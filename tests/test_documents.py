"""Documents in every format become passages; what cannot be read is one clear line."""

from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from selfedit.documents.old_passages import count_words, split_passages
from selfedit.documents.read import read_documents, read_text
from selfedit.errors import DocumentError


def sentences(words: int, word: str = "word") -> str:
    """That many words, all different, a full stop after every tenth."""
    return " ".join(f"{word.capitalize()}{i}" + "." * (i % 10 == 9) for i in range(words))


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(*sources: str, **options) -> list[str]:
    return [passage.text for passage in read_documents(sources, **options).passages]


def refusal(*sources: str, **options) -> str:
    with pytest.raises(DocumentError) as caught:
        read_documents(sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith((sources[-1], repr(sources[-1])))
    return message


def pdf_with_text(line: str) -> bytes:
    """The smallest PDF that shows one line of text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    pdf, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(pdf))
        pdf += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return pdf + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        len(pdf),
    )


def pdf_from(writer: PdfWriter) -> bytes:
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


# Splitting


def test_a_short_document_stays_one_passage_up_to_a_quarter_over_the_limit():
    whole = split_passages("", sentences(125), "", passage_words=100)
    assert [passage.text for passage in whole] == [sentences(125)]
    assert len(split_passages("", sentences(126), "", passage_words=100)) == 2


def test_350_words_with_a_limit_of_220_become_two_halves_that_end_with_sentences():
    parts = split_passages("", sentences(350), "", passage_words=220)
    assert sorted(count_words(part.text) for part in parts) == [170, 180]
    assert all(part.text.endswith(".") for part in parts)
    assert [part.index for part in parts] == [0, 1]


def test_a_paragraph_that_fits_is_not_cut():
    paragraphs = [sentences(90, "a"), sentences(60, "b"), sentences(70, "c"), sentences(80, "d")]
    parts = split_passages("", "\n\n".join(paragraphs), "", passage_words=160)
    assert [part.text for part in parts] == ["\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[2:])]


@pytest.mark.parametrize("passage_words", [20, 50, 100, 220])
@pytest.mark.parametrize(
    "text",
    [
        "# Guide\n\n" + "\n\n".join(f"## Part {i}?\n\n{sentences(37 * i, 'p')}" for i in range(12)),
        "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(200)),
        " ".join(f"w{i}" for i in range(1000)),
        "x" * 30_000,
        "漢字。" * 1000,
        "Well. " * 500,
        "a\n\n" * 400 + "end",
    ],
    ids=["markdown", "code", "one sentence", "no spaces", "Chinese", "tiny sentences", "tiny paragraphs"],
)
def test_passages_are_the_whole_text_in_order_and_none_is_too_long_or_tiny(text, passage_words):
    parts = split_passages("", text, "", passage_words=passage_words)
    assert "".join("".join(part.text for part in parts).split()) == "".join(text.split())
    sizes = [count_words(part.text) for part in parts]
    assert max(sizes) <= passage_words
    assert min(sizes) >= 5


def test_no_passage_is_a_scrap_between_two_paragraphs_as_long_as_the_limit():
    text = f"{sentences(100, 'a')}\n\nA scrap.\n\n{sentences(100, 'b')}"
    sizes = [count_words(part.text) for part in split_passages("", text, "", passage_words=100)]
    assert sum(sizes) == 202
    assert min(sizes) >= 60


def test_a_break_before_a_heading_is_preferred_to_a_more_even_one():
    text = f"{sentences(80, 'a')}\n\n## B\n\n{sentences(8, 'b')}\n\n{sentences(90, 'c')}"
    parts = split_passages("", text, "", passage_words=100)
    assert [count_words(part.text) for part in parts] == [80, 100]


def test_a_heading_begins_a_passage_and_is_named_in_its_title():
    text = f"# Guide\n\n## Installing\n\n{sentences(90, 'a')}\n\n## Using\n\n{sentences(90, 'b')}"
    parts = split_passages("Guide", text, "guide.md", passage_words=100)
    assert [part.title for part in parts] == ["Guide — Installing", "Guide — Using"]
    assert parts[0].text.startswith("# Guide\n\n## Installing\n\nA0 ")
    assert parts[1].text == f"## Using\n\n{sentences(90, 'b')}"


def test_a_heading_equal_to_the_title_is_not_said_twice():
    parts = split_passages("Guide", f"# Guide\n\n{sentences(200)}", "", passage_words=100)
    assert {part.title for part in parts} == {"Guide"}


@pytest.mark.parametrize(("before", "after"), [(89, 190), (70, 95)])
def test_a_heading_is_not_parted_from_its_text_even_if_it_asks(before, after):
    text = f"{sentences(before)}\n\n## What is to be done now?\n\n{sentences(after, 'b')}"
    parts = split_passages("", text, "", passage_words=100)
    assert sum("## What is to be done now?\n\nB0 " in part.text for part in parts) == 1


def test_initials_and_forms_of_address_end_no_sentence():
    words = "Dr. Smith and J. Jones met Mrs. Brown in the U.S. Army and then " * 10
    parts = split_passages("", words + "left. " + words + "left.", "", passage_words=145)
    assert [part.text[-5:] for part in parts] == ["left.", "left."]


def test_a_code_fence_is_cut_between_lines_and_its_comments_are_no_headings():
    lines = [f"# Step {i}. Then call step_{i}(first, second)" for i in range(60)]
    text = "Intro to it all.\n\n```python\n" + "\n\n".join(lines) + "\n```\n\nThe end of it all."
    parts = split_passages("T", text, "", passage_words=100)
    assert {part.title for part in parts} == {"T"}
    assert {line for part in parts for line in part.text.splitlines()} == set(text.splitlines())


def test_a_code_fence_that_fits_is_not_cut_at_its_blank_lines():
    fence = "```\n" + "\n\n".join(f"first_{i}() second_{i}() third_{i}()" for i in range(20)) + "\n```"
    parts = split_passages("", f"{sentences(60)}\n\n{fence}\n\n{sentences(60)}", "", passage_words=100)
    assert [fence in part.text for part in parts].count(True) == 1


def test_a_limit_too_small_to_hold_a_sentence_is_refused():
    with pytest.raises(ValueError, match="passage_words is 3: give at least 20"):
        split_passages("", "text", "", passage_words=3)


# Formats


def test_text_is_normalised_but_keeps_its_indentation(tmp_path):
    path = write(tmp_path, "notes.txt", "\r\n  one  \r\ntwo\t\r\n\r\n\r\n\r\nthree\r\n")
    assert texts(path) == ["  one\ntwo\n\nthree"]


def test_a_document_without_a_title_is_titled_by_its_file_name(tmp_path):
    (passage,) = read_documents([write(tmp_path, "release_notes-2026.txt", "Nothing new this year.")]).passages
    assert (passage.title, passage.source) == ("release notes 2026", str(tmp_path / "release_notes-2026.txt"))


def test_markdown_is_titled_by_its_first_heading_outside_a_fence(tmp_path):
    path = write(tmp_path, "a.md", "```sh\n# not this\n```\n# The *Guide* #\n\nText.")
    assert read_documents([path]).passages[0].title == "The *Guide*"


def test_a_comment_in_source_code_is_no_heading(tmp_path):
    path = write(tmp_path, "my_tool.py", "# A comment\nprint('hello')\n")
    (passage,) = read_documents([path]).passages
    assert (passage.title, passage.text) == ("my tool", "# A comment\nprint('hello')")


def test_underlined_headings_of_restructured_text_are_headings(tmp_path):
    text = f"=====\nGuide\n=====\n\nInstalling\n----------\n\n{sentences(90)}\n\nUsing\n-----\n\n{sentences(90, 'b')}"
    passages = read_documents([write(tmp_path, "a.rst", text)], passage_words=100).passages
    assert [passage.title for passage in passages] == ["Guide — Installing", "Guide — Using"]
    assert passages[0].text.startswith("# Guide\n\n## Installing\n\nWord0 ")


def test_html_becomes_markdown_without_the_page_around_it(tmp_path):
    html = """<html><head><title> My
      page </title><style>p {}</style></head><body><nav>Menu</nav><header>Logo</header><!-- hidden -->
      <h2>Setting <em>up</em><a class="headerlink" href="#">¶</a></h2>
      <p>First   do
      this.<p>Then that &amp; more.</p> <ul><li><p>one</p></li><li> two</li></ul>
      <pre>def f():
    return 1</pre><table><tr><td>a</td><td>b</td></tr></table><script>bad()</script><footer>(c)</footer></html>"""
    (passage,) = read_documents([write(tmp_path, "a.html", html)]).passages
    assert passage.title == "My page"
    assert passage.text == (
        "## Setting up\n\nFirst do this.\n\nThen that & more.\n\n- one\n\n- two\n\n"
        "```\ndef f():\n    return 1\n```\n\na b"
    )


def test_html_without_a_title_is_titled_by_its_first_heading(tmp_path):
    path = write(tmp_path, "a.htm", "<title></title><article><header><h1>Hello</h1></header><p>Text.</p></article>")
    assert read_documents([path]).passages[0].title == "Hello"


def test_thousands_of_paragraphs_that_are_never_closed_are_read(tmp_path):
    html = "".join(f"<p>Line number {i}." for i in range(5000))
    words = " ".join(texts(write(tmp_path, "a.html", html))).split()
    assert words[2::3] == [f"{i}." for i in range(5000)]


def test_html_is_decoded_as_it_declares(tmp_path):
    html = '<meta http-equiv="content-type" content="text/html; charset=iso-8859-1"><p>café</p>'
    assert texts(write(tmp_path, "a.html", html.encode("latin-1"))) == ["café"]


def test_a_pdf_gives_its_text(tmp_path):
    (passage,) = read_documents([write(tmp_path, "a_paper.pdf", pdf_with_text("Lobsters are blue."))]).passages
    assert (passage.title, passage.text) == ("a paper", "Lobsters are blue.")


def test_a_pdf_is_known_by_its_first_bytes_and_titled_by_its_metadata(tmp_path):
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf_with_text("Lobsters are blue."))))
    writer.add_metadata({"/Title": "On Lobsters"})
    assert read_documents([write(tmp_path, "download", pdf_from(writer))]).passages[0].title == "On Lobsters"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_utf_8_and_whatever_has_a_byte_order_mark_is_read(tmp_path, encoding):
    path = write(tmp_path, "a.txt", "naïve café".encode(encoding))
    assert texts(path) == ["naïve café"]
    assert read_text(path) == "naïve café"
