"""A folder → the files in it to read, and a reason for everything that is left out.

Left out by default: what the .gitignore files exclude; hidden files; folders of dependencies, builds and caches; lock
files; minified and generated files; files of a kind that is not read; links that lead outside, and links to a file that
is read anyway. A file that matches an `include` pattern is read in spite of these rules; one that matches an `exclude`
pattern never is. A folder that is left out is one line with the number of files in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePath

from pathspec import GitIgnoreSpec

from selfedit.documents.records import Skipped
from selfedit.errors import DocumentError

_FOLDERS = {
    **dict.fromkeys(("node_modules", "bower_components", "site-packages"), "installed dependencies"),
    **dict.fromkeys(("build", "dist", "target", "_build"), "built files"),
    "__pycache__": "a cache",
}
_MARKERS = {"pyvenv.cfg": "a virtual environment", "CACHEDIR.TAG": "a cache"}
"""A file in a folder → what the folder is."""
_LOCK_FILE = re.compile(r".*\.lock|.*-lock\.(json|ya?ml)|npm-shrinkwrap\.json|go\.sum|bun\.lockb")
_MINIFIED = re.compile(r".*\.min\.\w+|.*\.map")
_GENERATED = re.compile(rb"@generated|(?i:code generated .{0,80}do not edit|this file is auto-?generated)")
_LONG_LINE = re.compile(rb"[^\n]{5000}")
_HEAD = 20_000
"""Bytes of a source file that are searched for signs of a generated file."""


def walk(
    folder: str,
    is_readable: Callable[[str], bool],
    is_code: Callable[[str], bool],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[str | Skipped]:
    """Yields the path of each file to read and what is left out, sorted by name, the files of a folder before its
    subfolders. `is_readable`, `is_code`: decide by the name. Raises DocumentError if the folder cannot be listed."""
    try:
        os.listdir(folder)
    except OSError as error:
        raise DocumentError(
            f"{folder}: the folder cannot be listed ({error.strerror}); change its permissions"
        ) from None
    root, top = os.path.realpath(folder), _repository(folder)
    _ignore_file.cache_clear()
    errors: dict[str, Skipped] = {}

    def note_error(error: OSError) -> None:
        errors[error.filename] = Skipped(error.filename, f"the folder cannot be listed ({error.strerror})")

    def file_fault(path: str, name: str) -> str:
        if not os.path.realpath(path).startswith(os.path.join(root, "")):
            return "a link that leads outside the folder"
        if matches(inner(path), include):
            return ""
        return _name_fault(path, name, top, is_readable) or (_content_fault(path) if is_code(name) else "")

    def inner(path: str) -> str:
        return PurePath(os.path.relpath(path, folder)).as_posix()

    for parent, folders, names in os.walk(folder, onerror=note_error):
        for name in sorted(names):
            path = os.path.join(parent, name)
            if reason := "excluded" if matches(inner(path), exclude) else file_fault(path, name):
                yield Skipped(path, reason)
            else:
                yield path
        for name in sorted(folders):
            path = os.path.join(parent, name)
            is_excluded = matches(f"{inner(path)}/", exclude)
            if os.path.islink(path):
                yield Skipped(path, "a link to a folder")
            elif reason := "excluded" if is_excluded else _folder_fault(path, name, top):
                folders.remove(name)
                files = sorted(os.path.join(above, file) for above, _, inside in os.walk(path) for file in inside)
                wanted = [] if is_excluded else [file for file in files if matches(inner(file), include)]
                taken = [file for file in wanted if not (matches(inner(file), exclude) or file_fault(file, ""))]
                yield from taken
                count = len(files) - len(taken)
                yield Skipped(path, f"{reason}, {count:,} file{'s' * (count != 1)}")
        folders.sort()
    yield from errors.values()


def without_links(items: Iterable[str | Skipped]) -> Iterator[str | Skipped]:
    """Yields the items with a reason in place of each link to a file that is among them, itself or by another link."""
    items = list(items)
    files: dict[str, str] = {}
    for path in sorted((item for item in items if isinstance(item, str)), key=os.path.islink):
        files.setdefault(os.path.realpath(path), path)
    for item in items:
        if isinstance(item, str) and (file := files[os.path.realpath(item)]) != item:
            yield Skipped(item, f"a link to a file that is read: {os.path.relpath(file, os.path.dirname(item))}")
        else:
            yield item


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path relative to the named folder matches one of the patterns, which are written as in .gitignore."""
    return bool(patterns) and _spec(tuple(patterns)).match_file(path)


@lru_cache(maxsize=64)
def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise DocumentError(f"{', '.join(patterns)[:200]}: no patterns of files ({error}); give e.g. '*.md'") from None


def _folder_fault(path: str, name: str, top: str) -> str:
    if name.startswith("."):
        return "hidden"
    if name in _FOLDERS:
        return _FOLDERS[name]
    for marker, reason in _MARKERS.items():
        if os.path.exists(os.path.join(path, marker)):
            return reason
    return "ignored by .gitignore" if _is_ignored(path, "/", top) else ""


def _name_fault(path: str, name: str, top: str, is_readable: Callable[[str], bool]) -> str:
    if name.startswith("."):
        return "hidden"
    if _LOCK_FILE.fullmatch(name.lower()):
        return "a lock file"
    if _MINIFIED.fullmatch(name.lower()):
        return "minified"
    if not is_readable(name):
        suffix = PurePath(name).suffix
        return f"a kind of file that is not read ({suffix}); name the file itself, or give --include '*{suffix}'"
    return "ignored by .gitignore" if _is_ignored(path, "", top) else ""


def _content_fault(path: str) -> str:
    try:
        head = Path(path).open("rb").read(_HEAD) if os.path.isfile(path) else b""
    except OSError:
        return ""  # the reader says why
    if _LONG_LINE.search(head):
        return "minified: a line has more than 5,000 characters"
    return "generated: it says so itself" if _GENERATED.search(head[:2000]) else ""


def _repository(folder: str) -> str:
    """The folder whose .gitignore is the outermost that counts: the repository that holds this folder, or itself."""
    path = Path(os.path.abspath(folder))
    return str(next((parent for parent in (path, *path.parents) if (parent / ".git").exists()), path))


def _is_ignored(path: str, slash: str, top: str) -> bool:
    """Whether the .gitignore files up to the folder `top` exclude the path; the nearest that mentions it decides."""
    for folder in Path(os.path.abspath(path)).parents:
        inner = Path(os.path.abspath(path)).relative_to(folder).as_posix() + slash
        verdict = _ignore_file(str(folder)).check_file(inner).include
        if verdict is not None or str(folder) == top:
            return bool(verdict)
    return False


@lru_cache(maxsize=4096)
def _ignore_file(folder: str) -> GitIgnoreSpec:
    try:
        with open(os.path.join(folder, ".gitignore"), encoding="utf-8", errors="replace") as file:
            return GitIgnoreSpec.from_lines(file.read(1_000_000).splitlines())
    except (OSError, ValueError):
        return GitIgnoreSpec.from_lines([])
