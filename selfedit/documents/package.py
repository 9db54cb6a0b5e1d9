"""`package:NAME`, `package:NAME@VERSION`, `package:npm/NAME@VERSION` → the release notes and documentation that a
published package ships: its README, its changelog, and its folder `docs`.

The archive is read in memory and nothing of it is run or written to disk; this happens in the child process of
`worker`. A Python package is taken from the index that pip uses, as a source archive if there is one, else as a wheel,
whose description is its README. A file has the source `package:NAME@VERSION/PATH`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from email import message_from_string
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from selfedit.documents.fetch import MissingError, fetch, public_url
from selfedit.documents.records import Raw
from selfedit.errors import DocumentError, LibraryError
from selfedit.libraries import PACKAGE, Library

MAX_ARCHIVE_BYTES = 150_000_000
MAX_DOCUMENTS, MAX_DOCUMENTS_BYTES = 500, 50_000_000
PYPI, NPM = "https://pypi.org/simple", "https://registry.npmjs.org"
_FILES_OF_PYPI = "files.pythonhosted.org"
_SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_TOP_LEVEL = re.compile(
    r"(readme|change|history|news|release|migrat|upgrad|whats_?new|faq|guide|tutorial)", re.IGNORECASE
)
_RELEASE_NOTES = re.compile(r"(change|history|news|release|migrat|upgrad|whats?[-_]?new)", re.IGNORECASE)
_NO_RELEASE_NOTES = re.compile(r"readme|\d+\.[a-z]+\.", re.IGNORECASE)
"""How to write them, and parts of which a later release makes them."""
_SOURCE = re.compile(rf"{PACKAGE}((?:npm/(?:@[^@/]+/)?)?[^@/]+)@([^/]+)/(.*)", re.DOTALL)
"""Of a file that a package ships: the name, the version and the path."""
_FOLDERS = {"doc", "docs", "documentation", "changes", "changelog", "releases"}
_SUFFIXES = {".md", ".markdown", ".rst", ".txt", ".html", ".htm", ".adoc", ".ipynb", ".pdf"}
_BY_TYPE = {"text/markdown": ".md", "text/x-rst": ".rst"}


class _Archive(NamedTuple):
    name: str
    version: str
    file: str
    url: str
    algorithm: str = ""
    digest: str = ""
    """In hex; empty: the index gives none."""


def read_package(
    spec: str, *, seconds: float, is_wanted: Callable[[str], bool] | None = None, allow_private: bool = False
) -> tuple[list[Raw], int]:
    """The documents of a package, in the order of their names, and the number of other files. Raises DocumentError.

    `is_wanted`: decides by the path inside the package which files are read, in place of `is_documentation`.
    """
    name, _, version = spec.removeprefix(PACKAGE).partition("@")
    if name == "npm/":  # a scoped name begins with @
        name, _, version = version.partition("@")
        name = f"npm/@{name}"
    if not re.fullmatch(r"(npm/(@[\w.-]+/)?)?[A-Za-z0-9][\w.-]*", name) or not re.fullmatch(r"[\w.+!-]*", version):
        raise DocumentError(f"{spec[:200]}: not a package; give package:NAME, package:NAME@VERSION or package:npm/NAME")

    def get(url: str, max_bytes: int, accept: str = "*/*", missing: str = "") -> bytes:
        trusted = {urlsplit(index).hostname or "", _FILES_OF_PYPI}  # an index may be in a private network
        options = {"max_bytes": max_bytes, "seconds": seconds, "trusted": trusted, "accept": accept}
        try:
            return fetch(url, allow_private=allow_private, **options).data
        except DocumentError as error:
            fault = missing if missing and isinstance(error, MissingError) else error
            raise DocumentError(f"{spec}: {fault}") from None

    if name.startswith("npm/"):
        index = os.environ.get("npm_config_registry", NPM)
        archive = _npm_archive(spec, name.removeprefix("npm/"), version, index, get)
    else:
        index = _pip_index()
        archive = _python_archive(spec, name, version, index, get)
    data = get(archive.url, MAX_ARCHIVE_BYTES)
    if archive.digest and hashlib.new(archive.algorithm, data).hexdigest() != archive.digest:
        raise DocumentError(f"{spec}: the checksum of {archive.file} is wrong; try again later")
    source = f"{PACKAGE}{archive.name}@{archive.version}"
    documents, left_out = documents_in(source, archive.file, data, is_wanted or is_documentation)
    if not documents:
        raise DocumentError(f"{source}: {archive.file} has no README, changelog or documentation; give its web page")
    return documents, left_out


def library_of(source: str) -> str:
    """The tag of what a published package ships, by its source: `polars@2.1`; empty for other sources."""
    match = _SOURCE.fullmatch(source)
    with suppress(LibraryError):  # a version that is none
        return str(Library.parse(f"{match[1]}@{match[2]}")) if match else ""
    return ""


def is_release_notes(source: str) -> bool:
    """Whether a file that a package ships, by its source, says what changed from version to version."""
    match = _SOURCE.fullmatch(source)
    path = PurePosixPath(match[3] if match else "")
    return any(map(_RELEASE_NOTES.match, path.parts)) and not _NO_RELEASE_NOTES.match(path.name)


def is_documentation(path: str) -> bool:
    """Whether a file of a package, named by its path inside it, is documentation."""
    *folders, name = PurePosixPath(path.lower()).parts
    suffix = PurePosixPath(name).suffix
    if any(part.startswith((".", "_")) for part in (*folders, name)) or name.startswith("requirements"):
        return False
    if not folders:
        return bool(_TOP_LEVEL.match(name)) and suffix in _SUFFIXES | {""}
    return suffix in _SUFFIXES and bool(_FOLDERS.intersection(folders))


def documents_in(source: str, file: str, data: bytes, is_wanted: Callable[[str], bool]) -> tuple[list[Raw], int]:
    """The wanted files of an archive, sorted by name, and the number of the others. The description of the package is
    one of them if there is no README. Raises DocumentError."""
    documents, description, total, left_out = [], None, 0, 0
    try:
        for path, read in _members(file, data):
            left_out += 1
            if is_wanted(path):
                left_out -= 1
                content = read(MAX_DOCUMENTS_BYTES)
                total += len(content)
                documents.append(Raw(f"{source}/{path}", PurePosixPath(path).name, content))
                if total > MAX_DOCUMENTS_BYTES or len(documents) > MAX_DOCUMENTS:
                    limit = f"{MAX_DOCUMENTS} documents or {MAX_DOCUMENTS_BYTES / 1e6:g} MB"
                    raise DocumentError(
                        f"{source}: has more than {limit}; download it and name the files that you need"
                    )
            elif path == "PKG-INFO" or re.fullmatch(r"[^/]+\.dist-info/METADATA", path):
                description = _description(source, read(1_000_000))
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"{source}: {file} is a damaged archive ({error}); try again later") from None
    documents.sort()
    if description and not any(raw.name.lower().startswith("readme") for raw in documents):
        documents.insert(0, description)
    return documents, left_out


def _members(file: str, data: bytes) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Each file of an archive: its path, and a function that reads at most so many bytes of it."""
    if file.endswith((".whl", ".zip")):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield _inner_path(entry.filename, file), lambda size, entry=entry: archive.open(entry).read(size)
    else:
        with tarfile.open(fileobj=BytesIO(data), mode="r|*") as archive:
            for member in archive:
                if member.isfile():
                    yield _inner_path(member.name, file), lambda size, m=member: archive.extractfile(m).read(size)


