"""Questions × adapters → Scores: answers decoded and graded, and how probable the gold answers are; closed book.

The accuracy says what a user would see; the dense score (log-probability of the gold answer) can rank where a handful
of yes and no cannot: a yes/no reward over five questions has a reliability of .13 (SEAL.md, 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfedit.judge.grading import continues_with, is_correct
from selfedit.model.generate import Request, generate
from selfedit.model.load import Model
from selfedit.model.score import mean_logprobs
from selfedit.model.stack import Stack
from selfedit.types import Question, Score

ANSWER_TOKENS = 40


def evaluate(
    model: Model,
    questions: Sequence[Question],
    adapters: Sequence[int | None],
    stack: Stack | None = None,
    *,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """One Score an adapter (None: the untouched model). Without questions a Score is unscored, not zero."""
    if not questions:
        return [Score(None, None) for _ in adapters]
    pairs = [(question, adapter) for adapter in adapters for question in questions]
    requests = [Request(tuple(model.chat.prompt(q)), adapter, ANSWER_TOKENS) for q, adapter in pairs]
    answers = generate(model, requests, stack, on_token=on_token)
    correct = [grade(q, model.chat.decode(tokens)) for (q, _), tokens in zip(pairs, answers)]
    logprobs = gold_logprobs(model, pairs, stack)
    scores, n = [], len(questions)
    for low in range(0, len(pairs), n):
        own, dense = correct[low : low + n], logprobs[low : low + n]
        scores.append(Score(sum(own) / n, sum(dense) / n, tuple(own), tuple(dense)))
    return scores


def gold_logprobs(model: Model, pairs: Sequence[tuple[Question, int | None]], stack: Stack | None = None) -> list[float]:
    """Of each question under its adapter: the log-probability (nats a token) of the right answer, short or as a sentence."""
    forms = [[q.answers[0], *([q.sentence] if q.sentence and q.kind == "question" else [])] for q, _ in pairs]
    golds = [(model.chat.gold(q, form), adapter) for (q, adapter), own in zip(pairs, forms) for form in own]
    found = iter(mean_logprobs(model.network, golds, stack))
    return [max(next(found) for _ in own) for own in forms]


def grade(question: Question, prediction: str) -> bool:
    if question.kind == "question":
        return is_correct(prediction, question.answers, question.question)
    return continues_with(prediction, question.answers)
