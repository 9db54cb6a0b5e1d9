"""Workbooks and slides → blocks and HTML.

Pandoc cannot open the workbooks of openpyxl, and loses the notes, lists and struck text of slides.
"""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Iterator

from selfedit.documents.records import Block
from selfedit.documents.tables import table_blocks
from selfedit.errors import DocumentError

MAX_MERGED = 10_000
"""Cells of one merged area."""


def read_workbook(data: bytes) -> tuple[str, list[Block]]:
    """The title and the rows of the visible sheets, rows and columns; formulas as their last results."""
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl warns of every extension that it does not know
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            blocks = [
                block
                for sheet in sheets
                for block in table_blocks(_rows(sheet), (sheet.title,) if len(sheets) > 1 else ())
            ]
        except Exception as error:  # a damaged file makes openpyxl raise exceptions of any kind
            raise DocumentError(f"a damaged workbook ({type(error).__name__}); save it again") from None
    return book.properties.title or "", blocks


def _rows(sheet) -> list[list[str]]:
    merged = {
        place: sheet.cell(area.min_row, area.min_col)
        for area in sheet.merged_cells.ranges
        if area.size["rows"] * area.size["columns"] <= MAX_MERGED
        for place in area.cells
    }
    hidden = {i for size in sheet.column_dimensions.values() if size.hidden for i in range(size.min, size.max + 1)}
    return [
        [_cell_text(merged.get((cell.row, cell.column), cell)) for cell in row if cell.column not in hidden]
        for row in sheet.iter_rows()
        if not sheet.row_dimensions[row[0].row].hidden
    ]


def _cell_text(cell) -> str:
    value, form = cell.value, cell.number_format or ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value * 100:.10g}%" if form.endswith("%") else f"{value:.15g}"
    return " ".join(str("" if value is None else value).removesuffix(" 00:00:00").split())


def slides_html(data: bytes) -> str:
    """Each slide as a section: its title, its texts as lists, its tables, and the notes of the speaker."""
    from pptx import Presentation

    try:
        deck = Presentation(io.BytesIO(data))
        title = html.escape(deck.core_properties.title or "")
        return f"<title>{title}</title><main>{''.join(part for slide in deck.slides for part in _slide(slide))}</main>"
    except Exception as error:  # a damaged file makes python-pptx raise exceptions of any kind
        raise DocumentError(f"a damaged presentation ({type(error).__name__}); save it again") from None


def _slide(slide) -> Iterator[str]:
    if slide.element.get("show") == "0":
        return
    title = slide.shapes.title
    if title is not None and title.has_text_frame:
        yield f"<h2>{' '.join(_runs(paragraph) for paragraph in title.text_frame.paragraphs)}</h2>"
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            yield from _paragraphs(shape)
        elif getattr(shape, "has_table", False):
            yield "<table>"
            for index, row in enumerate(shape.table.rows):
                tag = "th" if index == 0 and shape.table.first_row else "td"
                cells = (" ".join(map(_runs, cell.text_frame.paragraphs)) for cell in row.cells)
                yield f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"
            yield "</table>"
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        yield "".join(f"<p>{_runs(paragraph)}</p>" for paragraph in notes.paragraphs)


def _shapes(shapes) -> Iterator:
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _paragraphs(shape) -> Iterator[str]:
    """The paragraphs of a shape: those of a placeholder are the items of a list, nested by their levels."""
    paragraphs = shape.text_frame.paragraphs
    if not shape.is_placeholder or len(paragraphs) < 2:
        yield from (f"<p>{_runs(paragraph)}</p>" for paragraph in paragraphs)
        return
    yield "<ul>"
    for paragraph in paragraphs:
        yield "<ul>" * paragraph.level + f"<li>{_runs(paragraph)}</li>" + "</ul>" * paragraph.level
    yield "</ul>"


def _runs(paragraph) -> str:
    """The text of a paragraph with the marks that change its meaning."""
    parts = []
    for run in paragraph.runs:
        properties, text = run._r.rPr, html.escape(run.text)
        raised = int(properties.get("baseline") or 0) if properties is not None else 0
        if properties is None or properties.get("strike") in (None, "noStrike"):
            parts.append(f"<sup>{text}</sup>" if raised > 0 else f"<sub>{text}</sub>" if raised < 0 else text)
    return "".join(parts)
