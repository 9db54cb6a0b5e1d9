"""300 hostile documents (`hostile.py`): each is read, or left out with one line; in bounded time and memory."""

import os
import sys
import threading
import time
from pathlib import Path

import hostile
import pytest
from conftest import wait_until

from selfedit.documents import worker
from selfedit.documents.read import Intake, read_documents

SECONDS = 1.0
"""In place of 27, so that the test is short; `slow` is the same test with 27."""


class Memory(threading.Thread):
    """The largest sum of the resident memory of the processes in the group of the reading process, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.stopped = 0, threading.Event()

    def run(self):
        while not self.stopped.wait(0.02):
            if process := worker.worker.process:
                self.peak = max(self.peak, sum(resident(pid) for pid in group(process.pid)))


def group(leader: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    assert len(hostile.write(folder)) >= 300
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and memory is limited on Linux only")
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(27.0, marks=pytest.mark.slow)])
def test_each_hostile_document_is_read_or_left_out_with_one_line(folder, monkeypatch, seconds):
    monkeypatch.setattr(worker, "SECONDS", seconds)
    memory, names = Memory(), sorted(path.name for path in folder.iterdir())
    memory.start()
    slowest = 0.0
    try:
        for name in names:
            start = time.monotonic()
            try:
                reading = read_documents([str(folder / name)], intake=Intake())
            except Exception as error:
                assert type(error).__name__ == "DocumentError", (name, error)
                line = str(error)
                assert line.startswith(f"{folder / name}: "), (name, line)
                assert len(line.splitlines()) == 1 and len(line) < 600 and "Traceback" not in line, (name, line)
            else:
                assert reading.skipped == [] and all("root:x:" not in p.text for p in reading.passages), name
                assert all(p.text and len(p.title) <= 200 for p in reading.passages), name
            slowest = max(slowest, time.monotonic() - start)
    finally:
        memory.stopped.set()
        memory.join()
    assert slowest < 30 and memory.peak < 1e9
    assert not worker.worker.process or group(worker.worker.process.pid) == [worker.worker.process.pid]
    print(f"slowest {slowest:.1f} s, {memory.peak / 1e6:.0f} MB")


def test_one_bad_document_after_another_does_not_stop_the_good_ones(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "SECONDS", 10.0)  # the good one must not be late on a busy machine
    (tmp_path / "good.md").write_text("The gate is red.")
    bad = [folder / name for name in ("bomb.docx", "deep.json", "nul.pdf", "cut-0.3.epub")]
    reading = read_documents([*map(str, bad), str(tmp_path / "good.md")])
    assert reading.passages[-1].text == "The gate is red." and reading.skipped


def test_what_a_killed_child_started_ends_with_it(tmp_path):
    """Also if the parent is killed, which can run nothing itself then."""
    import subprocess

    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, subprocess, sys, time\n"
        "from selfedit.worker import serve\n"
        "def sleep(file):\n"
        "    process = subprocess.Popen(['sleep', '100'])\n"
        "    open(file, 'w').write(f'{os.getpid()} {process.pid}')\n"
        "    time.sleep(100)\n"
        "def main():\n"
        "    serve(sleep)\n"
    )
    for how in ("time", "kill", "interrupt"):
        file = tmp_path / how
        code = (
            "import signal; from selfedit.worker import Worker\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
            f"worker = Worker('slow'); worker.request({1 if how == 'time' else 60}, file={str(file)!r})"
        )
        environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{tmp_path}"}
        parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
        wait_until(lambda file=file: file.exists() and len(file.read_text().split()) == 2)
        child, grandchild = map(int, file.read_text().split())
        if how == "kill":
            parent.kill()
        elif how == "interrupt":
            parent.send_signal(2)
        _, stderr = parent.communicate(timeout=120)
        wait_until(lambda pids=(child, grandchild): not any(map(alive, pids)))
        assert b"takes more than 1 s" in stderr if how == "time" else parent.returncode != 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
