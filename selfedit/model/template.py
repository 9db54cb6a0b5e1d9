"""A chat template and its variables → text, rendered by one worker process per process of ours (`template_worker`)."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from datetime import date
from functools import lru_cache
from pathlib import Path

from selfedit.errors import ModelError
from selfedit.model.shape import one_line

TODAY = date(2024, 7, 26)
"""The day for templates that print one: the default of Llama's own template, so that a prompt never changes."""
SECONDS = 10.0
"""Time limit of one rendering."""

_lock = threading.Lock()
_worker: subprocess.Popen | None = None


def render(template: str, **variables: object) -> str:
    """Raises ModelError if the template fails, or takes more than SECONDS or 1 GiB of memory."""
    request = {"template": template, "today": TODAY.isoformat(), "variables": variables, "seconds": SECONDS}
    return _rendered(json.dumps(request).encode() + b"\n")


@lru_cache(maxsize=512)  # a question is asked before and after training, and in every epoch
def _rendered(line: bytes) -> str:
    with _lock:
        reply = _exchange(line)
    if not reply:
        raise ModelError(
            f"the model's chat template cannot be used: it takes more than {SECONDS:g} s or 1 GiB of memory"
        )
    answer = json.loads(reply)
    if "error" in answer:
        raise ModelError(f"the model's chat template cannot be used: {one_line(answer['error'])}")
    return answer["text"]


def _exchange(line: bytes) -> bytes:
    """The worker's reply; empty if it ended instead."""
    worker = _running_worker()
    try:
        worker.stdin.write(line)
        worker.stdin.flush()
        reply = worker.stdout.readline()
    except OSError:
        reply = b""
    except BaseException:  # interrupted: the reply would be read as that of the next request
        _stop()
        raise
    if not reply.endswith(b"\n"):
        _stop()
        return b""
    return reply


def _running_worker() -> subprocess.Popen:
    global _worker
    if _worker is None or _worker.poll() is not None:
        command = [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))]
        try:
            _worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise ModelError(f"no process can be started for the chat template ({error.strerror})") from error
    return _worker


@atexit.register
def _stop() -> None:
    global _worker
    if _worker is not None:
        _worker.kill()
        _worker.communicate()
        _worker = None


def _forget() -> None:
    """After a fork: the worker belongs to the parent."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
