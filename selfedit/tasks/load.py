"""A data file in any of the forms we know → Tasks: the form is told by what stands in it.

In: SQuAD v1.1 in its official form, a list of {title, context, questions}, or a list of {context, probes}; where documents
without questions will do, also a list of {title, content}.
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
    """Each passage once, with all its questions. Raises DocumentError that says what is wrong, and where.

    `without_questions`: documents that have none are welcome too."""
    content = read_json(path)
    first = content[0] if isinstance(content, list) and content else content
    documents = without_questions and isinstance(first, dict) and "content" in first
    if not documents and isinstance(first, dict) and not first.keys() & {"data", "questions", "probes"}:
        raise DocumentError(
            f"{path}: neither SQuAD ('data'), nor passages with 'questions' or 'probes'; there is {', '.join(map(repr, first))}"
        )
    read = (
        _documents if documents else fictional_tasks if isinstance(first, dict) and "probes" in first else squad_tasks
    )
    once: dict[str, Task] = {}
    for task in read(content, str(path)):
        earlier = once.get(task.passage.id)
        if earlier:
            task = replace(
                earlier,
                questions=tuple(dict.fromkeys(earlier.questions + task.questions)),
                edits=earlier.edits | task.edits,
            )
        once[task.passage.id] = task
    return list(once.values())


def _documents(content: object, path: str) -> list[Task]:
    tasks = []
    for at, item in numbered(content, path):
        text = field(item, "content", str, at)
        passage = Passage(
            field(item, "title", str, at, may_be_empty=True), text, source=path, source_hash=text_hash(text)
        )
        tasks.append(Task(passage, (), optional_id(item, at)))
    return tasks
