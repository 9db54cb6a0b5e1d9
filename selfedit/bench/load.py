"""`selfedit bench load`: many clients with different memories ask one server at once, while it learns.

In: a model. Out: `results.json` and `results.md`. The server runs in a process of its own on this machine, with a home
of invented memories, one per client; each client asks about its memory again and again and reads the stream. Reported:
errors, tokens per second beside those of one offline batch of the same requests (measured before and after, alone on
the machine), and the time to the first token, for each number of clients; and the same while one document after another
is learned, with the number of documents that were.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from uuid import uuid4

import httpx

from selfedit.answers.answerer import WEIGHTS, Answerer, Ask
from selfedit.bench.tables import heading, markdown
from selfedit.config import LearnConfig
from selfedit.errors import SelfeditError
from selfedit.loop.journal import lock_run_folder, software, write_json, write_text
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Job, Request
from selfedit.model.load import Model, load_model
from selfedit.serve.jobs import DONE, ENDED, FAILED, WAITING
from selfedit.serve.learner import JOBS
from selfedit.types import Example, MemoryEntry, Passage, Progress, Question, no_progress

TOKENS = 64
"""Longest answer."""
POLL_S = 0.2
"""Between two looks at a job."""
TOKEN = "a-token-of-the-benchmark"
_AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
_LEARNED = (
    "Ferry {name} of Ulm crosses the river eleven times a day. Its captain is Ines Roth, who took over in May. The "
    "fare is three crowns. Bicycles travel free of charge. In winter the ferry stops at six in the evening."
)
_MADE = "made:"
"""How the sources of the clients' memories begin."""


def run(
    model_name: str,
    clients: Sequence[int],
    seconds: int,
    out: Path,
    *,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json, which is also written after each row. `seconds`: of
    each measurement."""
    model, home = load_model(model_name, notify=notify), out / "load-home"
    most = max(clients)
    _lock = lock_run_folder(out, model.identity())
    store = MemoryStore(home)
    entries = _made(store)
    if len(entries) < most:
        _make_memories(model, store, most)
        entries = _made(store)
    questions = [f"What is said about {entry.passage.title}?" for entry in entries]
    result = {"model": model_name, "precision": model.backend.precision, "seconds": seconds, "cores": os.cpu_count()}
    result |= {"rows": (rows := []), "command": command, "software": software(out)}
    for index, count in enumerate((*clients, most)):
        progress("load", index, len(clients) + 1)
        learns = index == len(clients)
        offline = _offline(model, store, [entry.id for entry in entries[:count]], questions[:count])
        shutil.rmtree(home / JOBS, ignore_errors=True)  # what the row before has not finished
        with Server(model_name, home, "--waiting", "100000") as server:
            measured = asyncio.run(
                _measure(server.url, model_name, entries[:count], questions[:count], seconds, learns)
            )
        offline = (offline + _offline(model, store, [e.id for e in entries[:count]], questions[:count])) / 2
        rows.append({"clients": count, "learns": learns, "offline": offline, **measured})
        rows[-1]["of_offline"] = rows[-1]["tokens_per_second"] / offline
        write_json(out / "results.json", result)
        write_text(out / "results.md", table(result))
    progress("load", len(clients) + 1, len(clients) + 1)
    return result


def _made(store: MemoryStore) -> list[MemoryEntry]:
    """The clients' memories, without what the server has learned."""
    return [entry for entry in store.active() if entry.passage.source.startswith(_MADE)]


def _make_memories(model: Model, store: MemoryStore, count: int) -> None:
    """One memory per client, trained for a moment: its text does not matter here."""
    passages = [
        Passage(f"Station {i}", f"Station {i} of the line lies {i} miles from Ulm.", f"{_MADE}{i}", "")
        for i in range(count)
    ]
    examples = [model.chat.study(Example(p.text, prompt=f"What is said about {p.title}?")) for p in passages]
    adapters, _ = model.backend.train([Job((example,), epochs=1) for example in examples], LearnConfig().train)
    for row, passage in enumerate(passages):
        store.add(
            lambda folder, row=row: model.backend.save(adapters, row, folder, model.name, small=True),
            model=model.name,
            model_hash=model.fingerprint,
            passage=passage,
            edits=[],
            scores={},
        )


def _offline(model: Model, store: MemoryStore, memories: Sequence[str], questions: Sequence[str]) -> float:
    """Tokens per second of one batch of the same requests."""
    answerer = Answerer(model, store)
    plans = [
        answerer.plan(Ask(Question(question, ()), WEIGHTS, memory, whole=False, max_new_tokens=TOKENS))
        for memory, question in zip(memories, questions)
    ]
    folders = list(dict.fromkeys(folder for _, folder in plans if folder))
    adapters = model.backend.load(folders)
    requests = [
        Request(plan.requests[WEIGHTS].tokens, folders.index(folder), TOKENS) for plan, folder in plans if folder
    ]
    model.backend.generate([replace(request, max_new_tokens=1) for request in requests], adapters)  # warm-up
    start = time.perf_counter()
    written = model.backend.generate(requests, adapters)
    return sum(map(len, written)) / (time.perf_counter() - start)


class Server:
    """A server in another process, which answers while the block runs. Its token is TOKEN."""

    def __init__(self, model: str, home: Path, *options: str):
        command = ["serve", "--home", str(home), "--model", model, "--port", "0", *options]
        self._command = [sys.executable, "-m", "selfedit.cli", *command]

    def __enter__(self) -> Server:
        environment = os.environ | {"SELFEDIT_TOKEN": TOKEN}
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("page")), "")
        if not line:
            raise SelfeditError("the server did not start; the lines above say why")
        self.url = line.split()[1].partition("/#")[0]
        while self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/health", verify=False)
                return self
            except httpx.TransportError:
                time.sleep(0.05)
        raise SelfeditError("the server has ended; the lines above say why")

    def __exit__(self, *rest: object) -> None:
        self.process.terminate()
        self.process.wait(60)


