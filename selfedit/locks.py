"""Lock files → which version of each library a project uses.

uv.lock, poetry.lock, pylock.toml, Pipfile.lock, package-lock.json, files of requirements, and pyproject.toml, of whose
requirements the lowest version counts.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from selfedit.errors import LibraryError
from selfedit.libraries import NPM, Library, canonical_name, parse_version, quoted

LOCK_FILES = (
    "uv.lock",
    "poetry.lock",
    "pylock.toml",
    "Pipfile.lock",
    "requirements.txt",
    "package-lock.json",
    "pyproject.toml",
)
"""The first of these in a folder says which versions its project uses."""
MAX_LOCK_BYTES = 20_000_000
MAX_INCLUDED = 50
"""Requirements files that one may include, directly or not."""
_PEP_440 = {"": "==", "=": "==", "<>": "!=", "^": ">=", "~": ">="}
"""Operators of Poetry that PEP 440 lacks → those with the same lowest version."""


def find_lock(place: Path) -> Path | None:
    """The file itself, or the lock file of a folder; None if it has none. Raises LibraryError if nothing is there."""
    try:
        if place.is_dir():
            return next((place / name for name in LOCK_FILES if (place / name).is_file()), None)
        if place.is_file():
            return place
    except (OSError, ValueError):
        pass
    raise LibraryError(f"{place}: no such file or folder; name a lock file ({', '.join(LOCK_FILES)}) or its folder")


def read_lock(path: Path) -> dict[str, str]:
    """The version of each library that a lock file or a file of requirements pins; of a requirement without a pin, the
    lowest version that it allows. Names are canonical, those of npm begin with `npm/`; what names no version, as the
    address of a repository, is left out. Raises LibraryError."""
    pins = {}
    for name, version in _pins(path).items():
        with suppress(LibraryError):
            parse_version(version, version)
            pins[canonical_name(name)] = version
    return pins


def _pins(path: Path) -> dict[str, str]:
    text = _text(path)
    try:
        if text.lstrip().startswith("{"):
            return _json_pins(json.loads(text), path)
        if path.suffix in (".toml", ".lock"):
            return _toml_pins(tomllib.loads(text), path)
    except LibraryError:
        raise
    except (PylockValidationError, PylockUnsupportedVersionError) as error:
        raise LibraryError(f"{path}: not a valid pylock file ({str(error)[:200]}); lock again") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is built in another way"
        reason = " ".join(reason.split())[:200]
        raise LibraryError(f"{path}: damaged, or no lock file that is known ({reason}); lock again") from None
    return _highest(_requirements(path, text, {path.resolve()}))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOCK_BYTES + 1)
        if len(data) > MAX_LOCK_BYTES:
            raise LibraryError(f"{path}: over the limit of {MAX_LOCK_BYTES / 1e6:g} MB; name another lock file")
        return data.decode("utf-8-sig")
    except UnicodeError:
        raise LibraryError(f"{path}: not UTF-8 text; name a lock file or a file of requirements") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LibraryError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None


def _json_pins(content: dict, path: Path) -> dict[str, str]:
    """Pipfile.lock, package-lock.json."""
    if "lockfileVersion" in content:
        found = {}
        packages = content.get("packages") or {f"node_modules/{k}": v for k, v in content["dependencies"].items()}
        for place, package in packages.items():
            name = place.removeprefix("node_modules/")
            if place.startswith("node_modules/") and "/node_modules/" not in name and package.get("version"):
                found[f"{NPM}{name.lower()}"] = str(package["version"])
        return found
    if "_meta" in content:
        sections = [content.get(name) or {} for name in ("develop", "default")]
        packages = {name: package for section in sections for name, package in section.items()}
        lines = [
            f"{name} {p['version']}; {p.get('markers') or ''}".rstrip("; ")
            for name, p in packages.items()
            if "version" in p
        ]
        return _highest(pin for line in lines for pin in _pin(line, path))
    raise LibraryError(f"{path}: neither a package-lock.json nor a Pipfile.lock; name one of {', '.join(LOCK_FILES)}")


def _toml_pins(content: dict, path: Path) -> dict[str, str]:
    """pylock.toml (PEP 751), uv.lock, poetry.lock, pyproject.toml."""
    if "lock-version" in content:
        locked = Pylock.from_dict(content).packages
        return _highest((p.name, str(p.version)) for p in locked if p.version and _is_true(p.marker))
    if "package" in content:
        own = ("editable", "virtual", "directory", "path")
        packages = [p for p in content["package"] if "version" in p and not set(own) & {*p.get("source", ())}]
        return _highest((canonical_name(p["name"]), str(p["version"])) for p in packages if _holds(p))
    project, groups = content.get("project", {}), content.get("dependency-groups", {})
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values(), *groups.values()]
    pins = [pin for some in lists for line in some if isinstance(line, str) for pin in _pin(line, path)]
    pins += _poetry_pins(content.get("tool", {}).get("poetry", {}), path)
    return _highest(pins)


def _poetry_pins(poetry: Mapping, path: Path) -> Iterator[tuple[str, str]]:
    """The requirements of all groups in the table of Poetry in pyproject.toml."""
    groups = [poetry, *poetry.get("group", {}).values()]
    for table in [poetry.get("dev-dependencies", {}), *(group.get("dependencies", {}) for group in groups)]:
        for name, value in table.items():
            value = value.get("version", "") if isinstance(value, dict) else value
            if isinstance(value, str) and name != "python":
                yield from _poetry_pin(name, value, path)


def _poetry_pin(name: str, value: str, path: Path) -> Iterator[tuple[str, str]]:
    """The lowest version that a requirement allows; of alternatives, the first counts."""
    bounds = re.findall(r"([\^~<>=!]*)\s*v?(\d[\w.+!*-]*)", value.partition("|")[0])
    if any(sign not in ("", "^", "~") or "*" in version for sign, version in bounds):
        yield from _pin(name + ",".join(_PEP_440.get(sign, sign) + version for sign, version in bounds), path)
    elif bounds:
        yield canonical_name(name), bounds[0][1]


def _holds(package: Mapping) -> bool:
    """Whether a package of uv.lock or poetry.lock is for this Python and system."""
    markers = package.get("resolution-markers") or package.get("markers") or []
    lines = [markers] if isinstance(markers, str) else markers if isinstance(markers, list) else []
    return not lines or any(_is_true(Marker(line)) for line in lines)


def _is_true(marker: Marker | None) -> bool:
    """Whether a marker holds for this Python and system; those of extras and groups always do."""
    try:
        return marker is None or marker.evaluate({"extra": ""}) or "extra" in str(marker)
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True


def _highest(pins: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Where a library is pinned several times, for several systems, the newest version counts."""
    found: dict[str, str] = {}
    for name, version in pins:
        if name not in found or parse_version(version, version) > parse_version(found[name], version):
            found[name] = version
    return found


