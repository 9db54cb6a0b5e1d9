"""What a server is asked to learn: a queue of jobs, one child process at a time, of which a killed server loses none.

In: text, a file, an address, or a conversation. Out: progress, and memories in the store. A job is a folder under
`HOME/jobs` until it has ended; a server that starts again continues with what it finds there.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, time

from selfedit.serve.learner import DATA, JOBS, JobFolder, add_job, command, heard, unfinished
from selfedit.types import text_hash

KEPT = 200
"""Ended jobs that are still listed."""
MOST_WAITING = 100
"""Jobs of a home that wait."""
MESSAGES = 50
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
ENDED = (DONE, FAILED, STOPPED)
LINE_BYTES = 2**20
"""Longest line of a child's output; a longer one is ignored."""
NAME_BYTES = 100
"""Longest name of an upload, without its suffix. Some file systems take 143 bytes, and a file that is being written has
a longer name."""


@dataclass
class Job:
    id: str
    home: Path
    title: str
    status: str = WAITING
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    messages: list[str] = field(default_factory=list)
    summary: dict | None = None
    error: str | None = None
    created: float = field(default_factory=time)

    @property
    def folder(self) -> Path:
        return self.home / JOBS / self.id

    def record(self) -> dict:
        record = asdict(self)
        del record["home"]
        return record


class TooManyJobsError(Exception):
    """More jobs of a home wait than may wait."""


