"""The conditions of `bench knowledge`: what each one trains on, or has in the prompt.

In: the text of a condition, and tasks. Out: training jobs (`jobs`), or a changed prompt (`prompt_override`). A
condition is written NAME, NAME:DETAIL or NAME@TOKENS. With @TOKENS the number of epochs is chosen such that training
uses about that many tokens per passage, so that conditions can be compared at equal budgets. The names are:

- `base`: closed book, without training;
- `passage`: train on the passage alone;
- `self-edit[:STYLE]`: on edits of the untouched model; `seal[:STYLE]`: on edits of the trained editor, in its best
  style;
- `edits:WRITER/STYLE`: on edits from the data file;
- `distill`: on the model's answers to rule-based questions with the passage in the prompt, as soft labels;
- `finetune`: on the passage, with all weights instead of an adapter;
- `in-context`: the passage in the prompt (the ceiling); `retrieval`: the best passages of the whole run by BM25.

A STYLE that ends in `+questions` adds rule-based questions to the edit; their answers are sentences of the passage.
Conditions with an adapter train on the sequences of SEAL: the title before each line, and last the passage itself
(docs/SEAL.md, section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selfedit.config import FilterConfig, StudyConfig, TrainConfig
from selfedit.edits.parse import clean, parse_edit
from selfedit.edits.propose import write_edits
from selfedit.edits.quiz import joined, open_book_prompt, with_passage
from selfedit.edits.spans import keyword_questions
from selfedit.edits.styles import STYLES
from selfedit.errors import SelfeditError
from selfedit.loop.editor import Editor
from selfedit.loop.trial import QUESTIONS, joint_job, seal_examples, study_sequences, with_questions, writing_style
from selfedit.model.backend import Adapters, Job, Request
from selfedit.model.load import Model
from selfedit.types import Example, Passage, Question, SelfEdit, Task, stable_seed

UNTRAINED = ("base", "in-context", "retrieval")
NAMES = (*UNTRAINED, "passage", "self-edit", "seal", "edits", "distill", "finetune")


@dataclass(frozen=True)
class Condition:
    text: str
    """The condition as the user wrote it."""
    name: str
    detail: str = ""
    tokens: int | None = None
    """Training tokens per passage; None: determined by the epochs of the TrainConfig."""

    @property
    def trains(self) -> bool:
        return self.name not in UNTRAINED


def check_conditions(conditions: Sequence[str], known: Sequence[str]) -> None:
    """Raises SelfeditError if there is no condition, or one that is not known."""
    if not conditions:
        raise SelfeditError(f"give at least one condition of {', '.join(known)}")
    if unknown := [name for name in conditions if name not in known]:
        raise SelfeditError(f"unknown condition {unknown[0]!r}; known: {', '.join(known)}")


def parse(text: str, tasks: Sequence[Task], editor: Editor | None) -> Condition:
    """Reads a condition. Raises SelfeditError, with the known values, if it does not exist."""
    rest, at, tokens = text.partition("@")
    name, _, detail = rest.partition(":")
    if name not in NAMES:
        raise SelfeditError(f"unknown condition {name!r}; known: {', '.join(NAMES)}")
    if at and not (tokens.isdecimal() and int(tokens) and name in NAMES[len(UNTRAINED) :]):
        raise SelfeditError(f"{text}: @TOKENS is a whole number, for conditions that train")
    if name == "edits":
        missing = next((t for t in tasks if detail.removesuffix(f"+{QUESTIONS}") not in t.edits), None)
        if missing is not None:
            raise SelfeditError(
                f"{text}: the data has no such edits for {missing.id or missing.passage.title!r}; "
                f"known: {', '.join(missing.edits) or 'none'}"
            )
    elif name == "seal" and editor is None:
        raise SelfeditError("seal needs a trained editor: give --editor DIR (`selfedit train-editor` makes one)")
    elif name in ("self-edit", "seal"):
        detail = detail or (editor.style if name == "seal" else StudyConfig.style)
        if (writing := writing_style(detail)) and writing not in STYLES:
            raise SelfeditError(
                f"{text}: unknown style {writing!r}; known: {', '.join(STYLES)}, each also with +{QUESTIONS}, "
                f"and {QUESTIONS}"
            )
    elif detail:
        raise SelfeditError(f"{text}: {name} takes no detail")
    return Condition(text, name, detail, int(tokens) if tokens else None)


def jobs(
    model: Model,
    condition: Condition,
    groups: Sequence[tuple[Sequence[Task], int]],
    config: TrainConfig,
    editor: Adapters | None = None,
    on_token: Callable[[int, int], None] = lambda done, total: None,
    study: StudyConfig = StudyConfig(),
) -> list[Job]:
    """Returns one training job per group of (tasks, seed): one adapter learns all tasks of its group.

    `editor`: the adapter that writes the edits of `seal`.
    """
    pairs = [(task, seed) for group, seed in groups for task in group]
    distilled = _distilled(model, pairs, study, on_token) if condition.name == "distill" else None
    edits = None if distilled else _edits(model, condition, pairs, editor, study, on_token)

    def examples(i: int, epochs: int) -> list[Example]:
        if distilled:
            return distilled[i]
        task, seed = pairs[i]
        return seal_examples(
            task.passage, [_add_questions(condition, task, edits[i], study.questions_per_sentence * epochs, seed)]
        )

    def build(members: range, epochs: int) -> Job:
        parts = []
        for i in members:
            studied = examples(i, epochs)
            distill = 1.0 if distilled else config.distill
            parts.append((study_sequences(model, pairs[i][0].passage, studied, distill), studied))
        seed = stable_seed("knowledge", pairs[members[0]][1], *(pairs[i][0].passage.id for i in members))
        return joint_job(parts, seed)

    made, start = [], 0
    for group, _ in groups:
        members, start = range(start, start + len(group)), start + len(group)
        job = build(members, config.epochs)
        if condition.tokens:
            epochs = _epochs(job, config.epochs, condition.tokens * len(group))
            # Every epoch has new questions, so their number depends on the number of epochs.
            job = replace(build(members, epochs) if job.once else job, epochs=epochs)
        made.append(job)
    return made


def _epochs(job: Job, epochs: int, tokens: int) -> int:
    """Returns the number of epochs that trains on about `tokens`, given a job built for `epochs`."""
    per_epoch = sum(len(s.tokens) for s in job.examples) + sum(len(s.tokens) for s in job.once) / epochs
    return max(1, round(tokens / per_epoch))


def _edits(
    model: Model,
    condition: Condition,
    pairs: Sequence[tuple[Task, int]],
    editor: Adapters | None,
    study: StudyConfig,
    on_token,
) -> list[SelfEdit]:
    """Returns the edit of each (task, seed), read from the data or written now; empty if the condition has no edits."""
    writing = writing_style(condition.detail)
    if condition.name == "edits":
        return [given_edit(task, writing, seed, study.filter) for task, seed in pairs]
    if condition.name in ("self-edit", "seal") and writing:
        writer = editor if condition.name == "seal" else None
        requests = [(task.passage, writing, seed) for task, seed in pairs]
        return write_edits(model, requests, writer, config=study.filter, on_token=on_token)
    return [SelfEdit("", "") for _ in pairs]


def _add_questions(condition: Condition, task: Task, edit: SelfEdit, draws: int, seed: int) -> SelfEdit:
    """Adds `draws` rule-based questions per sentence to the edit, if the style of the condition asks for them."""
    if condition.detail == writing_style(condition.detail):
        return edit
    return with_questions(task.passage, edit, draws, stable_seed("questions", seed, task.passage.id))


def given_edit(task: Task, name: str, seed: int, config: FilterConfig = FilterConfig()) -> SelfEdit:
    """Returns an edit of the data file, chosen by the seed and parsed like a generated one.

    Unlike a generated edit, it keeps examples that name something the passage does not have.
    """
    texts = task.edits[name]
    text = texts[seed % len(texts)]
    style = name.rpartition("/")[2]
    examples = parse_edit(style, text, task.passage, max_examples=config.max_examples)
    return SelfEdit(style, text, tuple(clean(examples, task.passage, config=config)[0]))


def _distilled(model: Model, pairs: Sequence[tuple[Task, int]], study: StudyConfig, on_token) -> list[list[Example]]:
    """Returns per task rule-based questions, answered by the model with the passage in the prompt; and the passage."""
    questions = [
        keyword_questions(t.passage, study.questions_per_sentence, stable_seed("distill", seed, t.passage.id))
        for t, seed in pairs
    ]
    prompts = [open_book_prompt(task.passage, q.question) for (task, _), group in zip(pairs, questions) for q in group]
    outputs = model.backend.generate(
        [Request(tuple(model.chat.ask(p)), None, study.teacher_tokens) for p in prompts], on_token=on_token
    )
    texts = iter([model.chat.decode(tokens).strip() for tokens in outputs])
    answered = [[Example(text, q.question) for q in group if (text := next(texts))] for group in questions]
    return [[*examples, *seal_examples(task.passage, [])] for (task, _), examples in zip(pairs, answered)]


# Passages in the prompt.


def prompt_override(
    condition: Condition, task: Task, question: Question, retriever: Retriever | None
) -> Question | None:
    """Returns the question with a passage in the prompt, or None if the condition is closed book."""
    if condition.name == "in-context":
        return with_passage(task.passage, question)
    return with_passage(retriever.best(question), question) if condition.name == "retrieval" else None


class Retriever:
    """BM25 over all passages of the run."""

    def __init__(self, tasks: Sequence[Task], most: int = StudyConfig.retrieved):
        """`most`: the maximum number of passages per question. Raises SelfeditError if bm25s is not installed."""
        try:
            import bm25s
        except ImportError as error:
            raise SelfeditError(f"retrieval needs {error.name}; pip install 'selfedit[bench]'") from error

        self.passages, self.most = [task.passage for task in tasks], most
        self.index = bm25s.BM25()
        self.index.index(
            bm25s.tokenize([f"{p.title}\n{p.text}" for p in self.passages], show_progress=False), show_progress=False
        )

    def best(self, question: Question) -> Passage:
        """Returns the best passages joined into one; the best is last, next to the question."""
        import bm25s

        tokens = bm25s.tokenize(question.question, show_progress=False)
        ranked, _ = self.index.retrieve(tokens, k=min(self.most, len(self.passages)), show_progress=False)
        return joined([self.passages[int(i)] for i in ranked[0]])
