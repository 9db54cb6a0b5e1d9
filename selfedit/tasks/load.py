"""A data file in any known format → Tasks; the format is detected from the content.

In: SQuAD v1.1 in its official format, a list of {title, context, questions}, or a list of {context, probes}; if
documents without questions are allowed, also a list of {title, content}. Out: Tasks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from selfedit.errors import DocumentError
from selfedit.tasks.fictional import fictional_tasks
from selfedit.tasks.records import field, numbered, optional_id, read_json
from selfedit.tasks.squad import squad_tasks
from selfedit.types import Passage, Task, text_hash


def load_tasks(path: str | PurePath, *, without_questions: bool = False) -> list[Task]:
    """Returns each passage once, with all its questions. Raises DocumentError that names the place and the fault.

    `without_questions`: also read documents that have no questions.
    """
    content = read_json(path)
    first = content[0] if isinstance(content, list) and content else content
    fields = first.keys() if isinstance(first, dict) else set()
    if without_questions and "content" in fields:
        read = _documents
    elif "probes" in fields:
        read = fictional_tasks
    elif isinstance(first, dict) and not fields & {"data", "questions"}:
        known = "neither SQuAD ('data'), nor passages with 'questions' or 'probes'"
        raise DocumentError(f"{path}: {known}; there is {', '.join(map(repr, first))}")
    else:
        read = squad_tasks
    merged: dict[str, Task] = {}
    for task in read(content, str(path)):
        if earlier := merged.get(task.passage.id):
            questions = tuple(dict.fromkeys(earlier.questions + task.questions))
            task = replace(earlier, questions=questions, edits=earlier.edits | task.edits)
        merged[task.passage.id] = task
    return list(merged.values())


def _documents(content: object, path: str) -> list[Task]:
    tasks = []
    for at, item in numbered(content, path):
        text = field(item, "content", str, at)
        passage = Passage(
            field(item, "title", str, at, may_be_empty=True), text, source=path, source_hash=text_hash(text)
        )
        tasks.append(Task(passage, (), optional_id(item, at)))
    return tasks
