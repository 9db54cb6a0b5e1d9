"""A passage → test questions, without human labels.

In: a model and a passage. Out: a Quiz. Short spans that carry facts (names, numbers, code, the end of a clause) are
taken from each sentence, and the model writes a question for each span. A question is kept only if the model answers it
correctly with the passage in the prompt and incorrectly without it. The kept questions are divided: some may be used
for training, the others only judge.

Very small models write few questions that pass this check. Therefore they also rephrase the sentences, and each
rephrased line gives more questions: one in which a question word replaces a span (`span_questions`), and a cloze text
that ends before a span. These only judge. Training uses questions whose answers are sentences of the passage
(`study_questions`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

from selfedit.config import QuizConfig
from selfedit.edits.parse import sentences
from selfedit.edits.spans import keyword_questions, kind_of, pick_spans, span_questions
from selfedit.edits.styles import QUESTION_EXAMPLES
from selfedit.judge.grading import continues_with, f1, is_correct, normalize
from selfedit.model.backend import Request
from selfedit.model.load import Model
from selfedit.text import root, words
from selfedit.types import Example, Passage, Progress, Question, SelfEdit, Task, no_progress, stable_seed


@dataclass(frozen=True)
class Quiz:
    studied: tuple[Question, ...]
    """Questions that may be used for training."""
    judging: tuple[Question, ...]
    """Questions that only judge; no edit may contain them."""
    dropped: Counter


def write_quiz(
    model: Model,
    passage: Passage,
    *,
    spans: int = 28,
    seed: int = 0,
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
) -> Quiz:
    """Writes, checks and divides questions about a passage; `spans`: the maximum number of spans to ask about."""
    picked = pick_spans(passage.text, spans, seed=stable_seed(seed, passage.id, "spans"))
    openings = [(sentence, span, word) for sentence, span in picked for word in _first_words(span)]
    prompts = [
        model.chat.continued(f"{QUESTION_EXAMPLES}{s}\nAnswer: {span}\nQuestion: {word}") for s, span, word in openings
    ]
    texts = model.backend.generate(
        [Request(tuple(p), None, config.question_tokens, one_line=True) for p in prompts],
        on_token=partial(progress, "questions"),
    )
    written: dict[tuple[str, str], Question] = {}  # one question per span
    dropped: Counter[str] = Counter()
    for (sentence, span, word), tokens in zip(openings, texts):
        rest = model.chat.decode(tokens).split("\n")[0].strip()
        question = f"{word} {rest}"
        reason = _fault(question, span, {q.question for q in written.values()})
        if not (reason or _is_about(rest, passage, config.min_known)):
            reason = "not about the text"
        if reason or (sentence, span) in written:
            dropped[reason or "asked in other words"] += 1
        else:
            written[sentence, span] = Question(question, (span,), sentence=sentence)
    kept, reasons = check(model, passage, list(written.values()), config, progress)
    return _split(kept, dropped + reasons, seed=stable_seed(seed, passage.id, "split"))


def check(
    model: Model,
    passage: Passage,
    questions: Sequence[Question],
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
) -> tuple[list[Question], Counter]:
    """Keeps the questions that the model answers correctly with the passage in the prompt and incorrectly without it.

    Returns the kept questions and the number of dropped questions per reason.
    """
    open_book = [tuple(model.chat.ask(open_book_prompt(passage, q.question))) for q in questions]
    fits = [_fits(model, question, tokens, config) for question, tokens in zip(questions, open_book)]
    too_long = Counter({"too long for the model": fits.count(False)})
    questions, open_book = list(compress(questions, fits)), list(compress(open_book, fits))
    if not questions:
        return [], +too_long
    prompts = [*open_book, *(tuple(model.chat.ask(q.question)) for q in questions)]
    requests = [Request(tokens, None, config.check_tokens) for tokens in prompts]
    answers = [model.chat.decode(t) for t in model.backend.generate(requests, on_token=partial(progress, "check"))]
    kept, dropped = [], +too_long
    for question, open_book, closed_book in zip(questions, answers, answers[len(questions) :]):
        gold = question.answers
        if not (is_correct(open_book, gold, question.question) or f1(open_book, gold) >= config.min_agreement):
            dropped["not answered with the passage in view"] += 1
        elif is_correct(closed_book, gold, question.question):
            dropped["known without the passage"] += 1
        else:
            kept.append(replace(question, sentence=question.sentence or find_supporting_sentence(passage, question)))
    return kept, dropped


def _fits(model: Model, question: Question, open_book: Sequence[int], config: QuizConfig) -> bool:
    """Whether the model can read the passage, the question and any of its answers together."""
    answers = [len(model.chat.encode(text)) for text in (*question.answers, question.sentence)]
    return len(open_book) + max(config.check_tokens, *answers) <= model.backend.max_positions


def find_supporting_sentence(passage: Passage, question: Question) -> str:
    """Returns the sentence with an accepted answer that shares most words with the question; empty if there is none."""
    question_words = set(words(question.question.casefold()))
    answer = re.compile("|".join(rf"(?<!\w){re.escape(gold)}(?!\w)" for gold in question.answers), re.IGNORECASE)
    candidates = [s for s in sentences(passage.text) if answer.search(s)]
    return max(candidates, key=lambda s: len(question_words & set(words(s.casefold()))), default="")


def with_sentences(task: Task) -> Task:
    """Adds to each question the sentence of the passage that has the answer, which is a correct answer, too."""
    questions = (
        q if q.kind != "question" or q.sentence else replace(q, sentence=find_supporting_sentence(task.passage, q))
        for q in task.questions
    )
    return replace(task, questions=tuple(questions))


def open_book_prompt(passage: Passage, question: str) -> str:
    """Returns the question with the passage before it."""
    return passage.with_request(f"Answer with a few words from the text above. {question}")


def study_questions(
    passage: Passage, written: Sequence[Question], judging: Sequence[Question], draws: int, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Returns the questions for training: written ones, and `draws` keyword questions per sentence.

    Written questions with the answer of a judging question are left out, and so are keyword questions equal to one.
    """
    judged_answers = {normalize(answer) for q in judging for answer in q.answers}
    judged_questions = {normalize(q.question) for q in judging}
    return (
        [q for q in written if normalize(q.answers[0]) not in judged_answers],
        [q for q in keyword_questions(passage, draws, seed) if normalize(q.question) not in judged_questions],
    )


