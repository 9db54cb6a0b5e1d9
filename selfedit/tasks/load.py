"""A data file in any known format → Tasks; the format is detected from the content.

In: JSON, or JSON lines with one item per line: SQuAD v1.1 or v2.0 in the official format or as one record per question
(`squad`), a list of {title, context, questions}, or a list of {context, probes}; if documents without questions are
allowed, also a list of {title, content}. Out: Tasks. What is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from selfedit.errors import DocumentError
from selfedit.tasks.fictional import fictional_tasks
from selfedit.tasks.records import field, numbered, optional_id, read_json
from selfedit.tasks.squad import squad_tasks
from selfedit.types import Passage, Task, text_hash


def load_tasks(
    path: str | PurePath, *, without_questions: bool = False, notify: Callable[[str], None] = lambda message: None
) -> list[Task]:
    """Returns each passage once, with all its questions. Raises DocumentError that names the place and the fault.

    `without_questions`: also read passages that have no questions. `notify`: receives a line if something is left out.
    """
    left_out: Counter[str] = Counter()
    content = read_json(path)
    first = content[0] if isinstance(content, list) and content else content
    fields = first.keys() if isinstance(first, dict) else set()
    if without_questions and "content" in fields:
        read = _documents
    elif "probes" in fields:
        read = fictional_tasks
    elif isinstance(first, dict) and not fields & {"data", "questions", "question"}:
        known = "neither SQuAD ('data' or 'question'), nor passages with 'questions' or 'probes'"
        raise DocumentError(f"{path}: {known}; there is {', '.join(map(repr, first))}")
    else:
        read = partial(squad_tasks, left_out=left_out)
    merged: dict[str, Task] = {}
    for task in read(content, str(path)):
        if earlier := merged.get(task.passage.id):
            questions = tuple(dict.fromkeys(earlier.questions + task.questions))
            task = replace(earlier, questions=questions, edits=earlier.edits | task.edits)
        merged[task.passage.id] = task
    tasks = [task for task in merged.values() if task.questions or without_questions]
    left_out["passages without questions"] = len(merged) - len(tasks)
    if not tasks:
        raise DocumentError(f"{path}: no passage has a question with an answer")
    if counts := ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count):
        notify(f"{path}: left out: {counts}")
    return tasks


def _documents(content: object, path: str) -> list[Task]:
    tasks = []
    for at, item in numbered(content, path):
        text = field(item, "content", str, at)
        passage = Passage(
            field(item, "title", str, at, may_be_empty=True), text, source=path, source_hash=text_hash(text)
        )
        tasks.append(Task(passage, (), optional_id(item, at)))
    return tasks
