"""Reading comprehension data in the formats of SQuAD → Tasks.

In: JSON in one of three forms. The official form of SQuAD v1.1 and v2.0 (Rajpurkar et al. 2016, 2018): `{data: [{title,
paragraphs: [{context, qas: [{question, answers: [{text}], is_impossible}]}]}]}`. The flat form of dataset hubs, one
record per question: `[{title, context, question, answers: {text: [text]}}]`. A plain list: `[{title, context,
questions: [{question, answer | answers}]}]`, where an item may have an `id`, and edits by other writers, `self_edits:
{"writer/style": [text]}`. Titles may be empty or missing.
Out: one Task per context of the first and third form, and one per record of the second, in the order of the file; a
context is one passage and never split.

Left out, and counted: the unanswerable questions of SQuAD v2.0, which test reading instead of knowledge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from selfedit.tasks.records import elements, expect, field, gold_answers, numbered, optional_id
from selfedit.types import Passage, Question, Task, text_hash

UNANSWERABLE = "unanswerable questions"


def squad_tasks(content: object, path: str, left_out: Counter[str] | None = None) -> list[Task]:
    """Adds to `left_out` what is not read. Raises DocumentError that names the item and the missing field."""
    left_out = Counter() if left_out is None else left_out
    if isinstance(content, dict):
        return list(_official(content, path, left_out))
    return [
        _flat(item, at, path, left_out) if _is_flat(item) else _plain(item, at, path)
        for at, item in numbered(content, path)
    ]


def _official(content: object, path: str, left_out: Counter[str]) -> Iterator[Task]:
    for article_at, article in elements(content, "data", path):
        title = _title(article, article_at).replace("_", " ")  # titles are parts of Wikipedia addresses
        for at, paragraph in elements(article, "paragraphs", article_at, may_be_empty=True):
            questions = []
            for item_at, item in elements(paragraph, "qas", at, may_be_empty=True):
                if isinstance(item, dict) and item.get("is_impossible") is True:
                    left_out[UNANSWERABLE] += 1
                else:
                    answers = (
                        field(answer, "text", str, place) for place, answer in elements(item, "answers", item_at)
                    )
                    # The same answer may occur several times, since it was given by several annotators.
                    questions.append(Question(field(item, "question", str, item_at), tuple(dict.fromkeys(answers))))
            yield Task(_passage(title, field(paragraph, "context", str, at), path), tuple(questions))


def _is_flat(item: object) -> bool:
    return isinstance(item, dict) and "question" in item and "questions" not in item


def _flat(item: object, at: str, path: str, left_out: Counter[str]) -> Task:
    passage = _passage(_title(item, at).replace("_", " "), field(item, "context", str, at), path)
    question, answers = field(item, "question", str, at), item.get("answers")
    if isinstance(answers, dict):
        texts = elements(answers, "text", f"{at}: 'answers'", may_be_empty=True)
        answers = tuple(dict.fromkeys(expect(text, str, text_at) for text_at, text in texts))
    else:
        answers = () if answers == [] else gold_answers(item, at)
    left_out[UNANSWERABLE] += not answers
    return Task(passage, (Question(question, answers),) if answers else ())


def _plain(item: object, at: str, path: str) -> Task:
    questions = tuple(
        Question(field(entry, "question", str, entry_at), gold_answers(entry, entry_at))
        for entry_at, entry in elements(item, "questions", at, may_be_empty=True)
    )
    passage = _passage(_title(item, at), field(item, "context", str, at), path)
    return Task(passage, questions, optional_id(item, at), _edits(item, at) if "self_edits" in item else {})


def _title(item: object, at: str) -> str:
    fields = expect(item, dict, at)
    return field(fields, "title", str, at, may_be_empty=True) if fields.get("title") is not None else ""


def _edits(item: object, at: str) -> dict[str, tuple[str, ...]]:
    written = field(item, "self_edits", dict, at)
    return {
        name: tuple(expect(text, str, text_at) for text_at, text in elements(written, name, f"{at}: 'self_edits'"))
        for name in written
    }


def _passage(title: str, context: str, path: str) -> Passage:
    return Passage(title, context, source=path, source_hash=text_hash(context))