def questions_from_rewordings(
    model: Model,
    passage: Passage,
    lines: Sequence[str],
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
) -> tuple[list[Question], Counter]:
    """Makes a span question and a cloze question from each line that rephrases a sentence of the passage.

    Returns the questions that pass the check, and the number of dropped questions per reason.
    """
    flat = " ".join(passage.text.split())
    long_lines = [line for line in lines if len(line.split()) > config.min_cloze_words]
    questions = [next((q for q in span_questions(passage, s, 8) if q.answers[0] in flat), None) for s in long_lines]
    kept, reasons = check(model, passage, [replace(q, sentence="") for q in questions if q], config, progress)
    cloze, more_reasons = _cloze_questions(model, flat, lines, config)
    return kept + cloze, reasons + more_reasons


def _cloze_questions(
    model: Model, flat: str, lines: Sequence[str], config: QuizConfig
) -> tuple[list[Question], Counter]:
    """Cuts each line before a span of `flat`, the passage on one line; drops texts that the model completes."""
    questions = []
    for line in lines:
        ends = [(line.rfind(span), span) for _, span in pick_spans(line, 8) if span in flat]
        start, span = max(ends, default=(0, ""))
        before = line[:start].rstrip(" \"'“‘`")
        if len(before.split()) >= config.min_cloze_words and span not in before:
            questions.append(Question(before, (span,), kind="cloze"))
    requests = [Request(tuple(model.chat.prompt(q)), None, config.check_tokens) for q in questions]
    kept, dropped = [], Counter()
    for question, tokens in zip(questions, model.backend.generate(requests)):
        if continues_with(model.chat.decode(tokens), question.answers):
            dropped["known without the passage"] += 1
        else:
            kept.append(question)
    return kept, dropped


def questions_as_edit(questions: Sequence[Question], once: Sequence[Question] = ()) -> SelfEdit:
    """Returns questions as training material in chat form; the questions `once` are used in one epoch each.

    The answer is the whole sentence, which is learned far better than a span alone (docs/LOG.md, study 5).
    """
    pairs = [(q, False) for q in questions] + [(q, True) for q in once]
    examples = tuple(Example(text=q.sentence or q.answers[0], prompt=q.question, once=flag) for q, flag in pairs)
    return SelfEdit("questions", "\n".join(f"Q: {e.prompt}\nA: {e.text}" for e in examples), examples)


def _split(questions: list[Question], dropped: Counter, seed: int) -> Quiz:
    """Divides the questions in halves; questions with the same answer are in the same half."""
    by_answer: dict[str, list[Question]] = {}
    for question in questions:
        by_answer.setdefault(normalize(question.answers[0]), []).append(question)
    groups = list(by_answer.values())
    random.Random(seed).shuffle(groups)
    groups.sort(key=len)  # answers with a single question come first, since these questions judge best
    judging: list[Question] = []
    while groups and len(judging) < len(questions) / 2:
        judging += groups.pop(0)
    return Quiz(tuple(q for group in groups for q in group), tuple(judging), dropped)


def _fault(question: str, span: str, taken: set[str]) -> str:
    """Returns why a written question is unusable, or an empty text; `taken`: the questions written before."""
    if not question.endswith("?") or not 4 <= len(question.split()) <= 30:
        return "not a question"
    if normalize(span) in normalize(question):
        return "the question gives the answer away"
    if question in taken:
        return "asked twice"
    if normalize(question).startswith(("what is answer", "what is name of series", "what is sentence")):
        return "about the task, not the text"
    return ""


def _first_words(span: str) -> tuple[str, ...]:
    """Returns how questions with this answer may begin; without this, very small models begin all questions alike."""
    by_kind = {
        "year": ("In what year",),
        "date": ("When", "On what date"),
        "count": ("How many", "What"),
        "name": ("Who", "Which"),
    }
    return by_kind.get(kind_of(span), ("What", "Which"))


def _is_about(question: str, passage: Passage, min_known: float) -> bool:
    """Returns whether the passage has most of the question's longer words, compared by their roots."""
    known = set(map(root, words(f"{passage.title} {passage.text}")))
    longer = [word for word in words(question) if len(word) > 3]
    return sum(root(word) in known for word in longer) >= min_known * len(longer)
