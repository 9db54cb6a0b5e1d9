"""SEAL's inner step: candidates (what to study) → adapters, trained together → Trials (what each achieved).

Every candidate studies the passage and its self-edits; the candidate `passage` has no edits and is the baseline that an
edit has to exceed. All are scored closed book, as is the untouched model, on questions that none of them studied.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from selfedit.config import TrainConfig
from selfedit.edits.parse import statements
from selfedit.edits.quiz import questions_as_edit
from selfedit.edits.spans import keyword_questions
from selfedit.judge.evaluate import evaluate_groups, gold_logprobs
from selfedit.judge.general import general_abilities, general_changes
from selfedit.model.backend import Adapters, Job
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Progress, Question, Score, SelfEdit, Trial, no_progress, stable_seed


@dataclass(frozen=True)
class Candidate:
    name: str
    edits: tuple[SelfEdit, ...] = ()


def study_examples(passage: Passage, edits: Sequence[SelfEdit] = ()) -> list[Example]:
    """What a memory of the passage studies: the passage whole, and, if no edit asks for its statements, statement by
    statement, so that each can be recalled from its start; then the examples of the edits.

    A text is studied as the answer to a request for it. Studied as a document, it changes how the model continues any
    other text (docs/LOG.md, "A passage as an answer")."""
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
    return joint_job([(sequences, examples)], seed, 1)


def joint_job(parts: Sequence[tuple[Sequence[TokenizedExample], Sequence[Example]]], seed: int, epochs: int) -> Job:
    """What several passages study, as one job. Each epoch has a share of each passage's `once` examples."""
    always = [s for sequences, examples in parts for s, e in zip(sequences, examples) if not e.once]
    once = [[s for s, e in zip(sequences, examples) if e.once] for sequences, examples in parts]
    shares = [
        s
        for epoch in range(epochs)
        for group in once
        for s in group[len(group) * epoch // epochs : len(group) * (epoch + 1) // epochs]
    ]
    return Job(tuple(always), seed=seed, once=tuple(shares))


@dataclass(frozen=True)
class Study:
    """What is tried on one passage, and the questions that judge it."""

    passage: Passage
    candidates: Sequence[Candidate]
    questions: Sequence[Question]
    """The untouched model answers none of them correctly; `edits.quiz.check` keeps no others."""


def run_trials(
    model: Model, studies: Sequence[Study], config: TrainConfig, *, seed: int = 0, progress: Progress = no_progress
) -> tuple[Adapters, list[tuple[list[Trial], Score]]]:
    """Trains and tests all candidates of all passages together.

    Returns the adapters, in the order of the studies and their candidates, and for each study a Trial per candidate and
    the untouched model's Score on the same questions.
    """
    start = time.perf_counter()
    jobs = []
    for study in studies:
        for candidate in study.candidates:
            examples = study_examples(study.passage, candidate.edits)
            sequences = study_sequences(model, study.passage, examples, config.distill)
            jobs.append(job(sequences, examples, stable_seed(seed, study.passage.id, candidate.name)))
    adapters, logs = model.backend.train(jobs, config, on_step=partial(progress, "train"))
    adapters = adapters.as_stored()
    seconds_per_token = (time.perf_counter() - start) / sum(log.tokens for log in logs)
    groups, row = [], 0
    for study in studies:
        groups.append((study.questions, range(row, row + len(study.candidates))))
        row += len(study.candidates)
    scores = evaluate_groups(model, groups, adapters, on_token=partial(progress, "test"))
    untouched_logprobs = iter(gold_logprobs(model, [(q, None) for study in studies for q in study.questions]))
    changes = iter(general_changes(model, adapters))
    untouched, *abilities = general_abilities(model, adapters)
    losses, counts = iter([untouched - ability for ability in abilities]), iter([log.tokens for log in logs])
    results = []
    for study, after in zip(studies, scores):
        logprobs = tuple(next(untouched_logprobs) for _ in study.questions)
        before = Score(0.0, sum(logprobs) / len(logprobs), (False,) * len(logprobs), logprobs)
        trials = [
            Trial(
                c.name,
                c.edits,
                score,
                next(changes),
                (tokens := next(counts)),
                seconds_per_token * tokens,
                next(losses),
            )
            for c, score in zip(study.candidates, after)
        ]
        results.append((trials, before))
    return adapters, results
