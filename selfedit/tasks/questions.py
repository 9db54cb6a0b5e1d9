"""Files with questions of the user, one JSON object per line → Questions.

In: a quiz with lines `{question, answer | answers}`, or prompts without gold answers with lines `{question}` or
`{prompt}`. Out: Questions in the order of the file. Blank lines and other keys are ignored.
"""

from __future__ import annotations

from pathlib import PurePath

from selfedit.errors import DocumentError
from selfedit.tasks.records import expect, field, gold_answers, read_jsonl
from selfedit.types import Question


def load_quiz(path: str | PurePath) -> list[Question]:
    """Raises DocumentError that names the line."""
    return [Question(field(item, "question", str, at), gold_answers(item, at)) for at, item in read_jsonl(path)]


def load_prompts(path: str | PurePath) -> list[Question]:
    """Reads questions and, as the kind `continue`, texts to be continued (`prompt`). Raises DocumentError."""
    return [_prompt(expect(item, dict, at), at) for at, item in read_jsonl(path)]


def _prompt(item: dict, at: str) -> Question:
    if "question" in item:
        return Question(field(item, "question", str, at), answers=())
    if "prompt" in item:
        return Question(field(item, "prompt", str, at), answers=(), kind="continue")
    raise DocumentError(f"{at}: neither 'question' nor 'prompt'; there is {', '.join(map(repr, item))}")
