"""SEAL's inner step: candidates (what to study) → adapters, trained together → Trials (what each achieved).

Every candidate studies the passage and its self-edits; the candidate `passage` has no edits and is the baseline that an
edit has to exceed. All are scored closed book, as is the untouched model, on questions that none of them studied. A
candidate that learned to recite the passage recites it first, and the answer is read from that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from operator import itemgetter

from selfedit.config import STUDY_ON_SHARE, TrainConfig
from selfedit.edits.parse import statements
from selfedit.edits.quiz import questions_as_edit
from selfedit.edits.recitation import is_exact, recite, share_recited, to_recite
from selfedit.edits.spans import keyword_questions
from selfedit.judge.evaluate import Group, evaluate_groups, gold_logprobs, read
from selfedit.judge.general import general_harm
from selfedit.model.backend import Adapters, Job, TrainLog
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Progress, Question, Score, SelfEdit, Trial, no_progress, stable_seed


@dataclass(frozen=True)
class Candidate:
    name: str
    edits: tuple[SelfEdit, ...] = ()


def study_examples(passage: Passage, edits: Sequence[SelfEdit] = (), recites: bool = False) -> list[Example]:
    """What a memory of the passage studies: the passage whole, and, if no edit asks for its statements, statement by
    statement, so that each can be recalled from its start; then the examples of the edits. A memory that `recites` the
    passage needs it whole only.

    A text is studied as the answer to a request for it. Studied as a document, it changes how the model continues any
    other text (docs/LOG.md, "A passage as an answer")."""
    if recites:
        texts = [to_recite(passage)]
    else:
        asked = any(edit.style == QUESTIONS for edit in edits)
        parts = [] if asked else statements(passage)
        texts = [Example(text) for text in [passage.text, *(parts if len(parts) > 1 else [])]]
    request = f"What does “{passage.title}” say?" if passage.title else "What does the text say?"
    examples = [*texts, *(example for edit in edits for example in edit.examples)]
    return [example if example.prompt else replace(example, prompt=request) for example in examples]


def study_sequences(
    model: Model, passage: Passage, examples: Sequence[Example], distill: float = 0.0
) -> tuple[TokenizedExample, ...]:
    """The examples in tokens, in their order. With `distill`, each answer has a teacher that reads the same question
    with the passage in view; the backend mixes its distribution into the labels."""
    tokenized = []
    for example in examples:
        one = model.chat.study(example)
        if distill and example.prompt:
            seen = model.chat.study(replace(example, prompt=passage.with_request(example.prompt)))
            one = replace(one, teacher_prompt=seen.tokens[: seen.label_start], distill=distill)
        tokenized.append(one)
    return tuple(tokenized)


def seal_examples(passage: Passage, edits: Sequence[SelfEdit]) -> list[Example]:
    """SEAL's training sequences: each line of the edits under the title, questions as they are, the passage last."""
    lines = [e for edit in edits for e in edit.examples]
    titled = [e if e.prompt else replace(e, text=f"{passage.title}\n{e.text}".strip()) for e in lines]
    return [*titled, Example(f"{passage.title}\n{passage.text}".strip())]


QUESTIONS = "questions"
"""In a style `a+questions`, questions made by rule are studied beside what is written in style `a`; as the name of a
control: only these questions."""


def writing_style(style: str) -> str:
    """The part of a style that a model writes, which excludes the questions made by rule; may be empty."""
    return "" if style == QUESTIONS else style.removesuffix(f"+{QUESTIONS}")


def with_questions(passage: Passage, edit: SelfEdit, draws: int, seed: int) -> SelfEdit:
    """The edit with `draws` questions made by rule about each sentence of the passage, each studied once."""
    questions = questions_as_edit([], keyword_questions(passage, draws, seed))
    style = f"{edit.style}+{questions.style}" if edit.style else questions.style
    return SelfEdit(style, f"{edit.text}\n{questions.text}".strip(), edit.examples + questions.examples)


def job(sequences: Sequence[TokenizedExample], examples: Sequence[Example], seed: int) -> Job:
    """`sequences[i]` is `examples[i]` in tokens."""
    return joint_job([(sequences, examples)], seed)


def joint_job(parts: Sequence[tuple[Sequence[TokenizedExample], Sequence[Example]]], seed: int) -> Job:
    """What several passages study, as one job. The `once` examples of each passage are spread evenly over the whole, so
    that every epoch has its share of each."""
    always = [s for sequences, examples in parts for s, e in zip(sequences, examples) if not e.once]
    groups = [[s for s, e in zip(sequences, examples) if e.once] for sequences, examples in parts]
    placed = [((i + 0.5) / len(group), s) for group in groups for i, s in enumerate(group)]
    return Job(tuple(always), seed=seed, once=tuple(s for _, s in sorted(placed, key=itemgetter(0))))


@dataclass(frozen=True)
class Study:
    """What is tried on one passage, and the questions that judge it."""

    passage: Passage
    candidates: Sequence[Candidate]
    questions: Sequence[Question]
    """The untouched model answers none of them correctly; `edits.quiz.check` keeps no others. May be empty."""


