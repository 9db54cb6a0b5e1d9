"""The main job: documents → tested memories. Questions, self-edits, trials, gate, store; a passage at a time.

Every finished passage is on disk before the next begins (its memory in the store, its record in the run folder), so a
run that is stopped loses none and the same command goes on. A run's folder is named by what was asked for: the model's
weights, the settings and the questions; the passages of other documents can join it at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from selfedit.config import GateConfig, LearnConfig
from selfedit.edits.propose import propose
from selfedit.edits.quiz import check, questions_as_edit, questions_from_rewordings, study_questions, write_quiz
from selfedit.judge.evaluate import evaluate
from selfedit.judge.general import general_questions
from selfedit.loop.journal import Journal, write_json
from selfedit.loop.trial import PASSAGE, Candidate, run_trials
from selfedit.memory.contradict import disagreeing, near
from selfedit.memory.gate import decide
from selfedit.memory.route import Router
from selfedit.memory.screen import captured, find_suspicious_patterns
from selfedit.memory.store import MemoryStore, learned_text
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.types import Passage, Progress, Question, Trial, no_progress, stable_seed, text_hash


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
    """Judging questions: no edit saw them."""
    correct_before: int
    correct_after: int
    general_change: float | None
    seconds: float
    size_bytes: int
    trials: list[dict] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    """What was written but not used, by reason."""
    disagrees: list[dict] = field(default_factory=list)
    """With memories of other sources: `memory`, `source`, what is said `here` and `there`. Not in the run's record, which
    would keep what another source says after that is forgotten."""
    quarantined: str | None = None
    """The memory that waits for a person's approval; `reason` says why."""


@dataclass(frozen=True)
class LearnReport:
    """What the whole job did; passages that an earlier, interrupted run had finished are counted in."""

    reports: list[PassageReport]
    superseded: list[str] = field(default_factory=list)
    """Memories of passages that their document has no more."""

    def summary(self) -> dict:
        done, questions = self.reports, sum(r.questions for r in self.reports)
        changes = [r.general_change for r in done if r.general_change is not None]
        return {
            "passages": len(done),
            "edits_tried": sum(r.edits_tried for r in done),
            "edits_kept": sum(r.edits_kept for r in done),
            "questions": questions,
            "accuracy_before": sum(r.correct_before for r in done) / questions if questions else None,
            "accuracy_after": sum(r.correct_after for r in done) / questions if questions else None,
            "general_change": max(changes) if changes else None,
            "seconds": round(sum(r.seconds for r in done), 1),
            "memories": [r.memory for r in done if r.memory],
            "superseded": self.superseded,
            "quarantined": [r.quarantined for r in done if r.quarantined],
        }


def learn(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: LearnConfig,
    *,
    quiz: Sequence[Question] = (),
    again: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
    on_report: Callable[[PassageReport], None] = lambda report: None,
) -> LearnReport:
    """Learn each passage; `quiz`: a person's own questions, which judge the passages that they are about instead of written ones.

    `again`: also redo passages that an earlier run finished without keeping anything. `progress`: with stage `passage`
    a new one begins. `notify`: for a line to a person. A passage that several documents have is learned once. A document
    that was learned before in another version is answered from the new one: once all its passages are done, memories of
    passages that it has no more are superseded; but not while one of the new ones waits in quarantine, or if none was kept.
    """
    own_questions = assign(quiz, passages)
    if idle := [q for q in quiz if not any(q in own for own in own_questions.values())]:
        notify(
            f"{len(idle)} of {len(quiz)} own questions fit none of these passages and judge nothing (“{idle[0].question}”)"
        )
    run = _RunFolder(store.home, model, config, quiz)
    entries = store.active()  # a corrupt one is noticed before the work, not after
    active = {entry.id for entry in entries}
    reports = {p.id: report for p in passages if (report := run.report(p, active)) and (report.memory or not again)}
    sources: dict[str, set[str]] = {}
    for passage in passages:
        sources.setdefault(passage.id, set()).add(passage.source)
    there = {
        e.id: sources[e.passage.id] for e in entries if e.passage.id in sources and e.model_hash == model.fingerprint
    }
    waiting = {report.quarantined: sources[id] for id, report in reports.items() if report.quarantined}
    store.add_sources(there | waiting)  # before anything is superseded: a file may only have been moved
    last = {passage.source: i for i, passage in enumerate(passages)}
    superseded: list[str] = []
    told: set[str] = set()
    for i, passage in enumerate(passages):
        progress("passage", i, len(passages))
        if passage.id not in reports:
            report = learn_passage(
                model, passage, store, config, quiz=own_questions.get(passage.id) if quiz else None, progress=progress
            )
            run.add(report)
            reports[passage.id] = report
            if memory := report.memory or report.quarantined:
                store.add_sources({memory: sources[passage.id]})
        if passage.id not in told:
            told.add(passage.id)
            on_report(reports[passage.id])
        if last[passage.source] == i:
            own = [p for p in passages if p.source == passage.source]
            if any(reports[p.id].memory for p in own) and not any(reports[p.id].quarantined for p in own):
                superseded += store.supersede(own, model.fingerprint, last.keys())
    progress("passage", len(passages), len(passages))
    in_force = set(store.active_ids())  # what one document has no more another one may have kept since
    return LearnReport([reports[id] for id in sources], [id for id in superseded if id not in in_force])