def _inner_path(path: str, file: str) -> str:
    """The path without the folder that holds everything in a source archive."""
    return path if file.endswith(".whl") else path.removeprefix("./").partition("/")[2]


def _description(source: str, metadata: bytes) -> Raw | None:
    """The long description of a Python package: a document in Markdown, reStructuredText or plain text."""
    message = message_from_string(metadata.decode("utf-8", "replace"))
    text = message.get_payload() or message.get("Description", "").replace("\n        ", "\n")
    content_type = str(message.get("Description-Content-Type", "text/x-rst")).partition(";")[0].strip().lower()
    if not isinstance(text, str) or not text.strip():
        return None
    name = f"README{_BY_TYPE.get(content_type, '.txt')}"
    return Raw(f"{source}/{name}", name, text.encode())


def _python_archive(spec: str, name: str, version: str, index: str, get: Callable[..., bytes]) -> _Archive:
    from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    page = f"{index.rstrip('/')}/{canonicalize_name(name)}/"
    missing = f"{public_url(index)} has no package {name!r}; check the name"
    releases: dict[Version, list[tuple[bool, int, _Archive]]] = {}
    yanked = set()
    for file, url, digest, size, is_yanked in _files(page, get(page, 50_000_000, _SIMPLE, missing)):
        is_wheel = file.endswith(".whl")
        try:
            release = parse_wheel_filename(file)[1] if is_wheel else parse_sdist_filename(file)[1]
        except ValueError:  # an egg, an installer
            continue
        archive = _Archive(name, str(release), file, url, "sha256" if digest else "", digest)
        releases.setdefault(release, []).append((is_wheel, size, archive))
        if is_yanked:
            yanked.add(release)
    try:
        wanted = Version(version) if version else None
    except InvalidVersion:
        raise DocumentError(f"{spec}: {version!r} is no version; give one such as 2.1.0") from None
    stable = [release for release in releases if not release.is_prerelease and release not in yanked]
    newest = sorted(stable or releases)
    if not newest or wanted and wanted not in releases:
        known = f"the newest are {', '.join(map(str, newest[:-6:-1]))}" if newest else "it has no files to read"
        raise DocumentError(f"{spec}: {public_url(index)} has no such version of the package; {known}")
    return min(releases[wanted or newest[-1]])[2]


