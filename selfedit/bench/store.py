"""How does the store scale? The time of each operation, and the size of the database, at several numbers of memories.

Adapters are tiny, so that the store is measured and not the disk's bandwidth; passages and study material have real
lengths. Where there are fewer passages than memories, they are repeated with other names and numbers in them. Each time
is the median of several calls; `add` is also given without what is spent on the adapter's files, and with the time of
one `fsync` on the same disk beside it, since each add waits for two.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
from safetensors.numpy import save

from selfedit.bench.tables import markdown, number
from selfedit.loop.journal import plain_errors, software, write_json, write_text
from selfedit.memory.adapters import ADAPTER_FILES, AdapterFolders
from selfedit.memory.store import MemoryStore
from selfedit.text import split_sentences
from selfedit.types import Example, Passage, SelfEdit, Task, stable_seed

SIZES = (100, 1000)
"""Numbers of memories at which everything is measured, besides the last."""
CALLS = 40
"""Number of times that each operation is timed at each size."""
MODEL = "m" * 64


@dataclass(frozen=True)
class Row:
    memories: int
    add_ms: float
    """The whole of an add, with the files of a tiny adapter."""
    add_database_ms: float
    """The same without the time spent on the adapter's files."""
    add_cpu_ms: float
    """The processor's time of an add: what is left when others use the machine too, and the disk does not wait."""
    fsync_ms: float
    """A write of 4 KiB, followed by `fsync`."""
    list_ms: float
    """The first page."""
    list_cpu_ms: float
    route_ms: float
    """One question: mean."""
    route_cpu_ms: float
    ask_verify_ms: float
    """The path of a memory's verified adapter, in a process that has not used it before."""
    rollback_ms: float
    """Undoing the last change."""
    forget_ms: float
    """One memory, until nothing is left of it on the disk."""
    database_mb: float


class _TimedFolders(AdapterFolders):
    """Adds up the time that is spent on adapter files."""

    seconds = 0.0

    def keep(self, write_adapter):
        start = time.perf_counter()
        stored = super().keep(write_adapter)
        self.seconds += time.perf_counter() - start
        return stored

    def finish(self) -> None:
        start = time.perf_counter()
        super().finish()
        self.seconds += time.perf_counter() - start


