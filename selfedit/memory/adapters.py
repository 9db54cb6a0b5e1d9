"""Adapter folders: weights on disk, named by the hash of their content, written whole or not at all.

    home/adapters/<address>/    adapter_model.safetensors, adapter_config.json; never changed once it is there.
                                The address is the SHA-256 of the two files' hashes, in hex.
    home/adapters/.staging/     has a folder while an adapter is being written, until the database refers to it. If a
                                writer finds one, an earlier one was killed: every folder that nothing refers to goes.

An adapter is opaque here: two files and a hash. Only safetensors and JSON, never pickle. Whoever writes or deletes
holds the database's write lock.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.types import text_hash

WEIGHTS, CONFIG = ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
WriteAdapter = Callable[[Path], None]
"""Gets a folder and writes the two PEFT files into it."""
BEFORE_MIGRATION = "before-migration"
"""Folder of a home's former files, see `memory.migrate`."""
_DELETABLE = re.compile(rf"adapters/([0-9a-f]{{64}}|\.staging/[0-9a-f]{{16}})|{BEFORE_MIGRATION}")


@dataclass(frozen=True)
class StoredAdapter:
    address: str
    weights_hash: str
    """SHA-256 of the weights file."""
    size_bytes: int
    stamp: str
    """Changes whenever somebody writes to the files, see `stamp`."""


NO_ADAPTER = StoredAdapter("", "", 0, "")
"""Of a memory that answers from its text alone."""


class AdapterFolders:
    def __init__(self, home: Path):
        self.home = home
        self.folder = home / "adapters"
        self.staging = self.folder / ".staging"
        self._local = threading.local()

    def path(self, address: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", address):
            raise ValueError(f"{address[:80]!r} is not the address of an adapter")
        return self.folder / address

    def keep(self, write_adapter: WriteAdapter) -> StoredAdapter:
        """Writes an adapter; one that is already there, and intact, is left as it is. Call `finish` after the
        commit."""
        self._local.written = f"adapters/.staging/{secrets.token_hex(8)}"
        written = self.home / self._local.written / "adapter"
        written.mkdir(parents=True)
        write_adapter(written)
        names = {path.name for path in written.iterdir()}
        assert names == {*ADAPTER_FILES}, f"write_adapter wrote {sorted(names)}"
        address, weights_hash = _address(written)
        folder = self.path(address)
        try:
            self.check(address, weights_hash)
        except (OSError, ValueError):  # not there, or damaged
            self.delete(f"adapters/{address}")
            os.rename(written, folder)
            _sync(*(folder / name for name in ADAPTER_FILES), folder, self.folder)
        size_bytes = sum((folder / name).stat().st_size for name in ADAPTER_FILES)
        return StoredAdapter(address, weights_hash, size_bytes, stamp(folder))

    def addresses(self) -> list[str]:
        """What is on the disk, whether the database refers to it or not."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return [path.name for path in paths if path != self.staging]

    def finish(self) -> None:
        """The database refers to what `keep` wrote."""
        if written := getattr(self._local, "written", None):
            self.delete(written)
            self._local.written = None

    def was_killed(self) -> bool:
        """Whether a writer did not come to `finish`, so that there may be a folder that nothing refers to."""
        return self.staging.is_dir() and any(self.staging.iterdir())

    def clear(self, referenced: Collection[str]) -> None:
        """Deletes every adapter whose address is not among these, and what killed writers left."""
        for folder, prefix in ((self.folder, "adapters/"), (self.staging, "adapters/.staging/")):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in referenced and _DELETABLE.fullmatch(f"{prefix}{path.name}"):
                    self.delete(f"{prefix}{path.name}")

    def check(self, address: str, weights_hash: str) -> None:
        """Raises ValueError or OSError unless both files are what was stored."""
        folder = self.path(address)
        stamp(folder)
        if disk.file_hash(folder / WEIGHTS) != weights_hash:
            raise ValueError(f"{WEIGHTS} has changed")
        if _address(folder, weights_hash)[0] != address:
            raise ValueError(f"{CONFIG} has changed")

    def delete(self, name: str) -> None:
        """Deletes a folder of the home. The store deletes folders nowhere else, and this deletes nothing outside.

        `name` must be one of the few that the store makes, and must not lead elsewhere: of a symbolic link only the
        link is removed, and behind a linked `adapters` nothing is.
        """
        path = self.home / name
        if not _DELETABLE.fullmatch(name) or path.parent.resolve() != (self.home.resolve() / name).parent:
            raise MemoryStoreError(f"{path} is not deleted: it is no adapter folder, or lies behind a symbolic link")
        with suppress(FileNotFoundError):  # another process clears at the same time
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)


def stamp(folder: Path) -> str:
    """Size, times and inode of both files: while it stays the same, nobody has written to them.

    Raises ValueError for a symbolic link, OSError for what is missing.
    """
    marks = []
    for path in (folder, *(folder / name for name in ADAPTER_FILES)):
        status = os.lstat(path)
        if not (stat.S_ISDIR if path == folder else stat.S_ISREG)(status.st_mode):
            raise ValueError(f"{path.name} is a symbolic link or no file")
        if path != folder:
            marks.append(f"{status.st_size}.{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_ino}")
    return " ".join(marks)


def _address(folder: Path, weights_hash: str = "") -> tuple[str, str]:
    """The address of the files in a folder, and the hash of the weights, computed unless it is given."""
    weights_hash = weights_hash or disk.file_hash(folder / WEIGHTS)
    return text_hash(weights_hash, disk.file_hash(folder / CONFIG)), weights_hash


def _sync(*paths: Path) -> None:
    """Puts files and folders on the disk; at once, since the disk then waits only once."""
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(disk.sync, paths))
