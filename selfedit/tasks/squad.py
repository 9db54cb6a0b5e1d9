"""Reading comprehension in SQuAD's form becomes Tasks.

In: a JSON file, either the official SQuAD v1.1 (Rajpurkar et al. 2016), `{data: [{title, paragraphs: [{context, qas:
[{question, answers: [{text}]}]}]}]}`, or a plain list, `[{title, context, questions: [{question, answer | answers}]}]`.
Out: a Task for each context, in the order of the file; a context is one passage, never split.

Left out: the unanswerable questions of SQuAD v2.0, which test reading and not knowing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from selfedit.tasks.records import elements, field, gold_answers, numbered, read_json
from selfedit.types import Passage, Question, Task, text_hash


def load_squad(path: str | PurePath) -> list[Task]:
    """Raises DocumentError that says which item lacks what."""
    path = str(path)
    content = read_json(path)
    read = _official if isinstance(content, dict) else _plain
    return [
        Task(Passage(title, context, source=path, source_hash=text_hash(context)), questions)
        for title, context, questions in read(content, path)
    ]


def _official(content: object, path: str) -> Iterator[tuple[str, str, tuple[Question, ...]]]:
    for article_at, article in elements(content, "data", path):
        title = field(article, "title", str, article_at)
        for at, paragraph in elements(article, "paragraphs", article_at):
            questions = tuple(_official_question(item, item_at) for item_at, item in elements(paragraph, "qas", at))
            yield title, field(paragraph, "context", str, at), questions


def _official_question(item: object, at: str) -> Question:
    # Annotators often agree: the same answer may stand there several times.
    texts = dict.fromkeys(field(answer, "text", str, answer_at) for answer_at, answer in elements(item, "answers", at))
    return Question(field(item, "question", str, at), tuple(texts))


def _plain(content: object, path: str) -> Iterator[tuple[str, str, tuple[Question, ...]]]:
    for at, item in numbered(content, path):
        questions = tuple(
            Question(field(asked, "question", str, asked_at), gold_answers(asked, asked_at))
            for asked_at, asked in elements(item, "questions", at)
        )
        yield field(item, "title", str, at), field(item, "context", str, at), questions
