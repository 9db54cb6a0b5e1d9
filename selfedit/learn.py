"""The main job: documents → tested memories. For each passage: questions, self-edits, trials, gate, store.

Where nothing passes the gate, the passage's text is kept, so that questions about it are answered from that.

Passages are worked on a few at a time, since a batch uses the processor far better. Every finished batch is on disk
(the memories in the store, the records in the run folder) before the next one begins, so the same command continues a
run that was stopped. The name of a run folder depends on the model, the writer, the settings and the user's questions
only, so passages of other documents can be added to it at any time.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

from selfedit import disk
from selfedit.config import GateConfig, LearnConfig
from selfedit.documents.passages import WHOLE_FACTOR
from selfedit.edits.propose import propose
from selfedit.edits.quiz import (
    check,
    fill_up,
    questions_as_edit,
    questions_from_rewordings,
    study_questions,
    write_quizzes,
)
from selfedit.errors import ModelError
from selfedit.estimate import seconds_expected
from selfedit.judge.evaluate import read
from selfedit.libraries import Scope
from selfedit.loop.journal import Journal, write_json
from selfedit.loop.selection import PASSAGE
from selfedit.loop.trial import Candidate, Study, run_trials
from selfedit.memory.contradict import disagreeing, near
from selfedit.memory.gate import decide
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.memory.suspicion import suspicions, suspicious_text
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.model.writer import Writer
from selfedit.text import count_words, duration
from selfedit.types import (
    MemoryEntry,
    Passage,
    Progress,
    Question,
    Score,
    SelfEdit,
    Trial,
    no_progress,
    stable_seed,
    text_hash,
)

TOGETHER = 8
"""Passages that every stage works on together; a run that is stopped learns them again."""
NOTED_S = 60.0
"""If the work takes longer than this, the user is told before each batch how long it will take."""
DEFAULT = LearnConfig()
GATE = DEFAULT.gate
NOT_RECITED = ("styles", "spans", "questions_per_sentence", "each_alone")
"""Settings of what a model writes and studies; one that recites does neither."""
REQUEST_TOKENS = 640
"""Space for the longest request about a passage and its answer, in tokens."""


@dataclass(frozen=True)
class PassageReport:
    passage: str
    """Passage.id"""
    title: str
    memory: str | None
    reason: str
    """Why it was kept, or why nothing was."""
    edits_tried: int
    edits_kept: int
    questions: int
    """Judging questions; none of the edits contains them."""
    correct_before: int
    correct_after: int
    general_change: float | None
    seconds: float
    size_bytes: int
    trials: list[dict] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    """How much generated text was not used, by reason."""
    disagrees: list[dict] = field(default_factory=list)
    """Contradictions with memories of other sources: `memory`, `source`, the sentences `here` and `there`. They are not
    stored in the run's record, which would keep another source's text after that source is forgotten."""
    quarantined: str | None = None
    """The memory that waits for the user's approval; `reason` says why."""
    text: str | None = None
    """The memory without an adapter: nothing was learned, and questions are answered from the passage's text."""
    words: int = 0
    """Length of the passage; 0 in the record of an older version."""
    stages: dict[str, float] = field(default_factory=dict)
    """Its share, by words, of the seconds of each stage."""
    failed: bool = False
    """Whether the model cannot read the passage, or a remote writer did not reply; `reason` says why. This is not
    recorded, so it is tried again."""


@dataclass(frozen=True)
class LearnReport:
    """The result of the whole job, including passages that an earlier, interrupted run had finished."""

    reports: list[PassageReport]
    superseded: list[str] = field(default_factory=list)
    """Memories of passages that are no longer in their document."""
    known: Collection[str] = field(default=(), compare=False)
    """The passages that were learned before, or by another process meanwhile: their seconds are of that time."""

    def summary(self) -> dict:
        done, questions = self.reports, sum(r.questions for r in self.reports)
        changes = [r.general_change for r in done if r.general_change is not None]
        return {
            "passages": len(done),
            "known": sum(r.passage in self.known for r in done),
            "edits_tried": sum(r.edits_tried for r in done),
            "edits_kept": sum(r.edits_kept for r in done),
            "questions": questions,
            "accuracy_before": sum(r.correct_before for r in done) / questions if questions else None,
            "accuracy_after": sum(r.correct_after for r in done) / questions if questions else None,
            "general_change": max(changes) if changes else None,
            "seconds": round(sum(r.seconds for r in done if r.passage not in self.known), 1),
            "memories": [r.memory for r in done if r.memory],
            "superseded": self.superseded,
            "quarantined": [r.quarantined for r in done if r.quarantined],
            "texts": [r.text for r in done if r.text],
            "failed": [{"title": r.title, "reason": r.reason} for r in done if r.failed],
        }


