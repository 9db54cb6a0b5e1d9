"""Documents in every format become passages; what cannot be read is one clear line."""

import logging
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from selfedit.errors import DocumentError
from selfedit.tasks.documents import read_documents, read_text
from selfedit.tasks.passages import count_words, split_passages


def sentences(words: int, word: str = "word") -> str:
    """That many words, all different, a full stop after every tenth."""
    return " ".join(f"{word.capitalize()}{i}" + "." * (i % 10 == 9) for i in range(words))


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(*sources: str, **options) -> list[str]:
    return [passage.text for passage in read_documents(sources, **options)]


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
    (passage,) = read_documents([write(tmp_path, "release_notes-2026.txt", "Nothing new this year.")])
    assert (passage.title, passage.source) == ("release notes 2026", str(tmp_path / "release_notes-2026.txt"))


def test_markdown_is_titled_by_its_first_heading_outside_a_fence(tmp_path):
    path = write(tmp_path, "a.md", "```sh\n# not this\n```\n# The *Guide* #\n\nText.")
    assert read_documents([path])[0].title == "The *Guide*"


def test_a_comment_in_source_code_is_no_heading(tmp_path):
    path = write(tmp_path, "my_tool.py", "# A comment\nprint('hello')\n")
    (passage,) = read_documents([path])
    assert (passage.title, passage.text) == ("my tool", "# A comment\nprint('hello')")


def test_underlined_headings_of_restructured_text_are_headings(tmp_path):
    text = f"=====\nGuide\n=====\n\nInstalling\n----------\n\n{sentences(90)}\n\nUsing\n-----\n\n{sentences(90, 'b')}"
    passages = read_documents([write(tmp_path, "a.rst", text)], passage_words=100)
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
    (passage,) = read_documents([write(tmp_path, "a.html", html)])
    assert passage.title == "My page"
    assert passage.text == (
        "## Setting up\n\nFirst do this.\n\nThen that & more.\n\n- one\n\n- two\n\n"
        "```\ndef f():\n    return 1\n```\n\na b"
    )


def test_html_without_a_title_is_titled_by_its_first_heading(tmp_path):
    path = write(tmp_path, "a.htm", "<title></title><article><header><h1>Hello</h1></header><p>Text.</p></article>")
    assert read_documents([path])[0].title == "Hello"


def test_thousands_of_paragraphs_that_are_never_closed_are_read(tmp_path):
    html = "".join(f"<p>Line number {i}." for i in range(5000))
    words = " ".join(texts(write(tmp_path, "a.html", html))).split()
    assert words[2::3] == [f"{i}." for i in range(5000)]


def test_html_is_decoded_as_it_declares(tmp_path):
    html = '<meta http-equiv="content-type" content="text/html; charset=iso-8859-1"><p>café</p>'
    assert texts(write(tmp_path, "a.html", html.encode("latin-1"))) == ["café"]


def test_a_pdf_gives_its_text(tmp_path):
    (passage,) = read_documents([write(tmp_path, "a_paper.pdf", pdf_with_text("Lobsters are blue."))])
    assert (passage.title, passage.text) == ("a paper", "Lobsters are blue.")


def test_a_pdf_is_known_by_its_first_bytes_and_titled_by_its_metadata(tmp_path):
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf_with_text("Lobsters are blue."))))
    writer.add_metadata({"/Title": "On Lobsters"})
    assert read_documents([write(tmp_path, "download", pdf_from(writer))])[0].title == "On Lobsters"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_utf_8_and_whatever_has_a_byte_order_mark_is_read(tmp_path, encoding):
    path = write(tmp_path, "a.txt", "naïve café".encode(encoding))
    assert texts(path) == ["naïve café"]
    assert read_text(path) == "naïve café"


# Folders and several sources


def test_a_folder_is_read_in_order_without_what_is_hidden_or_of_another_type(tmp_path):
    for name in ["b.md", "a.txt", "sub/c.md", ".secret.md", ".git/d.md", "picture.png", "sub/.e.txt"]:
        write(tmp_path, name, f"Text of {name}")
    assert texts(str(tmp_path)) == ["Text of a.txt", "Text of b.md", "Text of sub/c.md"]