def _files(page: str, data: bytes) -> Iterator[tuple[str, str, str, int, bool]]:
    """The name, address, SHA-256, size and withdrawal of each file on a page of an index (PEP 503 and 691)."""
    if data.lstrip().startswith(b"{"):
        for entry in json.loads(data)["files"]:
            digest = entry.get("hashes", {}).get("sha256", "")
            url = urljoin(page, entry["url"])
            yield entry["filename"], url, digest, entry.get("size") or 0, bool(entry.get("yanked"))
        return
    for link in re.findall(rb"<a\s[^>]{0,5000}>", data):
        if match := re.search(r'href="([^"#]+)(?:#sha256=([0-9a-f]{64}))?', link.decode(errors="replace")):
            url = urljoin(page, match[1])
            yield url.rpartition("/")[2], url, match[2] or "", 0, b"data-yanked" in link


def _npm_archive(spec: str, name: str, version: str, index: str, get: Callable[..., bytes]) -> _Archive:
    what = f"version {version} of the package" if version else "package"
    missing = f"{public_url(index)} has no {what} {name!r}; check the name"
    page = f"{index.rstrip('/')}/{quote(name, safe='@')}/{version or 'latest'}"
    record = json.loads(get(page, 5_000_000, missing=missing))
    try:
        dist, version = record["dist"], record["version"]
        algorithm, _, encoded = dist.get("integrity", "").split()[0].partition("-")
        return _Archive(
            f"npm/{name}", version, f"{version}.tgz", dist["tarball"], algorithm, base64.b64decode(encoded).hex()
        )
    except (KeyError, TypeError, IndexError, ValueError):
        raise DocumentError(f"{spec}: the registry's answer names no archive; try again later") from None


def _pip_index() -> str:
    """The index that pip is configured to use."""
    if index := os.environ.get("PIP_INDEX_URL"):
        return index
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    try:
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return PYPI
    return shown.stdout.strip() or PYPI
