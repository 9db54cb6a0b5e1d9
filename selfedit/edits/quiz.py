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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from selfedit.config import QuizConfig
from selfedit.edits.parse import statements
from selfedit.edits.spans import keyword_questions, kind_of, pick_spans, span_questions
from selfedit.edits.styles import QUESTION_EXAMPLES
from selfedit.judge.grading import continues_with, f1, is_correct, normalize
from selfedit.judge.grounding import is_quoted
from selfedit.model.load import Model
from selfedit.model.writer import Writer, WriteRequest
from selfedit.text import root, words
from selfedit.types import Example, Passage, Progress, Question, SelfEdit, Task, no_progress, stable_seed

Read = Callable[[Sequence[tuple[Question, Passage]]], Sequence[bool]]
"""Whether each question is answered right from its passage."""


@dataclass(frozen=True)
class Quiz:
    studied: tuple[Question, ...]
    """Questions that may be used for training."""
    judging: tuple[Question, ...]
    """Questions that only judge; no edit may contain them."""
    dropped: Counter


def write_quizzes(
    model: Model,
    passages: Sequence[Passage],
    *,
    writer: Writer | None = None,
    spans: int = 28,
    seed: int = 0,
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
    read: Read | None = None,
) -> list[Quiz]:
    """Writes, checks and divides questions about each passage, all passages in one batch. `writer`: writes them, and
    answers them with the passage in the prompt, in place of the model. `spans`: the maximum number of spans of a
    passage to ask about. `read`: as in `check`."""
    writer = writer or model
    openings = [
        (i, sentence, span, word)
        for i, passage in enumerate(passages)
        for sentence, span in pick_spans(passage.text, spans, seed=stable_seed(seed, passage.id, "spans"))
        for word in _first_words(span)
    ]
    prompts = [(f"{QUESTION_EXAMPLES}{s}\nAnswer: {span}\nQuestion: ", word) for _, s, span, word in openings]
    requests = [
        WriteRequest(text, config.question_tokens, continues=True, opening=word, one_line=True)
        for text, word in prompts
    ]
    texts = writer.write(requests, partial(progress, "questions"))
    written: list[dict[tuple[str, str], Question]] = [{} for _ in passages]  # one question per span
    dropped: list[Counter[str]] = [Counter() for _ in passages]
    for (i, sentence, span, word), question in zip(openings, texts):
        reason = _fault(question, span, {q.question for q in written[i].values()})
        if not (reason or _is_about(question.removeprefix(word), passages[i], config.min_known)):
            reason = "not about the text"
        if reason or (sentence, span) in written[i]:
            dropped[i][reason or "asked in other words"] += 1
        else:
            written[i][sentence, span] = Question(question, (span,), sentence=sentence)
    asked = [(passage, list(found.values())) for passage, found in zip(passages, written)]
    checked = check(model, asked, config, progress, reader=writer, read=read)
    return [
        _split(kept, dropped[i] + reasons, seed=stable_seed(seed, passages[i].id, "split"))
        for i, (kept, reasons) in enumerate(checked)
    ]


def check(
    model: Model,
    asked: Sequence[tuple[Passage, Sequence[Question]]],
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
    *,
    reader: Writer | None = None,
    with_passage: bool = True,
    read: Read | None = None,
) -> list[tuple[list[Question], Counter]]:
    """Keeps the questions that the model answers correctly with their passage and incorrectly without it.

    `asked`: passages with questions, all checked in one batch. `reader`: answers with the passage in the prompt, in
    place of the model. `with_passage`: False leaves out the first condition, for questions that need no proof. `read`:
    decides the first condition by itself. Returns for each passage the kept questions and the number of dropped
    questions per reason.
    """
    reader = reader or model
    dropped: list[Counter[str]] = [Counter() for _ in asked]
    fitting: list[tuple[int, Question, WriteRequest, WriteRequest]] = []
    for i, (passage, questions) in enumerate(asked):
        for question in questions:
            prompts = open_book_prompt(passage, question.question), question.question
            open_book, closed_book = (WriteRequest(text, config.check_tokens) for text in prompts)
            answers = (*question.answers, question.sentence)  # a model is trained on them
            if reader.fits(open_book, answers) and model.fits(closed_book, answers):
                fitting.append((i, question, open_book, closed_book))
            else:
                dropped[i]["too long for the model"] += 1
    if read or with_passage:
        if read:
            verdicts = read([(question, asked[i][0]) for i, question, *_ in fitting])
        else:
            texts = reader.write([open_book for _, _, open_book, _ in fitting], partial(progress, "check"))
            verdicts = [_answers(text, question, config) for (_, question, *_), text in zip(fitting, texts)]
        dropped_here = Counter(i for (i, *_), right in zip(fitting, verdicts) if not right)
        for i, count in dropped_here.items():
            dropped[i]["not answered with the passage in view"] += count
        fitting = [one for one, right in zip(fitting, verdicts) if right]
    texts = model.write([closed_book for *_, closed_book in fitting], partial(progress, "check"))
    kept: list[list[Question]] = [[] for _ in asked]
    for (i, question, *_), text in zip(fitting, texts):
        if is_correct(text, question.answers, question.question):
            dropped[i]["known without the passage"] += 1
        else:
            sentence = question.sentence or find_supporting_sentence(asked[i][0], question)
            kept[i].append(replace(question, sentence=sentence))
    return list(zip(kept, dropped))


