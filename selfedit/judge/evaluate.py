"""Questions × adapters → Scores: the answers, their verdicts, and the log-probability of the gold answers; closed
book, or from a passage (`read`).

The accuracy is what a user would see. The log-probability of the gold answer can rank adapters where a handful of
yes/no verdicts cannot: a yes/no reward over five questions has a reliability of .13 (docs/SEAL.md, §4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from selfedit.disk import file_hash
from selfedit.edits.quiz import with_passage
from selfedit.judge.grading import GRADER, continues_with, is_correct
from selfedit.judge.grounding import grounded, is_quoted
from selfedit.model.backend import Adapters, OnStep, Request, no_steps
from selfedit.model.load import Model
from selfedit.types import Judge, Passage, Question, Score, text_hash

ANSWER_TOKENS = 40


@dataclass(frozen=True)
class Query:
    """A question for one adapter."""

    question: Question
    adapter: int | None = None
    """Row of the adapters; None: the untouched model."""
    prompt_override: Question | None = None
    """The question in the prompt, if it differs, for example because it has a passage before it."""


@dataclass(frozen=True)
class Response:
    text: str
    correct: bool | None
    """None means unscored, which is not the same as wrong."""
    gold_logprob: float
    """Log-probability of the gold answer, in nats per token."""


class Group(NamedTuple):
    """Questions, each for every one of these rows."""

    questions: Sequence[Question]
    rows: Sequence[int | None]


def evaluate(
    model: Model,
    questions: Sequence[Question],
    rows: Sequence[int | None],
    adapters: Adapters | None = None,
    *,
    on_token: OnStep = no_steps,
) -> list[Score]:
    """Returns one Score per row (None: the untouched model); without questions it is unscored, not zero."""
    return evaluate_groups(model, [Group(questions, rows)], adapters, on_token=on_token)[0]


def evaluate_groups(
    model: Model, groups: Sequence[Group], adapters: Adapters | None = None, *, on_token: OnStep = no_steps
) -> list[list[Score]]:
    """As `evaluate`, for several groups in one batch."""
    queries = [Query(question, row) for questions, rows in groups for row in rows for question in questions]
    responses = iter(respond(model, queries, adapters, on_token=on_token))
    return [[score([next(responses) for _ in questions]) for _ in rows] for questions, rows in groups]


def respond(
    model: Model,
    queries: Sequence[Query],
    adapters: Adapters | None = None,
    *,
    tokens: int = ANSWER_TOKENS,
    on_token: OnStep = no_steps,
) -> list[Response]:
    """Answers each query greedily with at most `tokens` tokens; the verdicts are those of the offline judge."""
    graded = answers(model, queries, adapters, tokens=tokens, on_token=on_token)
    logprobs = gold_logprobs(model, [(q.prompt_override or q.question, q.adapter) for q in queries], adapters)
    return [Response(text, correct, logprob) for (text, correct), logprob in zip(graded, logprobs)]


def answers(
    model: Model,
    queries: Sequence[Query],
    adapters: Adapters | None = None,
    *,
    judge: Judge | None = None,
    tokens: int = ANSWER_TOKENS,
    on_token: OnStep = no_steps,
) -> list[tuple[str, bool | None]]:
    """Answers each query greedily and returns (answer, verdict) pairs; `judge`: the offline judge by default."""
    texts = _texts(model, queries, adapters, tokens, on_token)
    return list(zip(texts, (judge or offline)([(q.question, text) for q, text in zip(queries, texts)])))


def _texts(
    model: Model, queries: Sequence[Query], adapters: Adapters | None, tokens: int, on_token: OnStep
) -> list[str]:
    requests = [Request(tuple(model.chat.prompt(q.prompt_override or q.question)), q.adapter, tokens) for q in queries]
    written = model.backend.generate(requests, adapters, on_token=on_token)
    return [model.chat.decode(output).strip() for output in written]


def read(model: Model, asked: Sequence[tuple[Question, Passage]], *, on_token: OnStep = no_steps) -> list[bool]:
    """Whether each question is answered right from its passage: by the sentence that `selfedit ask` would quote, which
    takes no model; else by what the untouched model writes, grounded, if it reads well. Texts to be continued are only
    continued."""
    verdicts = [is_quoted(question, passage) for question, passage in asked]
    left = [
        i
        for i, (question, _) in enumerate(asked)
        if not verdicts[i] and (model.reads_well or question.kind != "question")
    ]
    queries = [Query(q, None, with_passage(passage, q)) for q, passage in (asked[i] for i in left)]
    for i, text in zip(left, _texts(model, queries, None, ANSWER_TOKENS, on_token)):
        question, passage = asked[i]
        if question.kind == "question":
            text = grounded(question.question, text, [passage]).text
        verdicts[i] = grade(question, text)
    return verdicts


def score(responses: Sequence[Response]) -> Score:
    """Returns the means over the scored responses; None if there are none."""
    verdicts = [r.correct for r in responses if r.correct is not None]
    logprobs = [r.gold_logprob for r in responses]
    return Score(
        sum(verdicts) / len(verdicts) if verdicts else None,
        sum(logprobs) / len(logprobs) if logprobs else None,
        tuple(r.correct for r in responses),
        tuple(logprobs),
    )


def offline(pairs: Sequence[tuple[Question, str]]) -> list[bool | None]:
    """Grades (question, answer) pairs without a language model."""
    return [grade(question, answer) for question, answer in pairs]


def offline_name() -> str:
    """Identifies the verdicts of the offline judge; a change of its rules or of its fitted numbers changes the name."""
    names = (GRADER.name, "grading.py", "features.py", "technical.py", "../text.py")
    files = (GRADER.parent / name for name in names)
    return f"offline {text_hash(*map(file_hash, files))[:8]}"


def gold_logprobs(
    model: Model, pairs: Sequence[tuple[Question, int | None]], adapters: Adapters | None = None
) -> list[float]:
    """Returns the log-probability (nats per token) of the gold answer to each question under its adapter.

    The answer is scored in its short form and, if known, as a sentence; the higher value counts.
    """
    forms = [[q.answers[0], *([q.sentence] if q.sentence and q.kind == "question" else [])] for q, _ in pairs]
    golds = [(model.chat.gold(q, form), adapter) for (q, adapter), texts in zip(pairs, forms) for form in texts]
    logprobs = iter(model.backend.gold_logprobs(golds, adapters))
    return [max(next(logprobs) for _ in texts) for texts in forms]


def grade(question: Question, prediction: str) -> bool:
    """Grades an answer to a question, or the continuation of a text."""
    if question.kind == "question":
        return is_correct(prediction, question.answers, question.question)
    return continues_with(prediction, question.answers)
