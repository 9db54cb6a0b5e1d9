"""A PDF → paragraphs of text."""

from __future__ import annotations

import logging
import re
from collections import Counter
from io import BytesIO

from selfedit.errors import DocumentError

_PAGE_NUMBER = re.compile(r"\s*(?:page\s+)?[-–—]?\s*\d{1,4}\s*(?:(?:of|/)\s*\d{1,4})?\s*[-–—]?\s*", re.I)
_HYPHENATION = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]\n[ \t]*(?=[^\W\d_A-Z])")
"""The hyphen and the line break inside of a divided word."""
_FILE_NAME = re.compile(r"\.\w{2,5}\s*$|^untitled|^microsoft \w+ - ", re.I)
"""A title that the program wrote, not the author."""


def read_pdf(data: bytes) -> tuple[str, str]:
    """Returns the title and the text. Raises DocumentError without a source."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every defect that it repairs
    try:
        reader = PdfReader(BytesIO(data))
        pages = [_page_text(page) for page in reader.pages]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (FileNotDecryptedError, DependencyError):
        raise DocumentError("an encrypted PDF; save a copy without password first") from None
    except Exception as error:  # a damaged file makes pypdf raise exceptions of any kind
        raise DocumentError(f"a damaged PDF ({type(error).__name__}); save or download it again") from None
    text = _HYPHENATION.sub("", _without_frame(pages)).strip()
    if not text:
        raise DocumentError("a PDF without text, perhaps scanned pages; run OCR on it first (e.g. ocrmypdf)")
    return "" if _FILE_NAME.search(title) else title, text


def _page_text(page) -> str:
    """The text of a page; on a form, each line with the values of the fields that stand in it."""
    values = [value for annotation in page.get("/Annots") or () if (value := _field_value(annotation.get_object()))]
    if not values:
        return page.extract_text()
    found: list[tuple[float, float, str]] = []

    def visit(text: str, matrix: list[float], text_matrix: list[float], font: object, size: float) -> None:
        x, y = text_matrix[4], text_matrix[5]
        if text.strip():
            found.append(
                (matrix[1] * x + matrix[3] * y + matrix[5], matrix[0] * x + matrix[2] * y + matrix[4], text.strip())
            )

    page.extract_text(visitor_text=visit)
    lines: list[list[tuple[float, float, str]]] = []
    for piece in sorted(found + values, key=lambda piece: -piece[0]):
        if lines and abs(lines[-1][0][0] - piece[0]) < 8:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return "\n".join(" ".join(text for _, _, text in sorted(line, key=lambda piece: piece[1])) for line in lines)


def _field_value(field) -> tuple[float, float, str] | None:
    """The bottom, the left and the value of a form field that is filled in."""
    parent = field["/Parent"].get_object() if "/Parent" in field else {}
    value = field.get("/V", parent.get("/V"))
    if field.get("/Subtype") != "/Widget" or value in (None, "", "/Off") or "/Rect" not in field:
        return None
    if (field.get("/FT") or parent.get("/FT")) == "/Btn":
        value = "[x]" if field.get("/AS", value) != "/Off" else "[ ]"
    left, bottom = float(field["/Rect"][0]), float(field["/Rect"][1])
    return bottom, left, str(value)


def _without_frame(pages: list[str]) -> str:
    """The pages without page numbers and without the first and last lines that most pages share."""
    lines = [page.strip("\n").split("\n") for page in pages]
    edges = Counter(re.sub(r"\d+", "#", line.strip()) for page in lines for line in {page[0], page[-1]})
    shared = {line for line, count in edges.items() if line and count > max(2, len(pages) / 2)}
    for page in lines:
        for edge in (0, -1):
            if page and (
                re.sub(r"\d+", "#", page[edge].strip()) in shared
                or len(pages) > 1
                and _PAGE_NUMBER.fullmatch(page[edge])
            ):
                del page[edge]
    return "\n".join("\n".join(page) for page in lines)
