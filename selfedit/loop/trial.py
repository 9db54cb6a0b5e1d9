"""SEAL's inner step: candidates (what to study) → adapters, trained as one stack → Trials (what each did).

Every candidate studies the passage itself, and its own self-edits beside it; `passage` has no edits and is the
baseline that an edit has to beat. All are scored on questions that none of them studied, closed book, together with
the untouched model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfedit.config import TrainConfig
from selfedit.edits.parse import sentences
from selfedit.edits.quiz import questions_as_edit
from selfedit.edits.spans import keyword_questions
from selfedit.judge.evaluate import evaluate
from selfedit.judge.general import general_abilities, general_changes
from selfedit.model.backend import Adapters, Job
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Progress, Question, Score, SelfEdit, Trial, no_progress, stable_seed

PASSAGE = "passage"
"""Name of the candidate that studies the passage alone."""


@dataclass(frozen=True)
class Candidate:
    name: str
    edits: tuple[SelfEdit, ...] = ()


def study_texts(passage: Passage) -> list[Example]:
    """The passage as it is studied: whole, and sentence by sentence, so that each can be recalled from its own start."""
    texts = [f"{passage.title}\n{passage.text}".strip()]
    own = sentences(passage.text)
    return [Example(text) for text in texts + (own if len(own) > 1 else [])]


def study_sequences(
    model: Model, passage: Passage, examples: Sequence[Example], distill: float = 0.0
) -> tuple[TokenizedExample, ...]:
    """The examples as they are trained on, in their order. With `distill`, each answer has a teacher that reads the same
    question with the passage in view; the backend mixes its distribution into the labels."""
    tokenized = []
    for example in examples:
        one = model.chat.study(example)
        if distill and example.prompt:
            seen = model.chat.study(replace(example, prompt=passage.with_request(example.prompt)))
            one = replace(one, teacher_prompt=seen.tokens[: seen.label_start], distill=distill)
        tokenized.append(one)
    return tuple(tokenized)


def seal_examples(passage: Passage, edits: Sequence[SelfEdit]) -> list[Example]:
    """SEAL's training sequences: the title over each line of the edits, the passage last; questions stay questions."""
    lines = [e for edit in edits for e in edit.examples]
    titled = [e if e.prompt else replace(e, text=f"{passage.title}\n{e.text}".strip()) for e in lines]
    return [*titled, Example(f"{passage.title}\n{passage.text}".strip())]


QUESTIONS = "questions"
"""Of a style `a+questions`: questions by rule stand beside what is written in style a."""


def writing_style(style: str) -> str:
    """What a model writes in a style: all but the questions by rule; empty if nothing."""
    return "" if style == QUESTIONS else style.removesuffix(f"+{QUESTIONS}")


def with_questions(passage: Passage, edit: SelfEdit, draws: int, seed: int) -> SelfEdit:
    """The edit, and beside it so many questions by rule about each sentence of the passage, each studied once."""
    asked = questions_as_edit([], keyword_questions(passage, draws, seed))
    style = f"{edit.style}+{asked.style}" if edit.style else asked.style
    return SelfEdit(style, f"{edit.text}\n{asked.text}".strip(), edit.examples + asked.examples)


def job(sequences: Sequence[TokenizedExample], examples: Sequence[Example], seed: int) -> Job:
    """`sequences[i]` is `examples[i]` in tokens."""
    return joint_job([(sequences, examples)], seed, 1)


def joint_job(parts: Sequence[tuple[Sequence[TokenizedExample], Sequence[Example]]], seed: int, epochs: int) -> Job:
    """What several passages study, as one job. Of what is studied once, each epoch has a share of every passage's."""
    always, once = (
        [[s for s, e in zip(sequences, examples) if e.once is kind] for sequences, examples in parts]
        for kind in (False, True)
    )
    spread = [
        s for e in range(epochs) for own in once for s in own[len(own) * e // epochs : len(own) * (e + 1) // epochs]
    ]
    return Job(tuple(s for own in always for s in own), seed=seed, once=tuple(spread))


def run_trials(
    model: Model,
    passage: Passage,
    candidates: Sequence[Candidate],
    questions: Sequence[Question],
    config: TrainConfig,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[Adapters, list[Trial], Score]:
    """The trained stack, a Trial a candidate in its order, and the untouched model's Score on the same questions."""
    start = time.perf_counter()
    jobs = []
    for candidate in candidates:
        examples = study_texts(passage) + [e for edit in candidate.edits for e in edit.examples]
        jobs.append(
            job(
                study_sequences(model, passage, examples, config.distill),
                examples,
                stable_seed(seed, passage.id, candidate.name),
            )
        )
    stack, logs = model.backend.train(jobs, config, on_step=lambda done, total: progress("train", done, total))
    seconds = time.perf_counter() - start
    adapters = [None, *range(len(candidates))]
    before, *scores = evaluate(
        model, questions, adapters, stack, on_token=lambda done, total: progress("test", done, total)
    )
    changes, (untouched, *abilities) = general_changes(model, stack), general_abilities(model, stack)
    tokens = sum(log.tokens for log in logs)
    trials = [
        Trial(c.name, c.edits, score, change, log.tokens, seconds * log.tokens / tokens, untouched - ability)
        for c, score, change, ability, log in zip(candidates, scores, changes, abilities, logs)
    ]
    return stack, trials, before
