"""A job of the server: its folder → memories. A child process of low priority: learning never stops answering.

`python -m selfedit.serve.learner HOME JOB MODEL BACKEND`. JOB is the job's folder: `job.json` says what to learn,
beside it lies an uploaded file. One JSON object per line on the output: `{"stage", "done", "total"}`, `{"message"}`,
and last `{"summary"}` or `{"error"}`. What is finished is in the store, so a job that was killed is simply run again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from selfedit import disk, thread_waiting
from selfedit.errors import SelfeditError
from selfedit.types import text_hash

NICE = 10
"""Added to the priority number of the process: whoever answers comes first."""
JOB_FILE = "job.json"
STOPPED = 130


def main(argv: list[str]) -> int:
    home, folder, model, backend = Path(argv[0]), Path(argv[1]), *argv[2:]
    with suppress(OSError, AttributeError):
        os.nice(NICE)
    thread_waiting.choose(idle=False)
    try:
        with disk.turn(
            folder.parent / "learning", lambda process: note(f"process {process} is learning; waiting for it")
        ):
            say(summary=run(home, folder, model, backend))
        code = 0
    except SelfeditError as error:
        say(error=str(error))
        code = 2
    except KeyboardInterrupt:
        return STOPPED
    shutil.rmtree(folder, ignore_errors=True)  # what is still there is not done
    return code


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def command(home: Path, folder: Path, model: str, backend: str) -> list[str]:
    """The command that runs a job in another process, with the package that runs here."""
    root = str(Path(__file__).parents[2])
    module = "from selfedit.serve.learner import main"
    start = f"import sys; sys.path.insert(0, {root!r}); {module}; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-P", "-c", start, str(home), str(folder), model, backend]


def write_job(folder: Path, spec: dict, title: str, created: float, data: bytes | None = None) -> None:
    """Writes the folder of a job. `data`: the content of its `file`."""
    folder.mkdir(parents=True)
    if data is not None:
        disk.replace(folder / spec["file"], data)
    disk.replace(folder / JOB_FILE, json.dumps(spec | {"title": title, "created": created}).encode())


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
            documents, skipped = load_documents([str(folder / job["file"])], Intake(), progress)
            documents = [document._replace(source=f"upload://{job['file']}") for document in documents]
        case _:
            documents, skipped = load_documents([str(folder / job["file"])], Intake(), progress)
            documents = [
                document._replace(source=f"text://{text_hash(job['title'])[:12]}", title=job["title"])
                for document in documents
            ]
    return split_documents(documents, passage_words, length), [one._asdict() for one in skipped]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