def learn(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: LearnConfig,
    *,
    writer: Writer | None = None,
    quiz: Sequence[Question] = (),
    again: bool = False,
    suspicion: str = "",
    current: Callable[[], Collection[Passage]] | None = None,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
    on_report: Callable[[PassageReport], None] = lambda report: None,
) -> LearnReport:
    """Learns each passage.

    `writer`: another model, e.g. a larger one or a RemoteWriter, that writes about the passages and answers with them
    in view, in place of the model that learns. `quiz`: the user's own questions; they judge the passages that they are
    about, in place of generated ones. `again`: also repeat passages of which an earlier run kept no adapter in force.
    `current`: returns the passages that the source has now, for a source that changes meanwhile: what is no longer
    among them is not kept, and nothing is superseded. `suspicion`: a reason why whatever is kept must wait for the
    user's approval. `progress`: the stage `passage` marks the beginning of each batch of passages. `notify`: receives a
    line for the user. A passage that occurs in several documents is learned once. When all passages of a document are
    done, memories of passages that are no longer in it are superseded, unless one of the new memories is in quarantine
    or nothing was kept, not even a text. A passage that the model cannot read, or about which the writer does not
    reply, is reported, and the others are learned; raises ModelError if all fail.
    """
    store.check_writable()  # before the work, not after it
    config = _as_used(model, config, bool(writer and not quiz), notify)
    user_questions = _assigned(quiz, passages, notify)
    run = _RunFolder(store.home, model, config, quiz, writer)
    entries = store.active()  # notices a corrupt memory before the work, not after it
    reports = _known(model, passages, store, config, run, entries, again, suspicion)
    sources: dict[str, set[str]] = {}
    for passage in passages:
        sources.setdefault(passage.id, set()).add(passage.source)
    known = [e for e in entries if e.passage.id in sources and e.model_hash == model.fingerprint]
    quarantined = {report.quarantined: sources[id] for id, report in reports.items() if report.quarantined}
    # Before anything is superseded, since a file may only have been moved.
    store.add_sources({entry.id: sources[entry.passage.id] for entry in known} | quarantined)

    def learn_some(some: Sequence[Passage]) -> Iterator[PassageReport]:
        return learn_passages(
            model,
            some,
            store,
            config,
            writer=writer,
            quiz=user_questions if quiz else None,
            suspicion=suspicion,
            current=current,
            progress=progress,
        )

    failure: ModelError | None = None
    done_before = set(reports)
    todo = list({p.id: p for p in passages if p.id not in reports}.values())
    documents = _Documents(passages, reports, store, model, on_report, supersedes=not current)
    documents.settle()
    for low in range(0, len(todo), TOGETHER):
        progress("passage", documents.settled, len(passages))
        _tell_time_left(todo[low:], store.home, model.name, notify)
        with run.turn(batch := todo[low : low + TOGETHER], notify) as learned:
            done_before.update(learned)
            left = [passage for passage in batch if passage.id not in learned]
            results = _each(learn_some, left) if left else ()
            for report, error in chain(zip(learned.values(), repeat(None)), results):
                failure = failure or error
                if error is None and not report.failed and report.passage not in learned:
                    run.add(report)
                reports[report.passage] = report
                if memory := report.memory or report.quarantined or report.text:
                    store.add_sources({memory: sources[report.passage]})
        documents.settle()
    progress("passage", len(passages), len(passages))
    if failure and all(report.failed for report in reports.values()):
        raise failure
    active = set(store.active_ids())  # a passage that left one document may have been kept for another one since
    superseded = [id for id in documents.superseded if id not in active]
    return LearnReport([reports[id] for id in sources], superseded, done_before)


