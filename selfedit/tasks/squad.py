"""Reading comprehension data in the format of SQuAD → Tasks.

In: JSON, either the official SQuAD v1.1 (Rajpurkar et al. 2016), `{data: [{title, paragraphs: [{context, qas:
[{question, answers: [{text}]}]}]}]}`, or a plain list, `[{title, context, questions: [{question, answer | answers}]}]`,
where an item may have an `id`, and edits by other writers, `self_edits: {"writer/style": [text]}`.
Out: one Task per context, in the order of the file; a context is one passage and never split.

Left out: the unanswerable questions of SQuAD v2.0, which test reading instead of knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator

from selfedit.tasks.records import elements, expect, field, gold_answers, numbered, optional_id
from selfedit.types import Passage, Question, Task, text_hash


def squad_tasks(content: object, path: str) -> list[Task]:
    """Raises DocumentError that names the item and the missing field."""
    return list(_official(content, path) if isinstance(content, dict) else _plain(content, path))


def _official(content: object, path: str) -> Iterator[Task]:
    for article_at, article in elements(content, "data", path):
        title = field(article, "title", str, article_at).replace("_", " ")  # titles are parts of Wikipedia addresses
        for at, paragraph in elements(article, "paragraphs", article_at):
            questions = tuple(_official_question(item, item_at) for item_at, item in elements(paragraph, "qas", at))
            yield Task(_passage(title, field(paragraph, "context", str, at), path), questions)


def _official_question(item: object, at: str) -> Question:
    # The same answer may occur several times, since it was given by several annotators.
    texts = dict.fromkeys(field(answer, "text", str, answer_at) for answer_at, answer in elements(item, "answers", at))
    return Question(field(item, "question", str, at), tuple(texts))


def _plain(content: object, path: str) -> Iterator[Task]:
    for at, item in numbered(content, path):
        questions = tuple(
            Question(field(entry, "question", str, entry_at), gold_answers(entry, entry_at))
            for entry_at, entry in elements(item, "questions", at)
        )
        passage = _passage(field(item, "title", str, at), field(item, "context", str, at), path)
        yield Task(passage, questions, optional_id(item, at), _edits(item, at) if "self_edits" in item else {})


def _edits(item: object, at: str) -> dict[str, tuple[str, ...]]:
    written = field(item, "self_edits", dict, at)
    return {
        name: tuple(expect(text, str, text_at) for text_at, text in elements(written, name, f"{at}: 'self_edits'"))
        for name in written
    }


def _passage(title: str, context: str, path: str) -> Passage:
    return Passage(title, context, source=path, source_hash=text_hash(context))