def _pin(line: str, place: object) -> Iterator[tuple[str, str]]:
    """The library of a requirement and its version, if it names one and is for this Python and system."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = " ".join(str(error).split())
        raise LibraryError(f"{place}: {quoted(line)} is no requirement ({reason[:200]}); correct it") from None
    name = canonicalize_name(requirement.name)
    if _is_true(requirement.marker):
        exact = [spec.version for spec in requirement.specifier if spec.operator in ("==", "===")]
        plain = [version for version in exact if not version.endswith(".*") and re.match(r"\d", version)]
        if plain:
            yield name, plain[0]
        else:  # without excluded versions: >=1.2,!=1.2 begins at a version that has no number
            bounds = ",".join(str(spec) for spec in requirement.specifier if spec.operator != "!=")
            if lowest := Library(name, bounds).lowest_allowed:
                yield name, lowest


def _requirements(path: Path, text: str, seen: set[Path]) -> Iterator[tuple[str, str]]:
    """The pins of a file of requirements as pip reads it, and of those that it includes."""
    lines = re.sub(r"\\\r?\n", " ", text).splitlines()
    for number, line in enumerate(lines, 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        line = re.split(r"\s--(?:hash|config-settings|global-option)\b", line)[0].strip()
        option = re.match(r"(?:-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc]))(.+)", line)
        if option and "://" not in option[1]:
            included = (path.parent / option[1].strip("\"'")).resolve()
            if included in seen:
                continue
            seen.add(included)
            if len(seen) > MAX_INCLUDED:
                raise LibraryError(f"{path}: includes more than {MAX_INCLUDED} files; name one of them")
            yield from _requirements(included, _text(included), seen)
        elif line and not line.startswith("-") and not _is_place(line):
            yield from _pin(line, f"{path}, line {number}")


def _is_place(line: str) -> bool:
    """Whether it is a path or an address, of which no version is known."""
    return bool(re.match(r"[./~]|[\w+]+://", line)) or (
        line.endswith((".whl", ".tar.gz", ".zip")) and " @ " not in line
    )