def _as_used(model: Model, given: LearnConfig, has_spans: bool, notify: Callable[[str], None]) -> LearnConfig:
    """The settings for this model. `has_spans`: a writer makes questions of spans, which judge, also where the model
    recites."""
    config = given.for_rate(model.rate)
    if has_spans and config.recite:
        config = replace(config, spans=given.spans)
    ignored = [name for name in NOT_RECITED if name != "spans" or not config.spans]
    if config.recite and (unused := [name for name in ignored if getattr(given, name) != getattr(DEFAULT, name)]):
        names = " and ".join(unused)
        notify(f"the model learns to recite, without {names}; --styles has it study what it writes")
    return config


def _assigned(
    quiz: Sequence[Question], passages: Sequence[Passage], notify: Callable[[str], None]
) -> dict[str, list[Question]]:
    """As `assign`; tells which questions are not used."""
    assigned = assign(quiz, passages)
    if idle := [q for q in quiz if not any(q in questions for questions in assigned.values())]:
        notify(
            f"{len(idle)} of {len(quiz)} questions of the quiz fit none of these passages and are not used "
            f"(“{idle[0].question}”)"
        )
    return assigned


def _known(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: LearnConfig,
    run: _RunFolder,
    entries: Sequence[MemoryEntry],
    again: bool,
    suspicion: str,
) -> dict[str, PassageReport]:
    """The reports of passages that need not be learned, by their ids: an earlier run did, or only their library tag
    is new, and the stored memory gets it. `entries`: the active memories. `again`: as in `learn`."""
    active = {entry.id for entry in entries}
    reports = {p.id: report for p in passages if (report := run.report(p, active)) and (report.memory or not again)}
    for passage in {p.id: p for p in passages if p.id in reports}.values():
        report = reports[passage.id]
        if not (report.memory or report.quarantined or report.text):  # an older record
            reports[passage.id] = _with_text(model, report, passage, store, config.gate, suspicion)
            if reports[passage.id] != report:
                run.add(reports[passage.id])
    untagged = {p.id: p for p in passages if p.library and p.id not in reports and not (again or suspicion)}
    for passage in untagged.values():
        if tagged := _tagged(model, passage, store):
            run.add(tagged)
            reports[passage.id] = tagged
    return reports


def _tell_time_left(passages: Sequence[Passage], home: Path, model: str, notify: Callable[[str], None]) -> None:
    """Before a batch, at the speed of those before."""
    seconds = seconds_expected(passages, home, model)
    if seconds is not None and seconds >= NOTED_S:
        count, words = len(passages), sum(count_words(passage.text) for passage in passages)
        plural = "s" * (count != 1)
        notify(f"{count:,} passage{plural} ({words:,} words) to learn: about {duration(seconds)}")


class _Documents:
    """Reports passages in the order of their documents, and supersedes where a document has ended."""

    def __init__(
        self,
        passages: Sequence[Passage],
        reports: Mapping[str, PassageReport],
        store: MemoryStore,
        model: Model,
        on_report: Callable[[PassageReport], None],
        supersedes: bool,
    ):
        """`reports`: by passage; gets more with time."""
        self.passages, self.reports, self.store, self.model = passages, reports, store, model
        self.on_report, self.supersedes = on_report, supersedes
        self.last = {passage.source: i for i, passage in enumerate(passages)}
        self.settled = 0
        """Passages of which all is done."""
        self.superseded: list[str] = []
        self._reported: set[str] = set()

    def settle(self) -> None:
        while self.settled < len(self.passages) and self.passages[self.settled].id in self.reports:
            passage, self.settled = self.passages[self.settled], self.settled + 1
            if passage.id not in self._reported:
                self._reported.add(passage.id)
                self.on_report(self.reports[passage.id])
            if self.last[passage.source] == self.settled - 1 and self.supersedes:
                self._supersede([p for p in self.passages if p.source == passage.source])

    def _supersede(self, document: Sequence[Passage]) -> None:
        reports = [self.reports[passage.id] for passage in document]
        waits = any(report.quarantined or report.failed for report in reports)
        if not waits and any(report.memory or report.text for report in reports):
            self.superseded += self.store.supersede(document, self.model.fingerprint, self.last.keys())


