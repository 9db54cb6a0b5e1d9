"""The conditions of `bench knowledge`: what each one studies, or has in view.

A condition is written NAME, NAME:DETAIL or NAME@TOKENS, the last trained on about so many tokens a passage by more or
fewer epochs, so that rows can be compared at equal budgets:

- `base`: closed book, nothing studied;
- `passage`: the passage alone;
- `self-edit[:STYLE]`: the untouched model's own edits; `seal[:STYLE]`: the trained editor's, in the style it has chosen;
- `edits:WRITER/STYLE`: edits that stand in the data file;
- `distill`: the model's own answers with the passage in view, to questions by rule, as soft labels;
- `finetune`: the passage, all weights instead of an adapter;
- `in-context`: the passage in the prompt (the ceiling); `retrieval`: the best passages of the whole run by BM25.

A STYLE that ends in `+questions` has questions by rule beside the edit, answered by the passage's own sentences.
Adapted conditions study SEAL's sequences: the title over each line, the passage itself last (docs/SEAL.md, §1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selfedit.config import TrainConfig
from selfedit.edits.parse import clean, parse_edit
from selfedit.edits.propose import write_edits
from selfedit.edits.quiz import open_book_prompt
from selfedit.edits.spans import keyword_questions
from selfedit.edits.styles import STYLES
from selfedit.errors import SelfeditError
from selfedit.loop.editor import Editor
from selfedit.loop.trial import QUESTIONS, joint_job, seal_examples, study_sequences, with_questions, writing_style
from selfedit.model.backend import Adapters, Job, Request
from selfedit.model.load import Model
from selfedit.types import Example, Question, SelfEdit, Task, stable_seed

UNTRAINED = ("base", "in-context", "retrieval")
NAMES = (*UNTRAINED, "passage", "self-edit", "seal", "edits", "distill", "finetune")
SEAL_STYLE = "implications"
QUESTIONS_A_SENTENCE = 1
"""By rule, new ones in each epoch."""
TEACHER_TOKENS = 40
RETRIEVED = 3
"""Passages in the prompt."""


@dataclass(frozen=True)
class Condition:
    text: str
    """As it was given."""
    name: str
    detail: str = ""
    tokens: int | None = None
    """To train on, of each passage; None: as many as the epochs of the TrainConfig make."""

    @property
    def trains(self) -> bool:
        return self.name not in UNTRAINED


def parse(text: str, tasks: Sequence[Task], editor: Editor | None) -> Condition:
    """Raises SelfeditError that says what there is."""
    rest, at, tokens = text.partition("@")
    name, _, detail = rest.partition(":")
    if name not in NAMES:
        raise SelfeditError(f"unknown condition {name!r}; known: {', '.join(NAMES)}")
    if at and not (tokens.isdecimal() and int(tokens) and name in NAMES[len(UNTRAINED) :]):
        raise SelfeditError(f"{text}: @TOKENS is a whole number, of a condition that trains")
    if name == "edits":
        missing = next((t for t in tasks if detail.removesuffix(f"+{QUESTIONS}") not in t.edits), None)
        if missing is not None:
            there = ", ".join(missing.edits) or "none"
            raise SelfeditError(
                f"{text}: the data has no such edits for {missing.id or missing.passage.title!r}; there: {there}"
            )
    elif name == "seal" and editor is None:
        raise SelfeditError("seal needs a trained editor: give --editor DIR (`selfedit train-editor` makes one)")
    elif name in ("self-edit", "seal"):
        detail = detail or (editor.style if name == "seal" else SEAL_STYLE)
        if (writing := writing_style(detail)) and writing not in STYLES:
            raise SelfeditError(
                f"{text}: unknown style {writing!r}; known: {', '.join(STYLES)}, each also with +{QUESTIONS}, and {QUESTIONS}"
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
) -> list[Job]:
    """One adapter a group: what it studies of all its tasks, by a seed. `editor`: the one that writes for `seal`."""
    asked = [(task, seed) for group, seed in groups for task in group]
    distilled = _distilled(model, asked, on_token) if condition.name == "distill" else None
    edits = None if distilled else _edits(model, condition, asked, editor, on_token)

    def build(members: range, epochs: int) -> Job:
        parts = []
        for i in members:
            task, seed = asked[i]
            own = (
                distilled[i]
                if distilled
                else seal_examples(task.passage, [_asking(condition, task, edits[i], epochs, seed)])
            )
            parts.append((study_sequences(model, task.passage, own, 1.0 if distilled else config.distill), own))
        return joint_job(
            parts, stable_seed("knowledge", asked[members[0]][1], *(asked[i][0].passage.id for i in members)), epochs
        )

    made, at = [], 0
    for group, _ in groups:
        members, at = range(at, at + len(group)), at + len(group)
        one = build(members, config.epochs)
        if condition.tokens:
            epochs = _epochs(one, config.epochs, condition.tokens * len(group))
            one = replace(
                build(members, epochs) if one.once else one, epochs=epochs
            )  # questions are new in every epoch
        made.append(one)
    return made


def _epochs(one: Job, epochs: int, tokens: int) -> int:
    """So many that about `tokens` are trained on, if they go on as those of this job."""
    each = sum(len(s.tokens) for s in one.examples) + sum(len(s.tokens) for s in one.once) / epochs
    return max(1, round(tokens / each))


def _edits(
    model: Model, condition: Condition, asked: Sequence[tuple[Task, int]], editor: Adapters | None, on_token
) -> list[SelfEdit]:
    """What was written, or is now, for each task and seed; empty where nothing is."""
    writing = writing_style(condition.detail)
    if condition.name == "edits":
        return [given_edit(task, writing, seed) for task, seed in asked]
    if condition.name in ("self-edit", "seal") and writing:
        writer = editor if condition.name == "seal" else None
        return write_edits(model, [(task.passage, writing, seed) for task, seed in asked], writer, on_token=on_token)
    return [SelfEdit("", "") for _ in asked]


def _asking(condition: Condition, task: Task, edit: SelfEdit, epochs: int, seed: int) -> SelfEdit:
    """The edit, with questions by rule for so many epochs if the condition's style has them."""
    if condition.detail == writing_style(condition.detail):
        return edit
    return with_questions(
        task.passage, edit, QUESTIONS_A_SENTENCE * epochs, stable_seed("questions", seed, task.passage.id)
    )