def learn_passage(
    model: Model,
    passage: Passage,
    store: MemoryStore,
    config: LearnConfig,
    *,
    quiz: Sequence[Question] | None = None,
    progress: Progress = no_progress,
) -> PassageReport:
    """One passage from text to memory, or to the reason why not."""
    start = time.perf_counter()
    proposal = propose(
        model, passage, config.styles, seed=config.seed, on_token=lambda done, total: progress("write", done, total)
    )
    written = write_quiz(model, passage, spans=config.spans, seed=config.seed, progress=progress)
    if quiz is None:
        reworded, reasons = questions_from_rewordings(model, passage, proposal.held_out, progress)
        judging, free = [*written.judging, *reworded], written.studied
    else:
        judging, reasons = check(model, passage, quiz, progress)
        free = written.studied + written.judging
    draws = config.questions_per_sentence * config.train.epochs
    asked, drawn = study_questions(
        passage, free, [*judging, *(quiz or ())], draws, stable_seed(config.seed, passage.id, "cues")
    )
    edits = proposal.edits + ([questions_as_edit(asked, drawn)] if asked or drawn else [])
    trials: list[Trial] = []
    entry, disagrees, suspicious = None, [], []
    if judging:
        stack, trials, before = run_trials(
            model,
            passage,
            candidates(edits, config.each_alone),
            judging,
            config.train,
            seed=config.seed,
            progress=progress,
        )
        trials, best = decide(trials, before, config.gate)
        if best is not None:
            disagrees = _disagreements(model, passage, store)
            suspicious = _suspicious(model, passage, trials[best], stack.subset([best]), store, config.gate)
            scores = _scores(trials[best], before, judging) | {"quarantined": suspicious}
            entry = store.add(
                lambda folder: model.backend.save(stack, best, folder, model.name),
                model=model.name, model_hash=model.fingerprint, passage=passage, edits=trials[best].edits, scores=scores, quarantine=bool(suspicious),
            )  # fmt: skip
    winner = next((t for t in trials if t.kept), None)
    reason = winner.reason if winner else (_why_not(trials) if trials else "no written question held: none could judge")
    if suspicious:
        reason = f"quarantined: {'; '.join(suspicious)}; `selfedit memory approve {entry.id}` puts it in force"
    right_before = sum(before.correct) if trials else 0
    return PassageReport(
        passage=passage.id,
        title=passage.title,
        memory=entry.id if entry and not suspicious else None,
        reason=reason,
        edits_tried=len(edits),
        edits_kept=len(winner.edits) if winner else 0,
        questions=len(judging),
        correct_before=right_before,
        correct_after=sum(winner.score.correct) if winner else right_before,
        general_change=winner.general_change if winner else None,
        seconds=time.perf_counter() - start,
        size_bytes=entry.size_bytes if entry else 0,
        trials=[_trial_record(t) for t in trials],
        dropped=dict(written.dropped + reasons + proposal.dropped),
        disagrees=disagrees,
        quarantined=entry.id if suspicious else None,
    )


def candidates(edits: Sequence, each_alone: bool = False) -> list[Candidate]:
    """The passage alone, all edits together, and (`each_alone`, or where there is but one) each edit by itself."""
    each = [Candidate(edit.style, (edit,)) for edit in edits] if each_alone or len(edits) == 1 else []
    together = [Candidate("+".join(edit.style for edit in edits), tuple(edits))] if len(edits) > 1 else []
    return [Candidate(PASSAGE), *each, *together]