async def _measure(
    url: str, model: str, entries: Sequence, questions: Sequence[str], seconds: int, learns: bool
) -> dict:
    first: list[float] = []
    counts = {"requests": 0, "errors": 0, "tokens": 0, "jobs_done": 0}
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=_AUTHORIZED, timeout=600, limits=limits) as client:

        async def ask(entry, question: str) -> None:
            messages = [{"role": "user", "content": question}]
            body = {"model": f"{model}:{entry.id}", "messages": messages, "max_tokens": TOKENS, "stream": True}
            body |= {"stream_options": {"include_usage": True}}
            while time.monotonic() < end:
                start, seen = time.monotonic(), False
                counts["requests"] += 1
                try:
                    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                        counts["errors"] += reply.status_code != 200
                        async for line in reply.aiter_lines():
                            if not line.startswith("data: {"):
                                continue
                            event = json.loads(line[6:])
                            if not seen and event["choices"] and event["choices"][0]["delta"].get("content"):
                                first.append(time.monotonic() - start)
                                seen = True
                            counts["tokens"] += (event.get("usage") or {}).get("completion_tokens", 0)
                except httpx.TransportError:
                    counts["errors"] += 1

        start = time.monotonic()
        learning = [_learn(client, end, counts)] if learns else []
        await asyncio.gather(*learning, *(ask(entry, question) for entry, question in zip(entries, questions)))
        spent = time.monotonic() - start
    ranked = sorted(first)
    return counts | {
        "tokens_per_second": counts["tokens"] / spent,
        "first_token_s": median(ranked) if ranked else None,
        "first_token_p95_s": ranked[int(0.95 * (len(ranked) - 1))] if ranked else None,
    }


async def _learn(client: httpx.AsyncClient, end: float, counts: dict[str, int]) -> None:
    """Has one text after another learned until `end`. No two are equal, since a text that is known is not learned."""
    while time.monotonic() < end:
        name = uuid4().hex[:12]
        try:
            body = {"text": _LEARNED.format(name=name), "title": f"Ferry {name}"}
            reply = await client.post("/v1/memories", json=body)
            status = WAITING if reply.status_code == 202 else FAILED
            while status not in ENDED and time.monotonic() < end:
                await asyncio.sleep(POLL_S)
                jobs = (await client.get("/v1/jobs")).json()["jobs"]
                status = next(job["status"] for job in jobs if job["id"] == reply.json()["job"])
        except httpx.TransportError:
            status = FAILED
        counts["jobs_done"] += status == DONE
        if status == FAILED:
            counts["errors"] += 1
            await asyncio.sleep(POLL_S)


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    cores = f"server and clients on the same {result['cores']} cores"
    about = f"{result['seconds']} s per row, {cores}, up to {TOKENS} tokens per answer."
    head = ["clients", "learns", "jobs done", "requests", "errors", "tokens/s", "÷ offline", "first token, median s"]
    head += ["95 % s"]
    cells = (
        [
            r["clients"],
            "yes" if r["learns"] else "no",
            r["jobs_done"],
            r["requests"],
            r["errors"],
            f"{r['tokens_per_second']:.1f}",
            f"{r['of_offline']:.2f}",
            f"{r['first_token_s'] or 0:.2f}",
            f"{r['first_token_p95_s'] or 0:.2f}",
        ]
        for r in result["rows"]
    )
    return "\n".join([*heading("Load", result), about, "", *markdown(head, cells)]) + "\n"