def _each(
    learn_some: Callable[[Sequence[Passage]], Iterator[PassageReport]], passages: Sequence[Passage]
) -> Iterator[tuple[PassageReport, ModelError | None]]:
    """The report of each passage, and why it failed. Where one of them fails, each is learned alone."""
    done = set()
    try:
        for report in learn_some(passages):
            done.add(report.passage)
            yield report, None
    except ModelError as error:
        if len(passages) == 1:
            yield _failed(passages[0], error), error
        else:
            for passage in (p for p in passages if p.id not in done):
                yield from _each(learn_some, [passage])


def learn_passages(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: LearnConfig,
    *,
    writer: Writer | None = None,
    quiz: Mapping[str, Sequence[Question]] | None = None,
    suspicion: str = "",
    current: Callable[[], Collection[Passage]] | None = None,
    progress: Progress = no_progress,
) -> Iterator[PassageReport]:
    """Takes passages from their texts to memories, or to the reasons why there are none; every stage is one batch.

    `writer`, `suspicion`, `current`: as in `learn`. `quiz`: passage id → the user's questions about it, which judge in
    place of generated ones. Raises ModelError, before anything is kept, if the model cannot read one of the passages or
    the writer does not reply. Passages that nothing judges come last.
    """
    stages = _Stages(progress)
    stages("check" if config.recite else "write", 0, 1)
    material = _write(model, writer or model, passages, config, quiz, stages)
    is_tried = {m.passage.id: bool(m.judging) or config.recite for m in material}
    judged = [m for m in material if is_tried[m.passage.id]]
    stages("train", 0, 1)
    tried = [candidates(m.edits, config.each_alone, control=_is_control(m, config)) for m in judged]
    studies = [Study(m.passage, some, m.judging) for m, some in zip(judged, tried)]
    adapters, results = None, []
    if studies:
        adapters, results = run_trials(
            model, studies, config.train, recites=config.recite, seed=config.seed, progress=stages
        )
    seconds, words = stages.seconds(), {p.id: count_words(p.text) for p in passages}
    row = 0
    untried = [m for m in material if not is_tried[m.passage.id]]
    for m, (trials, before) in zip([*judged, *untried], chain(results, repeat(([], None)))):
        begun, share = time.perf_counter(), words[m.passage.id] / sum(words.values())
        report = _unjudged(m)
        if current and m.passage.id not in {passage.id for passage in current()}:
            yield replace(report, reason="not kept: it was changed or forgotten meanwhile", failed=True)
            row += len(trials)
            continue
        if trials:
            report = _decided(model, m, trials, before, adapters, row, store, config, suspicion)
        if not (report.memory or report.quarantined):
            report = _with_text(model, report, m.passage, store, config.gate, suspicion)
        row += len(trials)
        spent = {name: of_stage * share for name, of_stage in seconds.items()}
        spent["gate"] = time.perf_counter() - begun
        rounded = {name: round(of_stage, 3) for name, of_stage in spent.items()}
        yield replace(report, words=words[m.passage.id], seconds=sum(spent.values()), stages=rounded)


class _Stages:
    """Passes progress on, and adds up the seconds of each stage."""

    def __init__(self, progress: Progress):
        self._progress, self._seconds = progress, Counter()
        self._stage, self._since = "", time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._seconds = self.seconds()
            self._stage, self._since = stage, time.perf_counter()
        self._progress(stage, done, total)

    def seconds(self) -> Counter[str]:
        spent = time.perf_counter() - self._since if self._stage else 0.0
        return self._seconds + Counter({self._stage: spent})


@dataclass(frozen=True)
class _Material:
    """What was written about a passage."""

    passage: Passage
    edits: list[SelfEdit]
    judging: list[Question]
    dropped: Counter[str]


