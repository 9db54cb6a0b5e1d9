"""A passage → questions to test by, without anybody's labels.

Short spans that carry facts (names, numbers, code, the end of a clause) are picked from each sentence; the model writes
the question that each answers. A question is kept only if the model finds that answer with the passage in view and
does not know it without. What is kept is split: one part may be studied, the other only judges.

A very small model writes few questions that hold. So it also says each sentence in other words, and such a line makes
questions too: asked in place of one of its spans, and its end, from a span on, to be continued. These only judge; what
is studied are questions that the passage's own sentences answer (`study_questions`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from selfedit.edits.parse import sentences
from selfedit.edits.spans import keyword_questions, kind_of, pick_spans, span_questions
from selfedit.edits.styles import QUESTION_EXAMPLES
from selfedit.judge.grading import continues_with, f1, is_correct, normalize
from selfedit.model.backend import Request
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Progress, Question, SelfEdit, Task, no_progress, stable_seed

CHECK_TOKENS = 24
QUESTION_TOKENS = 24
MIN_KNOWN = 0.6
"""Share of a written question's longer words that the passage must have."""
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
    model: Model, passage: Passage, *, spans: int = 28, seed: int = 0, progress: Progress = no_progress
) -> Quiz:
    """Write, check and split questions about a passage; `spans`: at most so many are asked about."""
    picked = pick_spans(passage.text, spans, seed=stable_seed(seed, passage.id, "spans"))
    begun = [(sentence, span, word) for sentence, span in picked for word in _first_words(span)]
    prompts = [
        model.chat.continued(f"{QUESTION_EXAMPLES}{s}\nAnswer: {span}\nQuestion: {word}") for s, span, word in begun
    ]
    texts = model.backend.generate(
        [Request(tuple(p), None, QUESTION_TOKENS, one_line=True) for p in prompts],
        on_token=partial(progress, "questions"),
    )
    written: dict[tuple[str, str], Question] = {}  # one a span
    dropped: Counter[str] = Counter()
    for (sentence, span, word), tokens in zip(begun, texts):
        rest = model.chat.decode(tokens).split("\n")[0].strip()
        question = f"{word} {rest}"
        reason = _fault(question, span, {q.question for q in written.values()}) or (
            "" if _about(rest, passage) else "not about the text"
        )
        if reason or (sentence, span) in written:
            dropped[reason or "asked in other words"] += 1
        else:
            written[sentence, span] = Question(question, (span,), sentence=sentence)
    kept, reasons = check(model, passage, list(written.values()), progress)
    return _split(kept, dropped + reasons, seed=stable_seed(seed, passage.id, "split"))


def check(
    model: Model, passage: Passage, questions: Sequence[Question], progress: Progress = no_progress
) -> tuple[list[Question], Counter]:
    """Keep the questions that the model answers right with the passage in view and wrong without."""
    if not questions:
        return [], Counter()
    opened = [open_book_prompt(passage, q.question) for q in questions]
    asks = [model.chat.ask(text) for text in [*opened, *(q.question for q in questions)]]
    answers = [
        model.chat.decode(t)
        for t in model.backend.generate(
            [Request(tuple(a), None, CHECK_TOKENS) for a in asks], on_token=partial(progress, "check")
        )
    ]
    kept, dropped = [], Counter()
    for question, seeing, blind in zip(questions, answers, answers[len(questions) :]):
        gold = question.answers
        if not (is_correct(seeing, gold, question.question) or f1(seeing, gold) >= MIN_AGREEMENT):
            dropped["not answered with the passage in view"] += 1
        elif is_correct(blind, gold, question.question):
            dropped["known without the passage"] += 1
        else:
            kept.append(replace(question, sentence=question.sentence or find_supporting_sentence(passage, question)))
    return kept, dropped


def find_supporting_sentence(passage: Passage, question: Question) -> str:
    """The passage's sentence that holds an accepted answer and most of the question's words; empty if none holds one."""
    asked = set(re.findall(r"\w+", question.question.casefold()))
    whole = re.compile("|".join(rf"(?<!\w){re.escape(answer)}(?!\w)" for answer in question.answers), re.IGNORECASE)
    holding = [s for s in sentences(passage.text) if whole.search(s)]
    return max(holding, key=lambda s: len(asked & set(re.findall(r"\w+", s.casefold()))), default="")


