"""Learn a release: passages about a version of a library → one adapter that writes code for it.

The changes that the passages state become before/after pairs of code, which a model writes and which are run where the
library is installed (edits/code.py). One adapter studies all of them together, since a piece of code uses many parts of
a library at once. It is kept if held-back pairs show that it came to prefer the new side, and if it changes nothing
else. The passages are kept as texts; those whose pairs were studied share the adapter, so it goes with the first of
them that is forgotten. A passage that looks suspicious waits for approval and is not studied.

Finished blocks of pairs are in the run folder, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from selfedit import disk
from selfedit.config import ReleaseConfig, with_rate
from selfedit.edits.changes import Change, find_changes
from selfedit.edits.code import (
    STYLE,
    Pair,
    counted,
    each_once,
    function_task,
    held_back,
    run_pairs,
    study_examples,
    write_pairs,
)
from selfedit.environments import Environment
from selfedit.errors import RunError
from selfedit.judge.general import general_harm
from selfedit.learn import keep_text
from selfedit.libraries import Library
from selfedit.loop.journal import Journal, plain_errors, read_back, write_json
from selfedit.memory.gate import exceeds, general_fault
from selfedit.memory.store import MemoryStore
from selfedit.memory.suspicion import suspicious_text
from selfedit.model.backend import Adapters, Job
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.model.writer import Writer
from selfedit.text import duration
from selfedit.types import Example, Passage, Progress, SelfEdit, no_progress, stable_seed, text_hash


@dataclass(frozen=True)
class ReleaseReport:
    library: str
    passages: int
    changes: int
    written: int
    """Samples that were written, pairs or not."""
    dropped: dict[str, int]
    """Pairs that were not used, by reason."""
    ran: str
    """The version with which the pairs were run; empty: they were not run."""
    studied: int = 0
    """Pairs."""
    judged: int = 0
    """Pairs that nothing studied; None in the four figures below means that there was none."""
    prefers_new_before: float | None = None
    """Share of them whose new side is likelier than the old one to the untouched model."""
    prefers_new_after: float | None = None
    logprob_before: float | None = None
    """Mean log-probability of the new side, in nats per token."""
    logprob_after: float | None = None
    general_change: float | None = None
    general_lost: float | None = None
    shared: str | None = None
    """The adapter; None: none was kept."""
    reason: str = ""
    memories: list[str] = field(default_factory=list)
    """Those that share the adapter."""
    texts: list[str] = field(default_factory=list)
    """The other memories: passages that answer from their texts."""
    quarantined: list[str] = field(default_factory=list)
    tokens: int = 0
    """Trained on, over all epochs."""
    seconds: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict:
        return asdict(self)

    def summary(self) -> dict:
        """As that of `learn.LearnReport`."""
        return self.record() | {"failed": []}


def learn_release(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: ReleaseConfig,
    library: Library,
    environment: Environment | None = None,
    *,
    writer: Writer | None = None,
    again: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> ReleaseReport:
    """`passages`: with units, and with the tag of the library. `environment`: a Python that has it; None: pairs are not
    run. `writer`: another model that writes the pairs. `again`: train also if an earlier run did so. Raises
    SandboxError where no code can be run safely, and ModelError where the writer does not reply."""
    store.check_writable()
    config = replace(config, train=with_rate(config.train, model.rate))
    ran = environment.version if environment else ""
    parts = [model.fingerprint, (writer or model).fingerprint, repr(config), str(library), ran]
    name = text_hash(*parts, *(passage.id for passage in passages))[:12]
    file = store.home / "runs" / f"released-{name}" / "report.json"
    with plain_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)

    def wait(process: str) -> None:
        notify(f"another `selfedit learn` (process {process}) is learning this release; waiting for it")

    with disk.turn(file, wait):
        if not again and (known := _known(file, store, passages, model)):
            return known
        report = _learned(model, passages, store, config, library, environment, writer or model, progress, notify)
        write_json(file, report.record())
        return report


def _learned(
    model: Model,
    passages: Sequence[Passage],
    store: MemoryStore,
    config: ReleaseConfig,
    library: Library,
    environment: Environment | None,
    writer: Writer,
    progress: Progress,
    notify: Callable[[str], None],
) -> ReleaseReport:
    clock = _Clock()
    approved = {entry.passage.id for entry in store.active_of(passages, model.fingerprint)}
    trusted = [p for p in passages if p.id in approved or not suspicious_text(model, p, store, config.gate)]
    changes = find_changes(trusted)
    written = each_once(_written(writer, changes, store, config, library, progress, notify))
    clock("write")
    dropped = counted(written)
    pairs = [[pair for pair in some if isinstance(pair, Pair)] for some in written]
    if environment:
        flat = [pair for some in pairs for pair in some]
        reasons = dict(zip(flat, run_pairs(flat, environment, progress)))
        pairs = [[pair for pair in some if not reasons[pair]] for some in pairs]
        dropped += Counter(filter(None, reasons.values()))
        clock("run")
    to_study, judging = held_back(pairs)
    edits = _edits(changes, to_study, library)
    report = ReleaseReport(
        str(library),
        len(passages),
        len(changes),
        sum(map(len, written)),
        dict(dropped),
        environment.version if environment else "",
        studied=sum(map(len, to_study)),
    )
    adapters, tokens = None, 0
    if edits:
        adapters, tokens = _trained(model, edits, config, progress)
        clock("train")
        report = _tested(model, report, adapters, judging, library, config)
        clock("test")
    else:
        report = replace(report, reason="no pair of old and new code was kept, so nothing was studied")
    studied = list(dict.fromkeys(id for change, some in zip(changes, pairs) if some for id in change.passage_ids))
    report = _kept(model, report, passages, edits, studied, judging, adapters, store, config)
    clock("keep")
    return replace(report, tokens=tokens, seconds=clock.seconds)


def _known(file: Path, store: MemoryStore, passages: Sequence[Passage], model: Model) -> ReleaseReport | None:
    """The report of the same job, if what it kept is still in force; if it kept no adapter, if the passages are."""
    if not file.exists():
        return None
    try:
        report, in_force = ReleaseReport(**read_back(file)), store.in_force()
        if not report.shared:
            active = {entry.passage.id for entry in store.active_of(passages, model.fingerprint)}
            return report if active >= {passage.id for passage in passages} else None
        is_whole = in_force.keys() >= {*report.memories, *report.texts}
        is_shared = {in_force.get(id) for id in report.memories} == {report.shared}
        return report if is_whole and is_shared else None
    except (RunError, TypeError):  # damaged, or of another version
        return None


class _Clock:
    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._since = round(now - self._since, 1), now


def _written(
    writer: Writer,
    changes: Sequence[Change],
    store: MemoryStore,
    config: ReleaseConfig,
    library: Library,
    progress: Progress,
    notify: Callable[[str], None],
) -> list[list[Pair | str]]:
    """The pairs of each change; those of an earlier run are read from the run folder. Forgetting a passage deletes its
    records there (`memory.transactions`)."""
    settings = json.dumps([str(library), config.samples, config.pair_tokens, config.temperature, config.seed])
    folder = store.home / "runs" / f"release-{text_hash(writer.fingerprint, settings)[:12]}"
    journal = Journal(folder / "trials.jsonl")
    known = {}
    for record in journal.records:
        with suppress(TypeError, KeyError):  # a record of another version
            known[record["change"]] = [p if isinstance(p, str) else Pair(**p) for p in record["pairs"]]
    todo, begun = [change for change in changes if change.text not in known], time.perf_counter()
    for low in range(0, len(todo), config.block):
        block = todo[low : low + config.block]
        done = len(changes) - len(todo) + low
        progress("pairs", done, len(changes))
        if low == config.block:
            left = (time.perf_counter() - begun) / low * (len(todo) - low)
            notify(f"{len(todo) - low} changes to write about: about {duration(left)}")
        on_token = partial(progress, "write")
        for change, pairs in zip(block, write_pairs(writer, block, library, config, on_token=on_token)):
            records = [pair if isinstance(pair, str) else asdict(pair) for pair in pairs]
            journal.add({"passages": change.passage_ids, "change": change.text, "pairs": records})
            known[change.text] = pairs
    progress("pairs", len(changes), len(changes))
    return [known[change.text] for change in changes]


def _edits(changes: Sequence[Change], pairs: Sequence[Sequence[Pair]], library: Library) -> dict[str, SelfEdit]:
    """What is studied, by the id of the passage."""
    of_passage: dict[str, list[Example]] = {}
    for change, some in zip(changes, pairs):
        if examples := [example for pair in some for example in study_examples(pair, library)]:
            of_passage.setdefault(change.passage.id, []).extend(examples)
    return {
        id: SelfEdit(STYLE, "\n".join(f"{e.opening}{e.text}" for e in examples), tuple(examples))
        for id, examples in of_passage.items()
    }


def _trained(
    model: Model, edits: dict[str, SelfEdit], config: ReleaseConfig, progress: Progress
) -> tuple[Adapters, int]:
    examples = [example for edit in edits.values() for example in edit.examples]
    job = Job(tuple(map(model.chat.study, examples)), seed=stable_seed(config.seed, *edits))
    adapters, (log,) = model.backend.train([job], config.train, on_step=partial(progress, "train"))
    return adapters.as_stored(), log.tokens


def _tested(
    model: Model,
    report: ReleaseReport,
    adapters: Adapters,
    judging: Sequence[Pair],
    library: Library,
    config: ReleaseConfig,
) -> ReleaseReport:
    """The report with the figures of the adapter, and the reason why it must not be kept; empty if it may."""
    (change,), (lost,) = general_harm(model, adapters)
    fault = general_fault(change, lost, config.gate)
    report = replace(report, general_change=change, general_lost=lost)
    before, after = (side_logprobs(model, adapters, row, judging, library) for row in (None, 0))
    if not before:
        return replace(report, reason=fault or "no pair was left to judge it by")
    preferred = [prefers_new(part) for part in (before, after)]
    gained = [sum(new for new, _ in part) / len(part) for part in (before, after)]
    if not fault and gained[1] - gained[0] < config.gate.min_gain:
        fault = f"held-back code gained {gained[1] - gained[0]:+.2f} nats per token, needs {config.gate.min_gain:+.2f}"
    needed = min(config.min_preferred, 1 - preferred[0])
    if not fault and exceeds(needed, preferred[1] - preferred[0]):
        fault = f"prefers the new side of {preferred[1]:.0%} of the held-back pairs, {preferred[0]:.0%} before"
    return replace(
        report,
        judged=len(before),
        prefers_new_before=preferred[0],
        prefers_new_after=preferred[1],
        logprob_before=gained[0],
        logprob_after=gained[1],
        reason=fault,
    )


def side_logprobs(
    model: Model, adapters: Adapters, row: int | None, pairs: Sequence[Pair], library: Library
) -> list[tuple[float, float]]:
    """The mean log-probability of the new and of the old side of each pair that makes a value. `row`: of the adapters;
    None: the untouched model."""
    sides = [side for pair in pairs for side in _sides(model, pair, library) or ()]
    logprobs = model.backend.gold_logprobs([(side, row) for side in sides], adapters) if sides else []
    return [*zip(logprobs[::2], logprobs[1::2])]


def prefers_new(logprobs: Sequence[tuple[float, float]]) -> float:
    """The share of pairs whose new side is likelier than the old one."""
    return sum(new > old for new, old in logprobs) / len(logprobs)


def _sides(model: Model, pair: Pair, library: Library) -> tuple[TokenizedExample, TokenizedExample] | None:
    """The new and the old body of a pair as answers to the same task."""
    old = function_task(replace(pair, new=pair.old), library)
    new = function_task(pair, library)
    if not new or not old:
        return None
    task, body = new
    new_side, old_side = (
        model.chat.study(Example(f"{text}```", task.prompt, opening=task.opening)) for text in (body, old[1])
    )
    return new_side, old_side


def _kept(
    model: Model,
    report: ReleaseReport,
    passages: Sequence[Passage],
    edits: dict[str, SelfEdit],
    studied: Collection[str],
    judging: Sequence[Pair],
    adapters: Adapters | None,
    store: MemoryStore,
    config: ReleaseConfig,
) -> ReleaseReport:
    """Keeps the passages as texts and, unless the report has a reason against it, the adapter, whose undoing undoes all
    of this. `studied`: the ids of all passages that have a part of a change whose pairs were studied; the adapter goes
    with any of them."""
    keeps, since = adapters is not None and not report.reason, store.version
    entries = {passage.id: keep_text(model, passage, store, config.gate)[0] for passage in passages}
    active = {*store.active_ids()}
    waiting = {entry.id for entry in entries.values() if entry.id not in active}
    superseded: list[str] = []
    if not waiting:
        documents = {passage.source: [p for p in passages if p.source == passage.source] for passage in passages}
        for document in documents.values():
            superseded += store.supersede(document, model.fingerprint, documents)
    sources = [entries[id] for id in studied]
    members = [entry for entry in sources if entry.passage.id in edits and not entry.has_adapter] if keeps else []
    if keeps and waiting.intersection(entry.id for entry in sources):
        report = replace(
            report, reason="a passage that it studied waits for `selfedit memory approve`; learn again then"
        )
        members = []
    elif keeps and not members:
        report = replace(
            report, reason="its passages were learned as facts before; `selfedit memory forget` them first"
        )
    if adapters is not None and members:
        measured: dict = {k: value for k, value in report.record().items() if isinstance(value, (int, float, str))}
        measured["held_back"] = [asdict(pair) for pair in judging]
        shared = store.share(
            lambda folder: model.backend.save(adapters, 0, folder, model.name, small=True),
            members,
            measured,
            sources,
            edits={entry.id: [edits[entry.passage.id]] for entry in members},
            since=since,
            job=[*superseded, *(entry.id for entry in entries.values())],
        )
        report = replace(report, shared=shared, reason=_why(report))
    ids = [entry.id for entry in members]
    kept = dict.fromkeys(entry.id for entry in entries.values() if entry.id not in waiting and entry.id not in ids)
    return replace(report, memories=ids, texts=list(kept), quarantined=sorted(waiting))


def _why(report: ReleaseReport) -> str:
    return (
        f"prefers the new side of {report.prefers_new_after:.0%} of {report.judged} held-back pairs, "
        f"{report.prefers_new_before:.0%} before"
    )