def assign(quiz: Sequence[Question], passages: Sequence[Passage]) -> dict[str, list[Question]]:
    """A person's questions to the passages they are about: where the answer stands, else by likeness."""
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
    """Sentences of the passage that memories of other sources have with another value."""
    others = store.remaining(near(passage, store.router(model.fingerprint)))
    return [record for other in others for record in disagreeing(passage, other)]


def _suspicious(
    model: Model, passage: Passage, trial: Trial, stack: Adapters, store: MemoryStore, config: GateConfig
) -> list[str]:
    """Why the memory is not to be in force before a person has looked at it. `stack`: its adapter alone."""
    router, new = store.router(model.fingerprint), "new"
    neighbours = [entry for entry in store.remaining(near(passage, router)) if entry.passage.source != passage.source]
    after = router.with_text(new, learned_text(passage, trial.edits))
    found, general = find_suspicious_patterns(passage), general_questions()
    taken = captured(after, new, general)
    spoiled = _spoiled(model, taken, stack)
    if len(taken) > config.max_captured * len(general):
        found.append(f"would answer {len(taken)} of {len(general)} general questions (“{taken[0].question}”)")
    elif len(spoiled) > config.max_lost * len(general):
        found.append(
            f"would answer {len(spoiled)} of {len(general)} general questions otherwise than the untouched model, and wrong (“{spoiled[0].question}”)"
        )
    right = [
        (entry, q)
        for entry in neighbours
        for q, correct in zip(entry.questions, entry.scores.get("after", {}).get("correct", ()))
        if correct
    ]
    taken = [
        (entry, q)
        for entry, q in right
        if router.route(q.question)[0] == entry.id and after.route(q.question)[0] == new
    ]
    lost = taken and [
        entry
        for (entry, _), correct in zip(taken, evaluate(model, [q for _, q in taken], [0], stack)[0].correct)
        if not correct
    ]
    if len(lost) > config.max_lost * len(right):
        found.append(
            f"would answer {len(lost)} of {len(right)} questions of memories near it, and wrong ({', '.join(sorted({e.id for e in lost}))})"
        )
    return found


def _spoiled(model: Model, questions: Sequence[Question], stack: Adapters) -> list[Question]:
    """Those that the untouched model answers right and the adapter wrong."""
    if not questions:
        return []
    before, after = evaluate(model, questions, [None, 0], stack)
    return [q for q, was, now in zip(questions, before.correct, after.correct) if was and not now]


def _scores(trial: Trial, before, questions: Sequence[Question]) -> dict:
    return {
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
        "tokens": trial.tokens,
        "seconds": round(trial.seconds, 2),
        "kept": trial.kept,
        "reason": trial.reason,
    }


def _why_not(trials: Sequence[Trial]) -> str:
    nearest = max(trials, key=lambda t: t.score.gold_logprob)
    return f"{nearest.name}: {nearest.reason}"


class _RunFolder:
    """What earlier runs of the same job have finished: resume is looking."""

    def __init__(self, home: Path, model: Model, config: LearnConfig, quiz: Sequence[Question]):
        settings = json.dumps(asdict(config), sort_keys=True, default=str)
        name = text_hash(model.fingerprint, settings, *("\n".join((q.question, *q.answers)) for q in quiz))[:12]
        self.folder = home / "runs" / f"learn-{name}"
        self.journal = Journal(self.folder / "trials.jsonl")
        self.finished: dict[str, PassageReport] = {}
        for record in self.journal.records:
            try:
                report = PassageReport(**record)
            except TypeError:  # of another version
                continue
            self.finished[report.passage] = report
        settings = {"model": model.name, "model_hash": model.fingerprint, "config": asdict(config)}
        if not (self.folder / "config.json").exists():  # a disk that cannot be written: before hours of work, not after
            write_json(self.folder / "config.json", settings)

    def report(self, passage: Passage, active: set[str]) -> PassageReport | None:
        """Of an earlier run, unless its memory is in force no more; a memory that a person approved meanwhile counts as kept."""
        report = self.finished.get(passage.id)
        if report and report.quarantined in active:
            report = replace(report, memory=report.quarantined, quarantined=None, reason="approved by a person")
        return None if report and report.memory and report.memory not in active else report

    def add(self, report: PassageReport) -> None:
        self.journal.add(asdict(report) | {"disagrees": []})
        self.finished[report.passage] = report
