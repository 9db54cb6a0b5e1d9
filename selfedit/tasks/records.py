"""Data files of JSON or JSON lines, with checked access to their fields.

In: a path; a file whose name ends in .gz is unzipped. Out: values of the requested type, or a DocumentError that names
the file, the item or line, and the fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import TypeVar

from selfedit.documents.read import read_text
from selfedit.errors import DocumentError
from selfedit.types import as_utf8

T = TypeVar("T", str, int, list, dict, bool)

MAX_BYTES = 500_000_000
_KINDS = {
    str: "text",
    int: "a whole number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    type(None): "null",
}


def read_json(path: str | PurePath) -> object:
    """Returns the value of a JSON file, or the list of the values of a file named .jsonl."""
    if ".jsonl" in PurePath(path).suffixes:
        return [value for _, value in read_jsonl(path)]
    return _parse(read_text(path, MAX_BYTES), str(path))


def read_jsonl(path: str | PurePath) -> Iterator[tuple[str, object]]:
    """Yields the position (for messages) and the value of each line that is not blank; raises if there is none."""
    is_empty = True
    # JSON text may have U+2028 and similar characters inside a line; splitlines() would split at them.
    for number, line in enumerate(read_text(path, MAX_BYTES).split("\n"), start=1):
        if line.strip():
            is_empty = False
            yield f"{path} line {number}", _parse(line, f"{path} line {number}")
    if is_empty:
        raise DocumentError(f"{path}: empty; give one JSON object per line")


def expect(value: object, kind: type[T], where: str, *, may_be_empty: bool = False) -> T:
    """Returns the value if it has the given type and, unless `may_be_empty`, is not empty; raises DocumentError."""
    if not isinstance(value, kind):
        actual = "a number" if type(value) in (int, float) else _KINDS[type(value)]
        raise DocumentError(f"{where}: should be {_KINDS[kind]}, is {actual}")
    if not (may_be_empty or kind is bool or (value.strip() if isinstance(value, str) else value)):
        raise DocumentError(f"{where}: is empty")
    if isinstance(value, str) and as_utf8(value) != value:
        raise DocumentError(f"{where}: has half a character (a surrogate without its other half)")
    return value


def field(item: object, name: str, kind: type[T], where: str, *, may_be_empty: bool = False) -> T:
    """Returns item[name], checked as by `expect`; raises DocumentError if it is missing."""
    fields = expect(item, dict, where)
    if name not in fields:
        raise DocumentError(f"{where}: {name!r} is missing; there is {', '.join(map(repr, fields))}")
    return expect(fields[name], kind, f"{where}: {name!r}", may_be_empty=may_be_empty)


def numbered(values: object, where: str, *, may_be_empty: bool = False) -> Iterator[tuple[str, object]]:
    """Yields the position (as in `file.json.data[2].paragraphs[0]`) and the value of each element of a list."""
    for index, value in enumerate(expect(values, list, where, may_be_empty=may_be_empty)):
        yield f"{where}[{index}]", value


def elements(item: object, name: str, where: str, *, may_be_empty: bool = False) -> Iterator[tuple[str, object]]:
    values = field(item, name, list, where, may_be_empty=may_be_empty)
    yield from numbered(values, f"{where}.{name}", may_be_empty=may_be_empty)


def optional_id(item: dict, where: str) -> str:
    """Returns the id of an item, a text or a number, as text; empty if it has none."""
    id = item.get("id", "")
    return str(id) if isinstance(id, int) else (expect(id, str, f"{where}: 'id'") if id else "")


def gold_answers(item: object, where: str) -> tuple[str, ...]:
    """Returns the distinct answers from `answer` (the canonical one), from the list `answers`, or from both."""
    fields = expect(item, dict, where)
    if "answers" not in fields:
        return (field(item, "answer", str, where),)
    answers = [expect(answer, str, at) for at, answer in elements(item, "answers", where)]
    if "answer" in fields:
        answers.insert(0, field(item, "answer", str, where))
    return tuple(dict.fromkeys(answers))


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not JSON ({error})") from None