def test_a_bad_file_in_a_folder_is_skipped_with_its_reason(tmp_path):
    good, empty = write(tmp_path, "good.txt", "Good text."), write(tmp_path, "empty.txt", "")
    binary, broken = write(tmp_path, "binary.txt", b"a\0b"), tmp_path / "broken.txt"
    broken.symlink_to(tmp_path / "gone")
    skipped: list[str] = []
    (passage,) = read_documents([str(tmp_path)], on_skip=skipped.append)
    assert passage.source == good
    assert [reason.split(": ")[0].strip("'") for reason in skipped] == [binary, str(broken), empty]


def test_a_file_that_is_named_outright_is_read_whatever_its_suffix(tmp_path):
    assert texts(write(tmp_path, "notes.png", "Not a picture.")) == ["Not a picture."]


def test_the_same_passage_is_given_once_for_each_document_that_has_it(tmp_path):
    first, second = write(tmp_path, "x/a.md", "# One\n\nSame."), write(tmp_path, "y/a.md", "# One\n\nSame.\n")
    one, other = read_documents([first, second, first])
    assert one.id == other.id and (one.source, other.source) == (first, second)


def test_a_file_name_that_is_not_unicode_does_no_harm(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    with open(path, "w") as file:
        file.write("Some text.")
    (passage,) = read_documents([str(tmp_path)])
    assert (passage.title, passage.text, len(passage.id)) == ("caf?", "Some text.", 16)


# What cannot be read


def test_a_missing_path_is_refused(tmp_path):
    assert "no such file or folder" in refusal(str(tmp_path / "gone.txt"))
    assert "a web address starts with http" in refusal("www.example.com/page")
    assert "no such file or folder" in refusal("")
    assert "no such file or folder" in refusal("a\0b")


def test_an_empty_file_is_refused(tmp_path):
    assert "empty" in refusal(write(tmp_path, "a.txt", ""))


@pytest.mark.parametrize(("name", "content"), [("a.txt", " \n\t\n "), ("a.html", "<p> <script>x</script></p>")])
def test_a_file_of_white_space_or_markup_alone_is_refused(tmp_path, name, content):
    assert "only white space or markup" in refusal(write(tmp_path, name, content))


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.docx"])
def test_a_binary_file_is_refused(tmp_path, name):
    assert "a binary file" in refusal(write(tmp_path, name, b"PK\x03\x04\0\0\0text"))


def test_another_encoding_is_refused(tmp_path):
    message = refusal(write(tmp_path, "a.txt", "café au lait".encode("latin-1")))
    assert "position 3" in message and "save it as UTF-8" in message


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(200_000_000)  # sparse: takes no space
    assert "200.0 MB, over the limit of 20 MB" in refusal(str(path))


def test_a_pdf_without_text_is_refused_with_the_advice_to_use_ocr(tmp_path):
    writer = PdfWriter()
    writer.add_blank_page(200, 200)
    assert "a PDF without text" in (message := refusal(write(tmp_path, "a.pdf", pdf_from(writer)))) and "OCR" in message


def test_an_encrypted_pdf_is_refused(tmp_path):
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf_with_text("Secret."))))
    writer.encrypt("password", algorithm="RC4-128")
    assert "an encrypted PDF" in refusal(write(tmp_path, "a.pdf", pdf_from(writer)))


@pytest.mark.parametrize("content", [b"%PDF-1.4 and then nonsense", b"no PDF at all", pdf_with_text("Cut off.")[:200]])
def test_a_damaged_pdf_is_refused_without_noise_in_the_log(tmp_path, content, caplog):
    with caplog.at_level(logging.DEBUG):
        message = refusal(write(tmp_path, "a.pdf", content))
    assert "a damaged PDF" in message or "a PDF without text" in message
    assert [record for record in caplog.records if record.name.startswith("pypdf")] == []


