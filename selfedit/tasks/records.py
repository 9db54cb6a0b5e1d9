"""Data files of JSON or JSON lines, and their fields, each checked as it is taken.

In: a path; a file whose name ends in .gz is unzipped. Out: values of the kind that was asked for, or a DocumentError
that names the file, the item or line, and what is wrong there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import TypeVar

from selfedit.errors import DocumentError
from selfedit.tasks.documents import read_text
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
    return _parse(read_text(path, MAX_BYTES), str(path))


def read_jsonl(path: str | PurePath) -> Iterator[tuple[str, object]]:
    """(where it stands, for messages; its value) of every line that is not blank; at least one."""
    found = False
    # Not splitlines(): JSON text may hold U+2028 and its like, which end no line.
    for number, line in enumerate(read_text(path, MAX_BYTES).split("\n"), start=1):
        if line.strip():
            found = True
            yield f"{path} line {number}", _parse(line, f"{path} line {number}")
    if not found:
        raise DocumentError(f"{path}: empty; give one JSON object a line")


def expect(value: object, kind: type[T], where: str, *, may_be_empty: bool = False) -> T:
    """The value, which must be of that kind and, unless it may be, not empty."""
    if not isinstance(value, kind):
        raise DocumentError(
            f"{where}: should be {_KINDS[kind]}, is {'a number' if type(value) in (int, float) else _KINDS[type(value)]}"
        )
    if not (may_be_empty or kind is bool or (value.strip() if isinstance(value, str) else value)):
        raise DocumentError(f"{where}: is empty")
    if isinstance(value, str) and as_utf8(value) != value:
        raise DocumentError(f"{where}: has half a character (a surrogate without its other half)")
    return value


def field(item: object, name: str, kind: type[T], where: str, *, may_be_empty: bool = False) -> T:
    """item[name], which must be there, of that kind and, unless it may be, not empty."""
    fields = expect(item, dict, where)
    if name not in fields:
        raise DocumentError(f"{where}: {name!r} is missing; there is {', '.join(map(repr, fields))}")
    return expect(fields[name], kind, f"{where}: {name!r}", may_be_empty=may_be_empty)


def numbered(values: object, where: str) -> Iterator[tuple[str, object]]:
    """(where it stands, as in `file.json.data[2].paragraphs[0]`; the value) for each value of a list."""
    for index, value in enumerate(expect(values, list, where)):
        yield f"{where}[{index}]", value


def elements(item: object, name: str, where: str) -> Iterator[tuple[str, object]]:
    yield from numbered(field(item, name, list, where), f"{where}.{name}")


def optional_id(item: dict, where: str) -> str:
    """What the file calls it, text or number; empty where it says nothing."""
    found = item.get("id", "")
    return str(found) if isinstance(found, int) else (expect(found, str, f"{where}: 'id'") if found else "")


def gold_answers(item: object, where: str) -> tuple[str, ...]:
    """From `answer`, the canonical one, or the list `answers`, or both; each once."""
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