def with_sentences(task: Task) -> Task:
    """The task with each question's answer also as the passage's sentence, where one holds it: a right answer too."""
    asked = (
        q if q.kind != "question" or q.sentence else replace(q, sentence=find_supporting_sentence(task.passage, q))
        for q in task.questions
    )
    return replace(task, questions=tuple(asked))


def open_book_prompt(passage: Passage, question: str) -> str:
    """The question with the passage in view."""
    return passage.with_request(f"Answer with a few words from the text above. {question}")


def study_questions(
    passage: Passage, written: Sequence[Question], judging: Sequence[Question], draws: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """What is studied: the written questions, but for no answer that `judging` asks for; and so many draws of a question for
    each sentence, by some of its words."""
    kept_back = {normalize(answer) for q in judging for answer in q.answers}
    asked = {normalize(q.question) for q in judging}
    free = [q for q in written if normalize(q.answers[0]) not in kept_back]
    return free, [q for q in keyword_questions(passage, draws, seed) if normalize(q.question) not in asked]


def questions_from_rewordings(
    model: Model, passage: Passage, lines: Sequence[str], progress: Progress = no_progress
) -> tuple[list[Question], Counter]:
    """Lines that say the passage's facts in other words → questions: one asked in place a line, and its end to be continued."""
    flat = " ".join(passage.text.split())
    telling = [line for line in lines if len(line.split()) > MIN_CLOZE_WORDS]
    asked = [next((q for q in span_questions(passage, line, 8) if q.answers[0] in flat), None) for line in telling]
    kept, reasons = check(model, passage, [replace(q, sentence="") for q in asked if q], progress)
    ends, more = _continued(model, flat, lines)
    return kept + ends, reasons + more


def _continued(model: Model, flat: str, lines: Sequence[str]) -> tuple[list[Question], Counter]:
    """Texts to be continued with a fact of `flat`, the passage's text on one line, where that is no guess."""
    found = []
    for line in lines:
        ends = [(line.rfind(span), span) for _, span in pick_spans(line, 8) if span in flat]
        start, span = max(ends, default=(0, ""))
        before = line[:start].rstrip(" \"'“‘`")
        if len(before.split()) >= MIN_CLOZE_WORDS and span not in before:
            found.append(Question(before, (span,), kind="cloze"))
    requests = [Request(tuple(model.chat.prompt(q)), None, CHECK_TOKENS) for q in found]
    kept, dropped = [], Counter()
    for question, tokens in zip(found, model.backend.generate(requests)):
        if continues_with(model.chat.decode(tokens), question.answers):
            dropped["known without the passage"] += 1
        else:
            kept.append(question)
    return kept, dropped


def questions_as_edit(questions: Sequence[Question], drawn: Sequence[Question] = ()) -> SelfEdit:
    """Questions as study material, in the chat form in which questions are later asked; those `drawn` once each.

    Each is answered by the whole sentence: that is learned far better than a bare span (docs/LOG.md, study 5).
    """
    asked = [(q, False) for q in questions] + [(q, True) for q in drawn]
    examples = tuple(Example(text=q.sentence or q.answers[0], prompt=q.question, once=once) for q, once in asked)
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


def _first_words(span: str) -> tuple[str, ...]:
    """How questions with this answer may begin; left free, a very small model begins every question alike."""
    return {
        "year": ("In what year",), "date": ("When", "On what date"), "count": ("How many", "What"), "name": ("Who", "Which")
    }.get(kind_of(span), ("What", "Which"))  # fmt: skip


def _about(question: str, passage: Passage) -> bool:
    """Whether most of the question's longer words stand in the passage, by their first letters."""
    known = {word[:5] for word in re.findall(r"\w+", f"{passage.title} {passage.text}".casefold())}
    words = [word for word in re.findall(r"\w+", question.casefold()) if len(word) > 3]
    return sum(word[:5] in known for word in words) >= MIN_KNOWN * len(words)
