"""Questions × adapters → Scores: answers decoded and graded, and how probable the gold answers are; closed book.

The accuracy says what a user would see; the dense score (log-probability of the gold answer) can rank where a handful
of yes and no cannot: a yes/no reward over five questions has a reliability of .13 (docs/SEAL.md, §4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfedit.disk import file_hash
from selfedit.judge.grading import GRADER, continues_with, is_correct
from selfedit.model.backend import Adapters, Request
from selfedit.model.load import Model
from selfedit.types import Judge, Question, Score, text_hash

ANSWER_TOKENS = 40


@dataclass(frozen=True)
class Query:
    question: Question
    adapter: int | None = None
    """Row of the stack; None: the untouched model."""
    prompt_override: Question | None = None
    """The question as the model reads it, if that is not the question alone: with a passage in view."""


@dataclass(frozen=True)
class Response:
    text: str
    correct: bool | None
    """None: unscored, which is not wrong."""
    gold_logprob: float
    """Log-probability (nats a token) of the gold answer."""


def evaluate(
    model: Model,
    questions: Sequence[Question],
    adapters: Sequence[int | None],
    stack: Adapters | None = None,
    *,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """One Score an adapter (None: the untouched model). Without questions a Score is unscored, not zero."""
    asked = [Query(question, adapter) for adapter in adapters for question in questions]
    responses, n = respond(model, asked, stack, on_token=on_token), len(questions)
    return [score(responses[i * n : (i + 1) * n]) for i in range(len(adapters))]


def respond(
    model: Model,
    asked: Sequence[Query],
    stack: Adapters | None = None,
    *,
    tokens: int = ANSWER_TOKENS,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Response]:
    """What is answered to each, greedily and with at most so many `tokens`, and how good that is by the offline judge."""
    said = answers(model, asked, stack, tokens=tokens, on_token=on_token)
    gold_logprob = gold_logprobs(model, [(a.prompt_override or a.question, a.adapter) for a in asked], stack)
    return [Response(text, correct, logprob) for (text, correct), logprob in zip(said, gold_logprob)]


def answers(
    model: Model,
    asked: Sequence[Query],
    stack: Adapters | None = None,
    *,
    judge: Judge | None = None,
    tokens: int = ANSWER_TOKENS,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, bool | None]]:
    """Of each: what is answered, greedily, and the verdict. `judge`: the offline one if none is given."""
    requests = [Request(tuple(model.chat.prompt(a.prompt_override or a.question)), a.adapter, tokens) for a in asked]
    texts = [model.chat.decode(said).strip() for said in model.backend.generate(requests, stack, on_token=on_token)]
    return list(zip(texts, (judge or offline)([(a.question, text) for a, text in zip(asked, texts)])))


def score(responses: Sequence[Response]) -> Score:
    """Means over what was scored; without any, None."""
    right = [r.correct for r in responses if r.correct is not None]
    gold_logprob = [r.gold_logprob for r in responses]
    return Score(
        sum(right) / len(right) if right else None,
        sum(gold_logprob) / len(gold_logprob) if gold_logprob else None,
        tuple(r.correct for r in responses),
        tuple(gold_logprob),
    )


def offline(pairs: Sequence[tuple[Question, str]]) -> list[bool | None]:
    """The judge that needs nobody."""
    return [grade(question, said) for question, said in pairs]


def offline_name() -> str:
    """By which its verdicts are known: refitted, or with other rules, it is another judge."""
    return f"offline {text_hash(*(file_hash(GRADER.with_name(name)) for name in (GRADER.name, 'grading.py', 'features.py')))[:8]}"


def gold_logprobs(
    model: Model, pairs: Sequence[tuple[Question, int | None]], stack: Adapters | None = None
) -> list[float]:
    """Of each question under its adapter: the log-probability (nats a token) of the right answer, short or as a sentence."""
    forms = [[q.answers[0], *([q.sentence] if q.sentence and q.kind == "question" else [])] for q, _ in pairs]
    golds = [(model.chat.gold(q, form), adapter) for (q, adapter), own in zip(pairs, forms) for form in own]
    found = iter(model.backend.gold_logprobs(golds, stack))
    return [max(next(found) for _ in own) for own in forms]


def grade(question: Question, prediction: str) -> bool:
    if question.kind == "question":
        return is_correct(prediction, question.answers, question.question)
    return continues_with(prediction, question.answers)
