"""A child process with limits, for work on data from outside: its time, memory and output are bounded.

The parent holds a `Worker` and sends one JSON request per line; the child runs `serve` and replies with one JSON line.
The child lives until the parent exits, or until a request exceeds a limit; the next request then starts another one.
The child and what it starts form a process group, which ends with the parent: the child reads the pipe of requests in a
thread, and the pipe closes even if the parent is killed. Ctrl-C reaches the parent only.

Left out: protection from code that wants to escape. Memory is limited on Linux only; other systems limit the time.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

MEMORY = 700 * 2**20
"""Bytes of a child; a program that it starts may take as much."""
LONGEST_REPLY = 2**27
OUT_OF_MEMORY = 77
"""Exit code of a child that reached its memory limit."""


class WorkerError(Exception):
    """The child gave no reply; the message says which limit it exceeded."""


class Worker:
    """Runs `main` of a module in a child process, which is started when it is first needed."""

    def __init__(self, module: str):
        root = str(Path(__file__).parents[1])
        # The package must be the one that runs here, and its folder must not hide other modules from the child.
        start = f"import sys; sys.path.insert(0, {root!r}); import selfedit; del sys.path[0]; import {module} as m"
        self._command = [sys.executable, "-P", "-c", f"{start}; m.main()"]
        self._lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        atexit.register(self.stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def request(self, seconds: float, **request: object) -> dict:
        """The reply to a request that may take this long. Raises WorkerError."""
        with self._lock:
            process = self._running()
            start = time.monotonic()
            try:
                process.stdin.write(json.dumps(request | {"seconds": seconds}).encode() + b"\n")
                process.stdin.flush()
                reply = process.stdout.readline(LONGEST_REPLY)
            except OSError:
                reply = b""
            except BaseException:  # interrupted: the reply would be read as that of the next request
                self.stop()
                raise
            if not reply.endswith(b"\n"):
                took, code = time.monotonic() - start, None if reply else _exit_code(process)
                self.stop()
        if reply.endswith(b"\n"):
            return json.loads(reply)
        if reply:
            raise WorkerError(f"gives more than {LONGEST_REPLY >> 20} MB")
        if code == OUT_OF_MEMORY:
            raise WorkerError(f"takes more than {MEMORY >> 20} MB of memory")
        raise WorkerError(f"takes more than {seconds:g} s" if took >= seconds else "makes the reading process crash")

    def stop(self) -> None:
        """Ends the child and everything that it started."""
        process, self.process = self.process, None
        if process is not None:
            _kill(process)
            process.communicate()

    def _running(self) -> subprocess.Popen:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            pipe = subprocess.PIPE
            try:
                self.process = subprocess.Popen(
                    self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                raise WorkerError(f"cannot be read: no process can be started ({error.strerror})") from error
        return self.process

    def _forget(self) -> None:
        """After a fork: the child belongs to the parent."""
        self._lock, self.process = threading.Lock(), None


def _exit_code(process: subprocess.Popen) -> int | None:
    """The exit code of a child that has closed its output, and is ending."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(2)
    return None


def _kill(process: subprocess.Popen) -> None:
    if os.name != "posix":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also after the child's end: what it started may still run


# In the child


def serve(reply_to: Callable[..., dict]) -> None:
    """Calls the function with the fields of each request, and sends its reply. It must raise MemoryError only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # elsewhere than on POSIX, Ctrl-C reaches every process
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # a library that prints must not write into the replies
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # the limit is already lower; or the system has none
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, lines), daemon=True).start()
    while True:
        request = json.loads(lines.get())
        # This ends the process even inside a single operation of the interpreter.
        faulthandler.dump_traceback_later(request.pop("seconds"), exit=True, file=nowhere)
        try:
            reply = json.dumps(reply_to(**request)).encode() + b"\n"
        except MemoryError:
            os._exit(OUT_OF_MEMORY)  # another process starts with an empty heap
        faulthandler.cancel_dump_traceback_later()
        replies.write(reply)
        replies.flush()


def _read_requests(requests: BinaryIO, lines: SimpleQueue[bytes]) -> None:
    for line in requests:
        lines.put(line)
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # the parent has ended, so everything that was started for it ends
    os._exit(0)