def given_edit(task: Task, name: str, seed: int) -> SelfEdit:
    """The seed-th of the edits that others wrote, read as one of our own is; but for what it says nothing is dropped."""
    texts = task.edits[name]
    text = texts[seed % len(texts)]
    style = name.rpartition("/")[2]
    return SelfEdit(style, text, tuple(clean(parse_edit(style, text, task.passage), task.passage)[0]))


def _distilled(model: Model, asked: Sequence[tuple[Task, int]], on_token) -> list[list[Example]]:
    """Of each task: questions by rule, with what the untouched model answers them with the passage in view; and the passage."""
    questions = [
        keyword_questions(t.passage, QUESTIONS_A_SENTENCE, stable_seed("distill", seed, t.passage.id))
        for t, seed in asked
    ]
    prompts = [open_book_prompt(task.passage, q.question) for (task, _), own in zip(asked, questions) for q in own]
    said = model.backend.generate(
        [Request(tuple(model.chat.ask(p)), None, TEACHER_TOKENS) for p in prompts], on_token=on_token
    )
    texts = iter([model.chat.decode(tokens).strip() for tokens in said])
    answered = [[Example(text, q.question) for q in own if (text := next(texts))] for own in questions]
    return [[*own, *seal_examples(task.passage, [])] for (task, _), own in zip(asked, answered)]


# with something in view


def prompt_override(
    condition: Condition, task: Task, question: Question, retriever: Retriever | None
) -> Question | None:
    """The question as the model reads it; None: as it is."""
    if condition.name == "in-context":
        passage = task.passage
    elif condition.name == "retrieval":
        passage = retriever.view(question)
    else:
        return None
    text = (
        open_book_prompt(passage, question.question)
        if question.kind == "question"
        else passage.with_request(question.question)
    )
    return replace(question, question=text)


class Retriever:
    """BM25 over all passages of the run."""

    def __init__(self, tasks: Sequence[Task], most: int = RETRIEVED):
        """`most`: passages to be put in view at once. Raises SelfeditError without the library."""
        try:
            import bm25s
        except ImportError as error:
            raise SelfeditError(f"retrieval needs {error.name}; pip install 'selfedit[bench]'") from error

        self.passages, self.most = [task.passage for task in tasks], most
        self.index = bm25s.BM25()
        self.index.index(
            bm25s.tokenize([f"{p.title}\n{p.text}" for p in self.passages], show_progress=False), show_progress=False
        )

    def view(self, question: Question):
        """The best passages as one, the best last: next to the question."""
        import bm25s

        tokens = bm25s.tokenize(question.question, show_progress=False)
        found, _ = self.index.retrieve(tokens, k=min(self.most, len(self.passages)), show_progress=False)
        best = [self.passages[int(i)] for i in found[0]][::-1]
        return replace(best[-1], title="", text="\n\n".join(f"{p.title}\n\n{p.text}".strip() for p in best))