def _write(
    model: Model,
    writer: Writer,
    passages: Sequence[Passage],
    config: LearnConfig,
    quiz: Mapping[str, Sequence[Question]] | None,
    progress: Progress,
) -> list[_Material]:
    proposals = propose(
        writer, passages, config.styles, seed=config.seed, config=config.filter, on_token=partial(progress, "write")
    )
    as_asked = partial(read, model, on_token=partial(progress, "check")) if config.recite else None
    options = {"spans": config.spans, "seed": config.seed, "config": config.quiz, "read": as_asked}
    written = write_quizzes(model, passages, writer=writer, progress=progress, **options)
    if config.recite:
        written = [replace(quiz, studied=(), judging=quiz.studied + quiz.judging) for quiz in written]
    if quiz is None:
        lines = [(passage, proposal.held_out) for passage, proposal in zip(passages, proposals)]
        checked = questions_from_rewordings(model, lines, config.quiz, progress, reader=writer)
        judges = [(p, [*q.judging, *questions]) for p, q, (questions, _) in zip(passages, written, checked)]
        added = fill_up(model, judges, config.least_questions, config.quiz, progress, read=as_asked)
        checked = [(own + more, reasons + others) for (own, reasons), (more, others) in zip(checked, added)]
    else:
        asked = [(passage, quiz.get(passage.id, ())) for passage in passages]
        checked = check(model, asked, config.quiz, progress, reader=writer, read=as_asked)
    material = []
    for passage, proposal, of_passage, (questions, reasons) in zip(passages, proposals, written, checked):
        if quiz is None:
            judging, to_study, hidden = [*of_passage.judging, *questions], of_passage.studied, []
        else:
            judging, to_study, hidden = questions, of_passage.studied + of_passage.judging, quiz.get(passage.id, ())
        draws = config.questions_per_sentence * config.train.epochs
        seed = stable_seed(config.seed, passage.id, "cues")
        always, once = study_questions(passage, to_study, [*judging, *hidden], draws, seed)
        edits = proposal.edits + ([questions_as_edit(always, once)] if always or once else [])
        material.append(_Material(passage, edits, judging, of_passage.dropped + reasons + proposal.dropped))
    return material


def _decided(
    model: Model,
    material: _Material,
    trials: Sequence[Trial],
    before: Score,
    adapters: Adapters,
    row: int,
    store: MemoryStore,
    config: LearnConfig,
    suspicion: str,
) -> PassageReport:
    """Keeps the best trial of a passage, if it passes the gate. `row`: of its first trial among the adapters."""
    passage, entry, suspicious, disagrees = material.passage, None, [], []
    trials, best = decide(trials, before, config.gate)
    if best is not None:
        disagrees = _disagreements(model, passage, store)
        suspicious = suspicions(model, passage, trials[best], adapters.subset([row + best]), store, config.gate)
        suspicious = [*filter(None, [suspicion]), *suspicious]
        entry = store.add(
            lambda folder: model.backend.save(adapters, row + best, folder, model.name, small=True),
            model=model.name,
            model_hash=model.fingerprint,
            passage=passage,
            edits=trials[best].edits,
            scores=_scores(trials[best], before, material.judging) | {"quarantined": suspicious},
            quarantine=bool(suspicious),
        )
    winner = trials[best] if best is not None else None
    reason = winner.reason if winner else _why_not(trials)
    if suspicious:
        reason = _quarantined(suspicious, entry.id)
    return replace(
        _unjudged(material),
        memory=entry.id if entry and not suspicious else None,
        reason=reason,
        edits_kept=len(winner.edits) if winner else 0,
        correct_before=before.right,
        correct_after=(winner.score if winner else before).right,
        general_change=winner.general_change if winner else None,
        size_bytes=entry.size_bytes if entry else 0,
        trials=[_trial_record(t) for t in trials],
        disagrees=disagrees,
        quarantined=entry.id if suspicious else None,
    )


def _with_text(
    model: Model, report: PassageReport, passage: Passage, store: MemoryStore, config: GateConfig, suspicion: str
) -> PassageReport:
    """The report of a passage of which nothing was learned, when its text is kept."""
    disagrees = _disagreements(model, passage, store)
    entry, suspicious = keep_text(model, passage, store, config, suspicion)
    if entry.has_adapter:  # of an earlier run, with other settings
        return report
    if entry.id not in store.active_ids():
        reason = f"{report.reason}; its text is {_quarantined(suspicious, entry.id)}"
        return replace(report, quarantined=entry.id, reason=reason, disagrees=disagrees)
    return replace(report, text=entry.id, disagrees=disagrees)