def _answers(text: str, question: Question, config: QuizConfig) -> bool:
    gold = question.answers
    return is_correct(text, gold, question.question) or f1(text, gold) >= config.min_agreement


def find_supporting_sentence(passage: Passage, question: Question) -> str:
    """Returns the sentence with an accepted answer that shares most words with the question; empty if there is none."""
    question_words = set(words(question.question.casefold()))
    answer = re.compile("|".join(rf"(?<!\w){re.escape(gold)}(?!\w)" for gold in question.answers), re.IGNORECASE)
    candidates = [s for s in statements(passage) if answer.search(s)]
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


def joined(passages: Sequence[Passage]) -> Passage:
    """Returns several passages as one, each under its title, for a prompt. The first, as the best one, is last, next to
    the question."""
    if len(passages) == 1:
        return passages[0]
    text = "\n\n".join(f"{p.title}\n\n{p.text}".strip() for p in reversed(passages))
    return replace(passages[0], title="", text=text)


def with_passage(passage: Passage, question: Question) -> Question:
    """Returns the question, or the text to be continued, with the passage before it."""
    text = (
        open_book_prompt(passage, question.question)
        if question.kind == "question"
        else passage.with_request(question.question)
    )
    return replace(question, question=text)


def with_passages(passages: Sequence[Passage], question: Question) -> Question:
    """Returns the question with these passages before it, the best one next to it."""
    return with_passage(joined(passages), question)


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
    reworded: Sequence[tuple[Passage, Sequence[str]]],
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
    *,
    reader: Writer | None = None,
) -> list[tuple[list[Question], Counter]]:
    """Makes a span question and a cloze question from each line that rephrases a sentence of its passage.

    `reader`: as in `check`. Returns for each passage the questions that pass the check, and the number of dropped
    questions per reason.
    """
    asked = []
    for passage, lines in reworded:
        flat = " ".join(passage.text.split())
        long_lines = [line for line in lines if len(line.split()) > config.min_cloze_words]
        made = [next((q for q in span_questions(passage, s, 8) if q.answers[0] in flat), None) for s in long_lines]
        asked.append((passage, [replace(q, sentence="") for q in made if q]))
    checked, clozes = check(model, asked, config, progress, reader=reader), _cloze_questions(model, reworded, config)
    return [(kept + cloze, reasons + more) for (kept, reasons), (cloze, more) in zip(checked, clozes)]


def fill_up(
    model: Model,
    asked: Sequence[tuple[Passage, Sequence[Question]]],
    least: int,
    config: QuizConfig = QuizConfig(),
    progress: Progress = no_progress,
    *,
    read: Read | None = None,
) -> list[tuple[list[Question], Counter]]:
    """Returns more questions for the passages that have fewer than `least`, and the number of dropped ones per reason.

    They are made by rule from the passage's own sentences, in which a question word replaces a span, so they are right
    even where the model cannot read the passage, and only `read` (as in `check`) asks them with it. They judge less
    strictly than questions in other words, so they only fill up. With `read`, those come first that the sentence
    quoted for them answers: they are the cheapest to check, now and after learning.
    """
    unchecked: list[list[Question]] = []
    for passage, questions in asked:
        missing, known = least - len(questions), {normalize(a) for q in questions for a in q.answers}
        spans = span_questions(passage, passage.text, 4 * least) if missing > 0 else []
        fresh = {normalize(q.answers[0]): q for q in spans if normalize(q.answers[0]) not in known}
        some = list(fresh.values())
        if read:
            some.sort(key=lambda question: not is_quoted(question, passage))
        unchecked.append(some[: missing + config.spare])
    found: list[tuple[list[Question], Counter]] = [([], Counter()) for _ in asked]
    while True:  # the spare ones are checked where others were dropped
        now = []
        for (passage, questions), (kept, _), left in zip(asked, found, unchecked):
            missing = max(0, least - len(questions) - len(kept))
            now.append((passage, left[:missing]))
            del left[:missing]
        if not any(questions for _, questions in now):
            return found
        checked = check(model, now, config, progress, with_passage=False, read=read)
        for (kept, dropped), (more, reasons) in zip(found, checked):
            kept += more
            dropped.update(reasons)


def _cloze_questions(
    model: Model, reworded: Sequence[tuple[Passage, Sequence[str]]], config: QuizConfig
) -> list[tuple[list[Question], Counter]]:
    """Cuts each line before a span that its passage has; drops texts that the model completes."""
    made = []
    for i, (passage, lines) in enumerate(reworded):
        flat = " ".join(passage.text.split())
        for line in lines:
            ends = [(line.rfind(span), span) for _, span in pick_spans(line, 8) if span in flat]
            start, span = max(ends, default=(0, ""))
            before = line[:start].rstrip(" \"'“‘`")
            if len(before.split()) >= config.min_cloze_words and span not in before:
                made.append((i, Question(before, (span,), kind="cloze")))
    texts = model.write([WriteRequest(q.question, config.check_tokens, continues=True) for _, q in made])
    results: list[tuple[list[Question], Counter]] = [([], Counter()) for _ in reworded]
    for (i, question), text in zip(made, texts):
        kept, dropped = results[i]
        if continues_with(text, question.answers):
            dropped["known without the passage"] += 1
        else:
            kept.append(question)
    return results


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
