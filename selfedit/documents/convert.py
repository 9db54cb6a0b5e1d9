"""Placeholder until the new conversion lands."""

from selfedit.documents.formats import parse_document
from selfedit.documents.records import Block, Document, Raw
from selfedit.types import Unit


def convert(raw: Raw) -> Document:
    name = f"{raw.name}.html" if raw.media_type == "text/html" and not raw.name.endswith("html") else raw.name
    _, title, text, is_code = parse_document(raw.source, name, raw.data, raw.charset)
    return Document(raw.source, title, (Block((text,), (Unit("sentence", text),)),), is_code)