def keep_text(
    model: Model, passage: Passage, store: MemoryStore, config: GateConfig = GATE, suspicion: str = ""
) -> tuple[MemoryEntry, list[str]]:
    """Keeps the text of a passage as a memory without an adapter, at once: its text answers questions until the passage
    is learned. Returns it with the reasons why it waits for approval, if it looks suspicious. An active memory of this
    passage is returned as it is."""
    suspicious = [*filter(None, [suspicion]), *suspicious_text(model, passage, store, config)]
    entry = store.add(
        None,
        model=model.name,
        model_hash=model.fingerprint,
        passage=passage,
        edits=(),
        scores={"quarantined": suspicious},
        quarantine=bool(suspicious),
    )
    return entry, suspicious


def _tagged(model: Model, passage: Passage, store: MemoryStore) -> PassageReport | None:
    """The report of a passage that was learned before without the tag of a library, when that memory got the tag. One
    of which only the text is known gets the tag, too, and is then learned."""
    for old in store.active_of([replace(passage, library="")], model.fingerprint):
        entry, before = store.tag(old.id, passage), old.scores.get("before", {})
        if not entry.has_adapter:
            continue
        return replace(
            _unjudged(_Material(passage, [], [], Counter())),
            memory=entry.id,
            reason=f"learned before; now tagged {passage.library}",
            questions=len(old.questions),
            correct_before=sum(map(bool, before.get("correct", ()))),
            correct_after=old.right_when_kept,
            general_change=old.scores.get("general_change"),
            size_bytes=entry.size_bytes,
        )
    return None


def _quarantined(suspicious: Sequence[str], id: str) -> str:
    return f"quarantined: {'; '.join(suspicious)}; `selfedit memory approve {id}` puts it in force"


def _unjudged(material: _Material) -> PassageReport:
    """The report of a passage that no question could judge."""
    passage = material.passage
    return PassageReport(
        passage.id,
        passage.title,
        None,
        "no generated question passed the check, so none could judge",
        edits_tried=len(material.edits),
        edits_kept=0,
        questions=len(material.judging),
        correct_before=0,
        correct_after=0,
        general_change=None,
        seconds=0.0,
        size_bytes=0,
        dropped=dict(material.dropped),
    )


def _failed(passage: Passage, error: ModelError) -> PassageReport:
    return replace(_unjudged(_Material(passage, [], [], Counter())), reason=str(error), failed=True)