def run_trials(
    model: Model,
    studies: Sequence[Study],
    config: TrainConfig,
    *,
    recites: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[Adapters, list[tuple[list[Trial], Score]]]:
    """Trains and tests all candidates of all passages together. `recites`: they learn to recite their passages.

    Returns the adapters, in the order of the studies and their candidates, and for each study a Trial per candidate and
    the untouched model's Score on the same questions.
    """
    start = time.perf_counter()
    tried = [(study, candidate) for study in studies for candidate in study.candidates]
    jobs = []
    for study, candidate in tried:
        examples = study_examples(study.passage, candidate.edits, recites)
        sequences = study_sequences(model, study.passage, examples, config.distill)
        jobs.append(job(sequences, examples, stable_seed(seed, study.passage.id, candidate.name)))
    if recites:
        adapters, logs, recited = train_to_recite(model, [study.passage for study, _ in tried], jobs, config, progress)
        test = partial(_test_recited, model, studies, recited, logs, progress)
    else:
        adapters, logs = model.backend.train(jobs, config, on_step=partial(progress, "train"))
        adapters = adapters.as_stored()
        test = partial(_test_closed_book, model, studies, adapters, progress)
    seconds_per_token = (time.perf_counter() - start) / sum(log.tokens for log in logs)
    tested, before = test()
    trials = iter(
        [
            Trial(
                name=candidate.name,
                edits=candidate.edits,
                score=score,
                general_change=change,
                tokens=log.tokens,
                seconds=seconds_per_token * log.tokens,
                general_lost=lost,
                recited=said,
                share_recited=None if said is None else share_recited(study.passage, said),
            )
            for (study, candidate), (score, said), change, lost, log in zip(
                tried, tested, *general_harm(model, adapters), logs, strict=True
            )
        ]
    )
    return adapters, [([next(trials) for _ in study.candidates], one) for study, one in zip(studies, before)]


def train_to_recite(
    model: Model, passages: Sequence[Passage], jobs: Sequence[Job], config: TrainConfig, progress: Progress
) -> tuple[Adapters, list[TrainLog], list[Passage]]:
    """The adapters as they are stored, their logs, and what each recites. `jobs`: of each passage.

    An adapter that does not recite its passage word for word studies on, once: at a lower rate, and with all tokens of
    the model as rivals of a label."""
    train, say = partial(progress, "train"), partial(progress, "recite")
    adapters, logs = model.backend.train(jobs, config, on_step=train)
    stored = adapters.as_stored()
    recited = recite(model, passages, range(len(passages)), stored, on_token=say)
    rows = [row for row, passage in enumerate(passages) if not is_exact(model, passage, recited[row])]
    if not rows:
        return stored, logs, recited
    config = replace(config, rivals=0, learning_rate=STUDY_ON_SHARE * config.learning_rate)
    start = adapters.subset(rows)
    more, their_logs = model.backend.train([jobs[row] for row in rows], config, start=start, on_step=train)
    more = more.as_stored()
    again = recite(model, [passages[row] for row in rows], range(len(rows)), more, on_token=say)
    for place, (row, said, log) in enumerate(zip(rows, again, their_logs)):
        logs[row].tokens += log.tokens
        if share_recited(passages[row], said) >= share_recited(passages[row], recited[row]):
            recited[row] = said
            logs[row].losses += log.losses
            stored.put(row, more, place)
    return stored, logs, recited


def _test_closed_book(
    model: Model, studies: Sequence[Study], adapters: Adapters, progress: Progress
) -> tuple[list[tuple[Score, Passage | None]], list[Score]]:
    """The score of each candidate, and the untouched model's on the questions of each study."""
    rows = iter(range(adapters.count))
    groups = [Group(study.questions, [next(rows) for _ in study.candidates]) for study in studies]
    scores = evaluate_groups(model, groups, adapters, on_token=partial(progress, "test"))
    untouched = iter(gold_logprobs(model, [(q, None) for study in studies for q in study.questions]))
    before = []
    for study in studies:
        logprobs = tuple(next(untouched) for _ in study.questions)
        before.append(Score(0.0, sum(logprobs) / len(logprobs), (False,) * len(logprobs), logprobs))
    return [(score, None) for of_study in scores for score in of_study], before


def _test_recited(
    model: Model, studies: Sequence[Study], recited: Sequence[Passage], logs: Sequence[TrainLog], progress: Progress
) -> tuple[list[tuple[Score, Passage | None]], list[Score]]:
    """As `_test_closed_book`. `recited`: by each candidate. The gold answer is the passage. An epoch has one step,
    whose loss is measured before the update: the first epoch's is the untouched model's, the last one's is the
    adapter's. The questions were answered from the passage when they were checked, so they are asked again only where
    something else is recited."""
    asked = [study for study in studies for _ in study.candidates]
    changed = [said.text != study.passage.text.strip() for study, said in zip(asked, recited)]
    pairs = [(q, said) for study, said, is_new in zip(asked, recited, changed) if is_new for q in study.questions]
    verdicts = iter(read(model, pairs, on_token=partial(progress, "test")))
    tested: list[tuple[Score, Passage | None]] = []
    for study, said, is_new, log in zip(asked, recited, changed, logs, strict=True):
        correct = tuple(next(verdicts) if is_new else True for _ in study.questions)
        accuracy = sum(correct) / len(correct) if correct else None
        tested.append((Score(accuracy, -log.losses[-1], correct), said))
    first_of_study = accumulate((len(study.candidates) for study in studies), initial=0)
    before = [
        Score(0.0 if (count := len(study.questions)) else None, -logs[first].losses[0], (False,) * count)
        for study, first in zip(studies, first_of_study)
    ]
    return tested, before
