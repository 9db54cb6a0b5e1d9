"""Durable file operations: a file that was replaced is on the disk when `replace` returns, and a disk error is one
clear line."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from selfedit.errors import SelfeditError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def plain_errors(what: str, kind: type[SelfeditError]) -> Iterator[None]:
    """Turns a full disk, a missing permission and the like into an error of this kind: "cannot `what`: reason"."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises the latter when the disk is full
        reason = getattr(error, "strerror", None) or error
        raise kind(f"cannot {what}: {reason}; correct that or choose another folder") from error


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A file in the format of safetensors. Raises OSError, also for a full disk."""
    from safetensors.torch import save_file

    try:
        save_file(tensors, file, metadata={"format": "pt"} | (metadata or {}))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def user_path(text: str | Path) -> Path:
    """The path with `~` expanded. Raises SelfeditError for the home folder of an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SelfeditError(f"{text}: there is no such home folder; write the path without ~") from None


def check_writable(folder: Path, option: str) -> None:
    """Raises SelfeditError if a file cannot be written in the folder, or the folder cannot be made. Leaves no trace."""
    with plain_errors(f"write to {folder} ({option})", SelfeditError):
        existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"probe")
            file.flush()


def write(path: Path, data: bytes, mode: str = "wb") -> None:
    with path.open(mode) as file:
        file.write(data)
    sync(path)


def replace(path: Path, data: bytes) -> None:
    """Replaces the file's bytes. A concurrent reader, and a kill at any time, leaves the old bytes or the new ones."""
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        write(new, data)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def file_lock(path: Path) -> FileLock:
    """A lock for writing the file, between threads and processes. It is released when its holder is killed."""
    return FileLock(path.with_name(f".{path.name}.lock"), poll_interval=0.01)


TURN = (".lock", ".holder")
"""Suffixes of the two files of a `turn`."""


@contextmanager
def turn(path: Path, wait: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of the path. If another process holds it, calls `wait` with its id and waits; a process that has
    ended holds no lock."""
    lock, holder = file_lock(path), path.with_name(f".{path.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        wait(holder.read_text() if holder.exists() else "unknown")
        lock.acquire()
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def add_line(path: Path, line: bytes) -> None:
    """Appends `line`, which ends with a newline, while other processes may append, too. If a kill left a partial last
    line, that line is ended first."""
    with file_lock(path), path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        file.write(b"\n" * (file.read(1) not in (b"", b"\n")) + line)


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk, so that a power cut cannot reorder the writes."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def json_line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