def shipped_tasks() -> list[Task]:
    """The passages that come with the package, without questions."""
    lines = Path(__file__).with_name("passages.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    return [Task(Passage(one["title"], one["context"], f"passages.jsonl:{i}", ""), ()) for i, one in enumerate(read)]


def run(
    tasks: Sequence[Task],
    memories: int,
    out: Path,
    *,
    command: str,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict:
    """Fills a store in a new folder under `out`, which is deleted afterwards, and measures it on the way."""
    with plain_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="store-", dir=out)
    rows: list[Row] = []
    recent: list[tuple[float, float, float]] = []
    sizes = {*SIZES, memories}
    with folder as home:
        store = MemoryStore(home)
        store._database.adapters = folders = _TimedFolders(store.home)
        for done in range(memories):
            spent, start, cpu = folders.seconds, time.perf_counter(), time.process_time()
            _add(store, tasks, done)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            recent = [*recent[1 - CALLS :], (seconds, seconds - (folders.seconds - spent), cpu)]
            on_progress("add", done + 1, memories)
            if done + 1 in sizes:
                rows.append(_measured(store, tasks, done + 1, recent))
        store.close()
    result = {"rows": [asdict(row) for row in rows], "passages": len(tasks), "command": command, "software": software()}
    write_json(out / "store.json", result)
    write_text(out / "store.md", table(result) + "\n")
    return result


def _measured(store: MemoryStore, tasks: Sequence[Task], memories: int, adds: list[tuple[float, float, float]]) -> Row:
    store.close()  # all of the log goes into the database
    database_mb = sum(path.stat().st_size for path in store.home.glob("memory.db*")) / 1e6
    questions = [q.question for task in tasks for q in task.questions][:400] or [t.passage.title for t in tasks]
    router = store.router(MODEL)
    start, cpu = time.perf_counter(), time.process_time()
    for question in questions:
        router.route(question)
    route_ms, route_cpu_ms = (
        (now - then) * 1e3 / len(questions) for now, then in ((time.perf_counter(), start), (time.process_time(), cpu))
    )
    ids = store.active_ids()
    verify = [_ms(lambda id=id: MemoryStore(store.home).answering_path(id)) for id in ids[:: -(-len(ids) // CALLS)]]
    full = store.version
    rollback = _ms(lambda: store.rollback())
    store.rollback(f"v{full}")
    last = store.active_ids()[-1]
    forget = _ms(lambda: store.forget(last))
    _add(store, tasks, memories - 1)
    total, database, add_cpu = zip(*adds)
    cpu = time.process_time()
    pages = [_ms(lambda: store.page(1)) for _ in range(CALLS)]
    list_cpu_ms = (time.process_time() - cpu) * 1e3 / CALLS
    return Row(
        memories,
        _median_ms(total),
        _median_ms(database),
        _median_ms(add_cpu),
        _fsync_ms(store.home),
        statistics.median(pages),
        list_cpu_ms,
        route_ms,
        route_cpu_ms,
        statistics.median(verify),
        rollback,
        forget,
        database_mb,
    )


def _add(store: MemoryStore, tasks: Sequence[Task], index: int) -> None:
    task = tasks[index % len(tasks)]
    passage = varied(task.passage, index // len(tasks))
    lines = [Example(sentence) for sentence in split_sentences(passage.text)]
    cues = [Example(q.answers[0], q.question) for q in task.questions[:8]]
    edits = [SelfEdit("rewrite", "", tuple(lines)), SelfEdit("questions", "", tuple(cues))]
    correct = [True] * len(cues)
    scores = {
        "candidate": "rewrite+questions",
        "general_change": 0.031,
        "general_lost": 0.0,
        "before": {"accuracy": 0.0, "gold_logprob": -4.1, "correct": correct, "logprobs": [-4.25] * len(cues)},
        "after": {"accuracy": 1.0, "gold_logprob": -0.6, "correct": correct, "logprobs": [-0.625] * len(cues)},
        "questions": [asdict(question) for question in task.questions[:8]],
    }

    def write(folder: Path) -> None:
        weights = {"a": numpy.full(8, index, numpy.float32)}
        for name, data in zip(ADAPTER_FILES, (save(weights), b'{"r": 1, "lora_alpha": 2}')):
            (folder / name).write_bytes(data)

    store.add(write, model="none", model_hash=MODEL, passage=passage, edits=edits, scores=scores)


def varied(passage: Passage, repetition: int) -> Passage:
    """The passage itself, or with an invented word in the place of each name and number, other ones per repetition."""
    if not repetition:
        return passage

    def invented(match: re.Match) -> str:
        seed = stable_seed(match[0], repetition)
        if match[0].isdigit():
            return str(seed % 10 ** len(match[0]))
        syllables = (
            "ba",
            "de",
            "fo",
            "gri",
            "hu",
            "ka",
            "len",
            "mor",
            "ni",
            "pol",
            "ra",
            "su",
            "tev",
            "vi",
            "wo",
            "zan",
        )
        return "".join(syllables[seed >> shift & 15] for shift in (0, 4, 8)).capitalize()

    text, title = (re.sub(r"\b(?:[A-Z]\w+|\d+)\b", invented, part) for part in (passage.text, passage.title))
    return replace(passage, text=text, title=title, source=f"{passage.source}-{repetition}")


def _ms(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def _median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def _fsync_ms(folder: Path) -> float:
    def write() -> None:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())

    with (folder / "fsync").open("wb") as file:
        found = statistics.median(_ms(write) for _ in range(CALLS))
    (folder / "fsync").unlink()
    return found


def table(result: dict) -> str:
    names = [name for name in result["rows"][0] if name != "memories"]
    head = ["memories", *(name.replace("_", " ").replace(" ms", ", ms").replace(" mb", ", MB") for name in names)]
    cells = [[f"{row['memories']:,}", *(number(row[name], ".2f") for name in names)] for row in result["rows"]]
    title = ["# Memory store", "", f"`{result['command']}` (selfedit {result['software']})", ""]
    return "\n".join(title + markdown(head, cells))
