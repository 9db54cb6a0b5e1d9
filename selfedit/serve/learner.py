"""Jobs of the server and of chat: their folders → memories. A process of low priority: learning never stops answering.

`python -m selfedit.serve.learner HOME MODEL BACKEND JOB…`. A job is a folder under `HOME/jobs` until it has ended:
`job.json` says what to learn, and the folder `data` holds a text or an uploaded file. One JSON object per line on the
output: `{"stage", "done", "total"}`, `{"message"}`, and last of each job `{"summary"}`, `{"error"}`, or
`{"gone": true}` if another process has done it. What is finished is in the store, so a job that was killed is simply
run again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import NamedTuple

from selfedit import disk, thread_waiting
from selfedit.errors import SelfeditError
from selfedit.types import text_hash

NICE = 10
"""Added to the priority number of the process: whoever answers comes first."""
JOBS = "jobs"
"""The folder of the jobs in a home."""
JOB_FILE = "job.json"
DATA = "data"
"""The folder of a job's file, which may have any name."""
STOPPED = 130


class JobFolder(NamedTuple):
    path: Path
    title: str
    created: float


def add_job(home: Path, model: str, spec: dict, title: str, data: bytes | None = None) -> JobFolder:
    """Writes the folder of a job. `spec`: what `run` reads; `data`: the content of its `file`. Raises OSError."""
    job = JobFolder(home / JOBS / secrets.token_hex(6), title, time())
    fields = spec | {"model": model, "title": title, "created": job.created}
    try:
        (job.path / DATA).mkdir(parents=True)
        if data is not None:
            disk.replace(job.path / DATA / spec["file"], data)
        disk.replace(job.path / JOB_FILE, json.dumps(fields).encode())
    except OSError:
        shutil.rmtree(job.path, ignore_errors=True)
        raise
    return job


def unfinished(home: Path, model: str) -> list[JobFolder]:
    """The jobs of a model in a home that have not ended, the oldest first: somebody runs them, or was killed."""
    jobs = []
    for folder in (home / JOBS).glob("*/"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            spec = json.loads((folder / JOB_FILE).read_text("utf-8"))
            if spec.get("model", model) == model:
                jobs.append(JobFolder(folder, str(spec["title"]), float(spec["created"])))
    return sorted(jobs, key=lambda job: job.created)


def main(argv: list[str]) -> int:
    home, model, backend, *folders = argv
    with suppress(OSError, AttributeError):
        os.nice(NICE)
    thread_waiting.choose(idle=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server in the background of a shell ignores it
    try:
        return max(_done(Path(home), Path(folder), model, backend) for folder in folders)
    except KeyboardInterrupt:
        return STOPPED


def _done(home: Path, folder: Path, model: str, backend: str) -> int:
    """Runs a job unless another process has done it, and deletes its folder: what is still there is not done."""
    with disk.turn(folder.parent / "learning", lambda process: note(f"process {process} is learning; waiting for it")):
        if not (folder / JOB_FILE).exists():
            say(gone=True)
            return 0
        try:
            say(summary=run(home, folder, model, backend))
            code = 0
        except SelfeditError as error:
            say(error=str(error))
            code = 2
        shutil.rmtree(folder, ignore_errors=True)
    return code


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def heard(line: bytes | str) -> dict:
    """The event of a line of output; empty for what a library printed."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def command(home: Path, model: str, backend: str, jobs: Iterable[Path]) -> list[str]:
    """The command that runs jobs in another process, with the package that runs here."""
    root = str(Path(__file__).parents[2])
    module = "from selfedit.serve.learner import main"
    start = f"import sys; sys.path.insert(0, {root!r}); {module}; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-P", "-c", start, str(home), model, backend, *map(str, jobs)]


def run(home: Path, folder: Path, name: str, backend: str) -> dict:
    """Learns what the job says, and returns the summary."""
    from selfedit.config import LearnConfig
    from selfedit.conversations import Conversations
    from selfedit.learn import learn, passage_length
    from selfedit.memory.store import MemoryStore
    from selfedit.model.load import load_model

    job = json.loads((folder / JOB_FILE).read_text("utf-8"))
    store, config = MemoryStore(home), LearnConfig()
    model = load_model(name, backend=backend, notify=note)
    passages, skipped = _passages(home, folder, job, config.passage_words, passage_length(model, config.passage_words))
    options = {"suspicion": job.get("suspicion", ""), "progress": progress, "notify": note}
    if job["kind"] == "conversation":
        options["current"] = Conversations(home).passages
    report = learn(model, passages, store, config, **options)
    return report.summary() | {"skipped": skipped}


def progress(stage: str, done: int, total: int) -> None:
    say(stage=stage, done=done, total=total)


def note(message: str) -> None:
    say(message=message)


def _passages(home: Path, folder: Path, job: dict, passage_words: int, length) -> tuple[list, list[dict]]:
    from selfedit.conversations import Conversations
    from selfedit.documents.read import Intake, load_documents, split_documents

    match job["kind"]:
        case "conversation":
            return Conversations(home).passages(), []
        case "url":
            documents, skipped = load_documents([job["url"]], Intake(), progress)
        case "upload":
            documents, skipped = load_documents([str(_file(folder, job["file"]))], Intake(), progress)
            documents = [document._replace(source=f"upload://{job['file']}") for document in documents]
        case _:
            documents, skipped = load_documents([str(_file(folder, job["file"]))], Intake(), progress)
            source = job.get("source") or f"text://{text_hash(job['title'])[:12]}"  # an earlier version wrote none
            documents = [document._replace(source=source, title=job["title"]) for document in documents]
    passages = split_documents(documents, passage_words, length, job.get("library", ""))
    return passages, [one._asdict() for one in skipped]


def _file(folder: Path, name: str) -> Path:
    """The file of a job. An earlier version wrote it beside `job.json`, which replaced a file of the same name."""
    if (file := folder / DATA / name).exists():
        return file
    if name == JOB_FILE:
        raise SelfeditError(f"{name}: an earlier version lost the content of this file; send it again")
    return folder / name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
