"""Questions that people ask about real documents → DocumentQuestions, the documents, and the passage that answers each.

In: JSON lines `{id, document, section, question, answers, kind}`, and the folder that the paths of the documents are
relative to. A path `file.json#id` names the entry with that `id` of a JSON list; its `text` is the document.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfedit.documents import worker
from selfedit.documents.read import load_documents
from selfedit.documents.records import Document, Raw
from selfedit.errors import DocumentError
from selfedit.tasks.records import field, gold_answers, numbered, optional_id, read_json, read_jsonl
from selfedit.text import words
from selfedit.types import Passage, Question

HEADER = "(header)"
"""The section of the header fields, above the first heading."""
_UNDERLINE = re.compile(r"^(?:={4,}|-{4,})$", re.MULTILINE)


@dataclass(frozen=True)
class DocumentQuestion:
    id: str
    document: str
    """A path under the folder of the documents, perhaps with `#id`."""
    section: str
    """The heading above the answer; its parents may come first, separated by ` > `."""
    kind: str
    """What is asked for, e.g. `changed-default`."""
    question: Question


def load_document_questions(file: Path) -> list[DocumentQuestion]:
    """Raises DocumentError that names the line."""
    questions = []
    for at, item in read_jsonl(file):
        document, section, kind, text = (
            field(item, name, str, at) for name in ("document", "section", "kind", "question")
        )
        id = optional_id(item, at) or at
        questions.append(DocumentQuestion(id, document, section, kind, Question(text, gold_answers(item, at))))
    if double := next((id for id, count in Counter(q.id for q in questions).items() if count > 1), None):
        raise DocumentError(f"{file}: two questions have the id {double[:80]!r}; give each its own")
    return questions


def holds_document_questions(file: Path) -> bool:
    """Whether the first line of a file is a question about a document."""
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(next((line for line in lines if line.strip()), ""))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and {"document", "section", "question"} <= first.keys()


def load_document(name: str, folder: Path) -> Document:
    """Reads a document as `learn` does. Raises DocumentError."""
    file, _, id = name.partition("#")
    path = os.path.abspath(folder / file)
    if not id:
        documents, _ = load_documents([path])
        return documents[0]
    for at, item in numbered(read_json(path), path):
        if isinstance(item, dict) and optional_id(item, at) == id:
            text = field(item, "text", str, at)
            suffix = ".rst" if _UNDERLINE.search(text) else ".txt"
            return worker.convert(Raw(f"{path}#{id}", id + suffix, text.encode()))
    raise DocumentError(f"{path}: there is no entry with the id {id!r}")


def gold_passage(question: DocumentQuestion, passages: Sequence[Passage]) -> Passage:
    """The passage of the question's section that has the most of an accepted answer, then of the question."""
    if question.section == HEADER:
        return passages[0]
    wanted = _words(question.section.split(" > ")[-1])
    in_section = [p for p in passages if _is_under(wanted, p)] or passages
    asked = set(_words(question.question.question))

    def fit(passage: Passage) -> tuple[float, int]:
        known = _words(f"{passage.title} {passage.text}")
        text, distinct = f" {' '.join(known)} ", set(known)
        answers = [_words(answer) for answer in question.question.answers]
        whole = any(f" {' '.join(answer)} " in text for answer in answers)
        covered = max(len(distinct.intersection(answer)) / max(1, len(set(answer))) for answer in answers)
        return whole + covered, len(distinct & asked)

    return max(in_section, key=fit)


def _is_under(heading: list[str], passage: Passage) -> bool:
    """Whether the passage, or a unit of it, stands under the heading."""
    if any(_words(above) == heading for unit in passage.units for above in unit.headings):
        return True
    return f" {' '.join(heading)} " in f" {' '.join(_words(f'{passage.title} {passage.text}'))} "


def _words(text: str) -> list[str]:
    return words(text.casefold())
