"""A passage → questions to test by, without anybody's labels.

Short spans that carry facts (names, numbers, code, the end of a clause) are picked from each sentence; the model writes
the question that each answers. A question is kept only if the model finds that answer with the passage in view and
does not know it without. What is kept is split: one part may be studied, the other only judges.

A very small model writes few questions that hold. So it also says each sentence in other words, and the end of such a
line, from a fact-carrying span on, is a question too: it is to be continued, by a model that has read only the
sentence itself. These only judge, and are kept if the untouched model does not continue them right.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfedit.edits.parse import sentences
from selfedit.edits.styles import QUESTION_EXAMPLES
from selfedit.judge.grading import continues_with, f1, is_correct, normalize
from selfedit.model.generate import Request, generate
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Question, SelfEdit, stable_seed

ANSWER_TOKENS = 32
MIN_CLOZE_WORDS = 4
"""Words a text to be continued must have before its end."""
MIN_AGREEMENT = 0.6
"""F1 of the answer with the passage in view and the span the question was written for."""


@dataclass(frozen=True)
class Quiz:
    studied: tuple[Question, ...]
    """May be seen by edits."""
    judging: tuple[Question, ...]
    """Only judge; no edit may see them."""
    dropped: Counter


def write_quiz(
    model: Model,
    passage: Passage,
    *,
    spans: int = 28,
    seed: int = 0,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> Quiz:
    """Write, check and split questions about a passage; `spans`: at most so many are asked about."""
    picked = pick_spans(passage.text, spans, seed=stable_seed(seed, passage.id, "spans"))
    prompts = [model.chat.continued(f"{QUESTION_EXAMPLES}{sentence}\nAnswer: {span}\nQuestion:") for sentence, span in picked]
    texts = generate(model, [Request(tuple(p), None, 36) for p in prompts], on_token=on_token)
    written, dropped = [], Counter()
    for (_, span), tokens in zip(picked, texts):
        question = model.chat.decode(tokens).strip().split("\n")[0]
        reason = _fault(question, span, {q.question for q in written})
        if reason:
            dropped[reason] += 1
        else:
            written.append(Question(question, (span,)))
    kept, reasons = check(model, passage, written)
    return _split(kept, dropped + reasons, seed=stable_seed(seed, passage.id, "split"))


def check(model: Model, passage: Passage, questions: Sequence[Question]) -> tuple[list[Question], Counter]:
    """Keep the questions that the model answers right with the passage in view and wrong without."""
    if not questions:
        return [], Counter()
    opened = [open_book(passage, q.question) for q in questions]
    asks = [model.chat.ask(text) for text in [*opened, *(q.question for q in questions)]]
    answers = [model.chat.decode(t) for t in generate(model, [Request(tuple(a), None, ANSWER_TOKENS) for a in asks])]
    kept, dropped = [], Counter()
    for question, seeing, blind in zip(questions, answers, answers[len(questions) :]):
        gold = question.answers
        if not (is_correct(seeing, gold, question.question) or f1(seeing, gold) >= MIN_AGREEMENT):
            dropped["not answered with the passage in view"] += 1
        elif is_correct(blind, gold, question.question):
            dropped["known without the passage"] += 1
        else:
            kept.append(question)
    return kept, dropped


def open_book(passage: Passage, question: str) -> str:
    """The question with the passage in view."""
    return f"{passage.title}\n\n{passage.text}\n\nAnswer with a few words from the text above. {question}".strip()


def cloze_questions(model: Model, passage: Passage, lines: Sequence[str]) -> tuple[list[Question], Counter]:
    """Lines that say the passage's facts in other words → texts to be continued with a fact, where that is no guess."""
    found = []
    for line in lines:
        ends = [(line.rfind(span), span) for _, span in pick_spans(line, 8) if span in passage.text]
        start, span = max(ends, default=(0, ""))
        before = line[:start].rstrip(" \"'“‘`")
        if len(before.split()) >= MIN_CLOZE_WORDS and span not in before:
            found.append(Question(before, (span,), kind="cloze"))
    requests = [Request(tuple(model.chat.prompt(q)), None, ANSWER_TOKENS) for q in found]
    kept, dropped = [], Counter()
    for question, tokens in zip(found, generate(model, requests)):
        if continues_with(model.chat.decode(tokens), question.answers):
            dropped["known without the passage"] += 1
        else:
            kept.append(question)
    return kept, dropped