def passage_length(model: Model, passage_words: int) -> Callable[[str], int]:
    """Measures texts so that a passage of `passage_words` fits the model's positions, with a request and an answer.

    That is the number of words, or more for a text with unusually many tokens per word.
    """
    positions = model.backend.max_positions
    room = (positions - min(REQUEST_TOKENS, positions // 2)) / WHOLE_FACTOR

    def length(text: str) -> int:
        tokens = len(model.chat.encode(text)) if len(text) < 100_000 else len(text)
        return max(count_words(text), math.ceil(tokens * passage_words / room))

    return length


def candidates(edits: Sequence[SelfEdit], each_alone: bool = False, control: bool = True) -> list[Candidate]:
    """All edits together, each edit by itself if `each_alone`, and first, as the control or without edits, the passage
    alone."""
    each = [Candidate(edit.style, (edit,)) for edit in edits] if each_alone or len(edits) == 1 else []
    together = [Candidate("+".join(edit.style for edit in edits), tuple(edits))] if len(edits) > 1 else []
    return [*([Candidate(PASSAGE)] if control or not edits else []), *each, *together]


def _is_control(material: _Material, config: LearnConfig) -> bool:
    """Whether the passage is one of those that are also studied alone; the same ones in every run."""
    return stable_seed(config.seed, material.passage.id, "control") % config.control_every == 0


def assign(quiz: Sequence[Question], passages: Sequence[Passage]) -> dict[str, list[Question]]:
    """Passage id → the user's questions about it: the passage that contains the answer, else the most similar one."""
    router = Router.of_texts({p.id: f"{p.title}\n{p.text}" for p in passages}, least=0)
    assigned: dict[str, list[Question]] = {}
    for question in quiz:
        holding = {
            p.id: f"{p.title}\n{p.text}" for p in passages if question.answers[0].casefold() in p.text.casefold()
        }
        best, _ = (Router.of_texts(holding, least=0) if holding else router).route(question.question)
        target = best or next(iter(holding), None)
        if target:
            assigned.setdefault(target, []).append(question)
    return assigned


def _disagreements(model: Model, passage: Passage, store: MemoryStore) -> list[dict]:
    """Sentences of the passage that memories of other sources contradict."""
    others = store.remaining(near(passage, store.router(model.fingerprint, Scope.of(passage.library))))
    return [record for other in others for record in disagreeing(passage, other)]


def _scores(trial: Trial, before: Score, questions: Sequence[Question]) -> dict:
    recited = {} if trial.share_recited is None else {"share_recited": round(trial.share_recited, 4)}
    return recited | {
        "candidate": trial.name,
        "general_change": trial.general_change,
        "general_lost": trial.general_lost,
        "before": asdict(before),
        "after": asdict(trial.score),
        "questions": [asdict(q) for q in questions],
    }


def _trial_record(trial: Trial) -> dict:
    return {
        "name": trial.name,
        "accuracy": trial.score.accuracy,
        "gold_logprob": trial.score.gold_logprob,
        "general_change": trial.general_change,
        "general_lost": trial.general_lost,
        "share_recited": trial.share_recited,
        "tokens": trial.tokens,
        "seconds": round(trial.seconds, 2),
        "kept": trial.kept,
        "reason": trial.reason,
    }


def _why_not(trials: Sequence[Trial]) -> str:
    nearest = max(trials, key=lambda t: -math.inf if t.score.gold_logprob is None else t.score.gold_logprob)
    return f"{nearest.name}: {nearest.reason}"


class _RunFolder:
    """The records of earlier runs of the same job; a passage that is recorded is not learned again."""

    def __init__(
        self, home: Path, model: Model, config: LearnConfig, quiz: Sequence[Question], writer: Writer | None = None
    ):
        settings = json.dumps(asdict(config), sort_keys=True, default=str)
        parts = [model.fingerprint, settings, *("\n".join((q.question, *q.answers)) for q in quiz)]
        name = text_hash(*parts, *([writer.fingerprint] if writer else []))[:12]
        self.folder = home / "runs" / f"learn-{name}"
        self.finished = self._read()
        settings = {"model": model.name, "model_hash": model.fingerprint, "config": asdict(config)}
        settings |= {"writer": writer.name} if writer else {}
        if not (self.folder / "config.json").exists():  # also notices an unwritable disk before hours of work
            write_json(self.folder / "config.json", settings)

    def _read(self) -> dict[str, PassageReport]:
        self.journal, finished = Journal(self.folder / "trials.jsonl"), {}
        for record in self.journal.records:
            with suppress(TypeError):  # a record of another version
                report = PassageReport(**record)
                finished[report.passage] = report
        return finished

    @contextmanager
    def turn(self, passages: Sequence[Passage], notify: Callable[[str], None]) -> Iterator[dict[str, PassageReport]]:
        """Waits for other processes that learn one of the passages, and yields what they reported since the start."""

        def wait(title: str, process: str) -> None:
            notify(f"another `selfedit learn` (process {process}) is learning {title!r}; waiting for it")

        with ExitStack() as locks:
            for passage in sorted(passages, key=lambda passage: passage.id):  # in one order, so that none waits forever
                locks.enter_context(disk.turn(self.folder / passage.id, partial(wait, passage.title)))
            records = self._read()
            new = [p.id for p in passages if p.id in records and records[p.id] != self.finished.get(p.id)]
            yield {id: records[id] for id in new}

    def report(self, passage: Passage, active: set[str]) -> PassageReport | None:
        """The record of an earlier run, unless its memory is no longer active. A memory that the user approved
        meanwhile counts as kept."""
        report = self.finished.get(passage.id)
        if report and report.quarantined in active:
            report = replace(report, memory=report.quarantined, quarantined=None, reason="approved by the user")
        return None if report and (id := report.memory or report.text) and id not in active else report

    def add(self, report: PassageReport) -> None:
        self.journal.add(asdict(report) | {"disagrees": []})
        self.finished[report.passage] = report
