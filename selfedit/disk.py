"""Bytes that stay: writes that are on the disk itself when they return, and the disk's objections as one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from selfedit.errors import SelfeditError


@contextmanager
def plain_errors(what: str, kind: type[SelfeditError]) -> Iterator[None]:
    """Renames a full disk, a missing permission and their like to an error of this kind: "cannot `what`: why"."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the latter is how safetensors says that the disk is full
        reason = getattr(error, "strerror", None) or error
        raise kind(f"cannot {what}: {reason}; mend that or choose another folder") from error


def write(path: Path, data: bytes, mode: str = "wb") -> None:
    with path.open(mode) as file:
        file.write(data)
    sync(path)


def replace(path: Path, data: bytes) -> None:
    """Whoever reads or writes beside it, and whatever is killed: the file has its old bytes or the new ones."""
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        write(new, data)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def file_lock(path: Path) -> FileLock:
    """While it is held, no other thread or process that asks for it writes the file; a kill frees it."""
    return FileLock(path.with_name(f".{path.name}.lock"), poll_interval=0.01)


def add_line(path: Path, line: bytes) -> None:
    """Appends `line`, which ends with a newline, where others may append, too; a last line that a kill tore is ended first."""
    with file_lock(path), path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        file.write(b"\n" * (file.read(1) not in (b"", b"\n")) + line)


def sync(path: Path) -> None:
    """Puts a file's bytes, or a folder's names, on the disk itself: a power cut must not reorder the writes."""
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