def as_edit(questions: Sequence[Question]) -> SelfEdit:
    """Questions as study material, in the chat form in which questions are later asked."""
    examples = tuple(Example(text=q.answers[0], prompt=q.question) for q in questions)
    return SelfEdit("questions", "\n".join(f"Q: {e.prompt}\nA: {e.text}" for e in examples), examples)


def _split(questions: list[Question], dropped: Counter, seed: int) -> Quiz:
    """Half and half by answer: two questions with one answer are on one side, so judging is not studying."""
    by_answer: dict[str, list[Question]] = {}
    for question in questions:
        by_answer.setdefault(normalize(question.answers[0]), []).append(question)
    groups = list(by_answer.values())
    random.Random(seed).shuffle(groups)
    groups.sort(key=len)  # single questions first: they make the cleaner judges
    judging: list[Question] = []
    while groups and len(judging) < len(questions) / 2:
        judging += groups.pop(0)
    return Quiz(tuple(q for group in groups for q in group), tuple(judging), dropped)


def _fault(question: str, span: str, taken: set[str]) -> str:
    words = question.split()
    if not question.endswith("?") or not 4 <= len(words) <= 30:
        return "not a question"
    if normalize(span) in normalize(question):
        return "the question gives the answer away"
    if question in taken:
        return "asked twice"
    if normalize(question).startswith(("what is answer", "what is name of series", "what is sentence")):
        return "about the task, not the text"
    return ""


_SPANS = (
    re.compile(r"`[^`\n]{2,60}`|(?<!\w)--?[a-z][\w-]+(?:=\S+)?|\b[^\W\d]\w*(?:[_.]\w+)+(?:\(\))?"),  # code, flags, dotted names
    re.compile(r"[\"“'‘]([^\"”'’]{3,60})[\"”'’](?!\w)"),  # quotations
    re.compile(r"\b(?:[A-Z][\w'’-]*)(?:\s+(?:(?:of|the|and|de|von)\s+){0,2}[A-Z][\w'’-]*)*"),  # names
    re.compile(r"(?:[$€£]\s?)?\b\d[\d,.]*\d?(?:\s?(?:%|(?!(?:a|and|as|at|but|by|for|from|he|in|is|it|of|on|or|she|that|the|they|to|was|when|which|with)\b)[a-z]+))?"),  # numbers with their unit
    re.compile(r"(?<=\s)(?:a|an|the|of|by|in|to|for|with|as|from)\s+((?:[\w'’-]+\s+){0,4}[\w'’-]+)(?=[.;,!?]|$)"),  # ends of clauses
)


def pick_spans(text: str, limit: int, seed: int = 0) -> list[tuple[str, str]]:
    """(sentence, span) pairs: what carries facts, spread evenly over the sentences; no span twice in a sentence."""
    queues = []
    for sentence in sentences(text):
        spans: list[str] = []
        for pattern in _SPANS:
            for match in pattern.finditer(sentence):
                span = (match[1] if pattern.groups else match[0]).strip(" .,;:'’")
                alone = match.start() == 0 and " " not in span and span[:1].isupper()  # just a sentence's first word
                nested = any(span in other or other in span for other in spans)
                if len(span) > 1 and not alone and not nested and len(span) < len(sentence) / 2:
                    spans.append(span)
        random.Random(seed).shuffle(spans)
        queues.append((sentence, spans))
    picked: list[tuple[str, str]] = []
    while len(picked) < limit and any(spans for _, spans in queues):
        picked += [(sentence, spans.pop()) for sentence, spans in queues if spans]
    return picked[:limit]