def test_damaged_html_is_refused(tmp_path):
    assert "damaged HTML" in refusal(write(tmp_path, "a.html", "<p>text <![nonsense <p>"))


def test_a_folder_with_nothing_readable_is_refused(tmp_path):
    write(tmp_path, "picture.png", b"\x89PNG")
    assert "no readable document" in refusal(str(tmp_path))


def test_a_device_is_refused():
    assert "neither a file nor a folder" in refusal("/dev/null")


@contextmanager
def no_privileges():
    """root may read everything, so a test of permissions acts as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_refused():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder, "a.txt", "text")
        closed = folder / "closed"
        closed.mkdir()
        os.chmod(path, 0)
        os.chmod(closed, 0)
        os.chmod(folder, 0o755)
        with no_privileges():
            assert "the folder cannot be listed (Permission denied)" in refusal(str(closed))
            assert "cannot be read (Permission denied)" in refusal(path)
            assert "cannot be read (Permission denied)" in refusal(str(closed / "b.txt"))
            skipped: list[str] = []
            assert "no readable document" in refusal(name, on_skip=skipped.append)
            assert len(skipped) == 2
        os.chmod(closed, 0o700)


# The web


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/page")
            self.end_headers()
            return
        content_type, body = {
            "/page": ("text/html; charset=utf-8", "<title>Página</title><p>Text of the page.</p>".encode()),
            "/user-guide.txt": ("text/plain; charset=iso-8859-1", "café".encode("latin-1")),
            "/paper": ("application/pdf", pdf_with_text("Lobsters are blue.")),
            "/picture": ("image/png", b"\x89PNG\r\n\0\0\0\r"),
            "/large": ("text/plain", b"many words " * 10_000),
            "/silent": ("text/plain", b""),
            "/trickle": ("text/plain", b"0123456789" * 10),
        }.get(self.path, ("text/plain", None))
        self.send_response(200 if body is not None else 404)
        self.send_header("content-type", content_type)
        self.end_headers()
        for byte in body if self.path == "/trickle" else []:
            time.sleep(0.1)
            self.wfile.write(bytes([byte]))
        if self.path == "/silent":
            time.sleep(10)
        elif self.path != "/trickle":
            self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up, as it does on too much or too slow an answer, is no error."""


@pytest.fixture(scope="module")
def site():
    with Server(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_page_is_fetched_through_a_redirect(site):
    (passage,) = read_documents([f"{site}/moved"])
    assert (passage.title, passage.text, passage.source) == ("Página", "Text of the page.", f"{site}/moved")


def test_a_text_from_the_web_is_decoded_as_the_server_says_and_titled_by_its_address(site):
    (passage,) = read_documents([f"{site}/user-guide.txt"])
    assert (passage.title, passage.text) == ("user guide", "café")


def test_a_pdf_is_fetched(site):
    assert texts(f"{site}/paper") == ["Lobsters are blue."]


def test_an_address_that_is_not_found_is_refused(site):
    assert "the server answered 404" in refusal(f"{site}/gone")


def test_a_picture_from_the_web_is_refused(site):
    assert "a binary file" in refusal(f"{site}/picture")


def test_an_oversize_download_is_broken_off(site):
    assert "over the limit of 0.01 MB" in refusal(f"{site}/large", max_bytes=10_000)


@pytest.mark.parametrize("page", ["silent", "trickle"])
def test_a_slow_server_is_given_up_on(site, page):
    started = time.monotonic()
    assert "no complete response within 0.3 s" in refusal(f"{site}/{page}", timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="a folder; name a file in it"):
        read_text(tmp_path)


def test_a_server_that_does_not_answer_is_refused():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        closed_port = server.server_port
    assert "cannot be fetched" in refusal(f"http://127.0.0.1:{closed_port}/")


@pytest.mark.parametrize("url", ["http://", "http://[::1", "https://a b/", "http://127.0.0.1:99999999/"])
def test_an_impossible_address_is_refused(url):
    assert "cannot be fetched" in refusal(url)
