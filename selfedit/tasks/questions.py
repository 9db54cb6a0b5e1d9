"""Questions of the user's own, one JSON object a line.

In: a quiz, `{question, answer | answers}` a line, or asks without gold answers, `{question}` or `{prompt}` a line.
Out: Questions in the order of the file. Other keys are ignored, and so are blank lines.
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
    """A `question` is to be asked; a `prompt`, of kind `continue`, is to be continued. Raises DocumentError."""
    return [_ask(expect(item, dict, at), at) for at, item in read_jsonl(path)]


def _ask(item: dict, at: str) -> Question:
    if "question" in item:
        return Question(field(item, "question", str, at), answers=())
    if "prompt" in item:
        return Question(field(item, "prompt", str, at), answers=(), kind="continue")
    raise DocumentError(f"{at}: neither 'question' nor 'prompt'; there is {', '.join(map(repr, item))}")