class Jobs:
    """The jobs of all homes of a server. To be used in one event loop."""

    def __init__(self, model: str, backend: str):
        self.model, self.backend = model, backend
        self._jobs: dict[str, Job] = {}
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._running: Job | None = None
        self._closing = False

    # For whoever asks

    def add(self, home: Path, spec: dict, title: str, data: bytes | None = None, *, is_limited: bool = True) -> Job:
        """Adds a job. `spec`: what `serve.learner` reads; `data`: the content of its `file`. Raises OSError if it
        cannot be written, and TooManyJobsError if `is_limited`."""
        if is_limited and sum(job.status == WAITING for job in self.of(home)) >= MOST_WAITING:
            raise TooManyJobsError(f"{MOST_WAITING} jobs are waiting; send it again when some have ended")
        return self._put(home, add_job(home, self.model, spec, title, data))

    def find_unfinished(self, home: Path) -> None:
        """Adds the jobs that an earlier server or a chat has left in a home."""
        for folder in unfinished(home, self.model):
            self._put(home, folder)

    def _put(self, home: Path, folder: JobFolder) -> Job:
        job = Job(folder.path.name, home, folder.title, created=folder.created)
        for old in [job for job in self._jobs.values() if job.status in ENDED][:-KEPT]:
            del self._jobs[old.id]
        self._jobs[job.id] = job
        self._queue.put_nowait(job)
        return job

    def of(self, home: Path) -> list[Job]:
        """The jobs of a home, the newest first."""
        return [job for job in reversed(self._jobs.values()) if job.home == home]

    def get(self, home: Path, id: str) -> Job | None:
        job = self._jobs.get(id)
        return job if job and job.home == home else None

    async def follow(self, job: Job) -> AsyncIterator[dict]:
        """The job now, and after every change, until it has ended. Changes that come quickly are seen as one."""
        while True:
            shown = job.record()
            yield shown
            if job.status in ENDED:
                return
            async with self._changed:
                while job.record() == shown:
                    await self._changed.wait()

    async def stop(self, job: Job) -> None:
        """Ends a job; what it has finished stays."""
        if job.status in ENDED:
            return
        is_running = job is self._running
        await self._end(job, STOPPED)
        if is_running and self._process:
            await _ended(self._process)

    async def close(self) -> None:
        """Ends the process that learns; its job stays on disk for the next server."""
        self._closing = True
        if self._process:
            await _ended(self._process)

    # The work

    async def run(self) -> None:
        """Runs one job after another, for ever."""
        while True:
            job = await self._queue.get()
            if job.status == WAITING and not self._closing:
                await self._learn(job)

    async def _learn(self, job: Job) -> None:
        job.status, self._running = RUNNING, job
        await self._notify()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command(job.home, self.model, self.backend, [job.folder]),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                limit=LINE_BYTES, start_new_session=True,
            )  # fmt: skip
            fault = await self._follow_to_end(job, self._process)
            if job.status == RUNNING and not self._closing:  # it said nothing in the end
                job.error = _for_clients(job, f"{fault}; send it again, what was finished is kept")
                await self._end(job, FAILED)
        except Exception as error:  # one job must not end the loop that runs all
            reason = getattr(error, "strerror", None) or error
            job.error = _for_clients(job, f"the process that learns failed: {reason}")
            await self._end(job, FAILED)
        finally:
            self._process = self._running = None

    async def _follow_to_end(self, job: Job, process: asyncio.subprocess.Process) -> str:
        """Takes the events of a process until it ends; returns its last words. If this is interrupted, the process is
        ended, since it holds the lock of the home."""
        last_words = asyncio.create_task(_tail(process.stderr))
        try:
            await self._read(job, process)
            code = await process.wait()
            return await last_words or f"the process that learns ended with {code}"
        finally:
            last_words.cancel()
            if process.returncode is None:
                await _ended(process)

    async def _read(self, job: Job, process: asyncio.subprocess.Process) -> None:
        began = monotonic()
        async for line in _lines(process.stdout):
            await self._take(job, heard(line), monotonic() - began)

    async def _take(self, job: Job, event: dict, seconds: float) -> None:
        """Applies an event of the learner to its job; anything else is ignored."""
        if job.status != RUNNING:
            return
        match event:
            case {"summary": dict(summary)}:
                job.summary = json.loads(_for_clients(job, json.dumps(summary, ensure_ascii=False)))
                await self._end(job, DONE)
            case {"error": str(error)}:
                job.error = _for_clients(job, error)
                await self._end(job, FAILED)
            case {"gone": True}:
                job.messages = [*job.messages, "another process has learned it"]
                await self._end(job, DONE)
            case {"message": str(message)}:
                job.messages = [*job.messages, _for_clients(job, message)][-MESSAGES:]
            case {"stage": "passage", "done": int(done), "total": int(total)}:  # of the whole job
                job.done, job.total = done, total
                job.seconds_left = seconds / done * (total - done) if done else None
            case {"stage": str(stage)}:
                job.stage = stage
        await self._notify()

    async def _end(self, job: Job, status: str) -> None:
        job.status, job.seconds_left = status, None
        shutil.rmtree(job.folder, ignore_errors=True)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Interrupts a process as Ctrl-C does, and kills it if that does not help."""
    for kind in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 20)
            return


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """The lines of a stream, without those that are longer than its limit."""
    while stream:
        try:
            line = await stream.readline()
        except ValueError:  # the line is too long; what was read of it is dropped
            continue
        if not line:
            return
        yield line


async def _tail(stream: asyncio.StreamReader | None) -> str:
    """The last line of a stream that has text."""
    last = ""
    async for line in _lines(stream):
        last = line.decode(errors="replace").strip() or last
    return last


def _for_clients(job: Job, text: str) -> str:
    """What a child says, without paths of this machine: of an upload only its name is told."""
    for folder in (job.folder / DATA, job.folder):
        text = text.replace(f"{folder}{os.sep}", "")
    return without_paths(text, job.home)


def without_paths(text: str, home: Path) -> str:
    return re.sub(rf"{re.escape(str(home))}[\w./-]*", "the memory home", text)


def safe_name(name: str) -> str:
    """The file name of an upload without folders and odd characters; its suffix says how it is read. Empty if it has
    no letter or digit."""
    name = re.sub(r"[^\w .()+-]", "_", Path(name.replace("\\", "/")).name).strip(" .")
    if not re.search(r"[^\W_]", name):
        return ""
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, f"{dot}{_cut(suffix, 10)}") if stem else (suffix, "")
    if len(stem.encode()) > NAME_BYTES:  # the hash tells it from names that begin alike
        stem = f"{_cut(stem, NAME_BYTES)}-{text_hash(name)[:8]}"
    return f"{stem}{suffix}"


def _cut(text: str, size: int) -> str:
    """As many whole characters as have at most `size` bytes."""
    return text.encode()[:size].decode(errors="ignore")
