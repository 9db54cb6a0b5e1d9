"""Versions of libraries: what a memory is about (`Library`), what a question is about (`Wanted`), and lock files.

A tag is a range of versions, a question is a point; a memory may answer if its range contains the point. Versions are
compared by their release numbers only: 2.0rc1, 2.0.post1 and 2.0+local count as 2.0.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from selfedit.errors import LibraryError

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
NPM = "npm/"
MAX_NAME = 214
"""Of npm; PyPI has none as long."""
_INFINITE = 10**9
"""Greater than any number in a version."""
_NAME = r"(?:npm/(?:@[\w.-]+/)?)?[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_WRITTEN = re.compile(rf"\s*(?P<name>{_NAME})\s*(?:\[[\w,\s.-]*\])?\s*(?P<range>.*)", re.ASCII | re.DOTALL)
_ADVICE = "write polars, polars@2.0, polars==2.0.1 or 'polars>=2,<3'"
_ORDER = (">=", ">", "==", "<", "<=", "!=")


@dataclass(frozen=True)
class Library:
    """The tag of a memory: a library, and the versions of it that the text describes."""

    name: str
    """As PEP 503 spells it, or npm/NAME."""
    specifier: str = ""
    """The versions, as PEP 440 writes a range; empty: every version."""

    def __post_init__(self):
        object.__setattr__(self, "specifier", _written(self.specifier, f"{self.name}{self.specifier}"))
        bounds = any(spec.operator != "!=" for spec in SpecifierSet(self.specifier))
        if bounds and self.lowest is None:
            raise LibraryError(f"{_quoted(self.name + self.specifier)} contains no version; {_ADVICE}")

    @staticmethod
    def parse(text: str) -> Library:
        """`polars@2.0` stands for 2.0 and all later versions before the next major one (of 0.x: the next minor one).

        Raises LibraryError.
        """
        name, rest = _divided(text)
        return Library(name, _from(_version(rest[1:], text)) if rest.startswith("@") else rest)

    def __str__(self) -> str:
        """The shortest text that `parse` reads as this tag."""
        first = self.lowest
        if first and _written(_from(first), "") == self.specifier:
            return f"{self.name}@{_shown(first)}"
        return self.name + self.specifier

    @cached_property
    def lowest(self) -> Version | None:
        """The first version of the range, by which it is named; the last one of a range without a beginning. None: any
        version."""
        points = [point for spec in SpecifierSet(self.specifier) for point in _points(spec)]
        return min((point for point in points if self._contains(point)), default=None)

    @property
    def first(self) -> Wanted:
        """The first version of the range, as what a question is about; without one where the range has no first."""
        version = _shown(self.lowest) if self.lowest else ""
        series = Wanted(self.name, version)
        return series if applies(self, series) else Wanted(self.name, f"=={version}")

    def _contains(self, point: Version) -> bool:
        return SpecifierSet(self.specifier).contains(point, prereleases=True)


@dataclass(frozen=True)
class Wanted:
    """What a question is about: one version of a library."""

    name: str
    version: str = ""
    """`1`: the newest 1.x; `2.1`: the newest 2.1.x; `2.1.0`, `==2.1`: exactly this one; empty: no version is named."""

    @staticmethod
    def parse(text: str) -> Wanted:
        """`polars`, `polars@1`, `polars@2.1` or `polars==2.1.0`. Raises LibraryError."""
        name, rest = _divided(text)
        sign = next((sign for sign in ("@", "==") if rest.startswith(sign)), "")
        if rest and not sign:
            raise LibraryError(f"{_quoted(text)} is no single version; write {name}@2 or {name}==2.1.0")
        version = _version(rest.removeprefix(sign), text).base_version if sign else ""
        return Wanted(name, version if sign == "@" or not sign else f"=={version}")

    def __str__(self) -> str:
        return (
            f"{self.name}{self.version}" if self.version.startswith("==") else f"{self.name}@{self.version}".strip("@")
        )

    @property
    def point(self) -> Version:
        """Its version; numbers that are not given count as infinite in a version of one or two numbers."""
        version = _version(self.version.removeprefix("=="), str(self))
        if self.version.startswith("==") or len(version.release) > 2:
            return version
        return _version_of(version.epoch, *version.release, *[_INFINITE] * (3 - len(version.release)))


def applies(tag: Library | str, wanted: Wanted) -> bool:
    """Whether a memory with this tag may answer a question about this version; of no version, every tag may."""
    return _applies(Library.parse(tag) if isinstance(tag, str) else tag, wanted)


@lru_cache(maxsize=10_000)
def _applies(tag: Library, wanted: Wanted) -> bool:
    if tag.name != wanted.name:
        return False
    if not wanted.version or tag._contains(wanted.point):
        return True
    named = Version(wanted.version.removeprefix("=="))  # "2.0" names the version of the tag ==2.0
    exact = (Version(spec.version) for spec in SpecifierSet(tag.specifier) if spec.operator == "==")
    return any(version.release == named.release and tag._contains(version) for version in exact)


def newest(name: str, tags: Iterable[Library]) -> Wanted:
    """The newest version of a library that any of the tags names."""
    known = max((tag.lowest for tag in tags if tag.name == name and tag.lowest), default=None)
    return Wanted(name, f"=={_shown(known)}" if known else "")


def mentioned(text: str, tags: Iterable[Library]) -> list[Wanted]:
    """The libraries of these tags that a text names together with a version: "Polars 2", "pydantic v2.1".

    Of several versions of a library the newest counts, because a change from one to another is described there. A whole
    number far above the known versions is a count: "polars 20 rows".
    """
    found = []
    for name, of_name in _by_name(tags).items():
        versions = [Version(match[1]) for match in _with_version(name).finditer(text)]
        known = max((tag.lowest.major for tag in of_name if tag.lowest), default=0) if versions else 0
        if versions := [v for v in versions if len(v.release) > 1 or v.major <= known + 1]:
            found.append(Wanted(name, str(max(versions))))
    return found


@lru_cache(maxsize=1000)
def _with_version(name: str) -> re.Pattern[str]:
    """Matches a library in a text with a version behind it."""
    spelled = r"[-_.\s]?".join(map(re.escape, re.split(r"[-_.]", name.removeprefix(NPM))))
    sign = r"(?:\s+(?:version\s+|release\s+|v)?|@|==\s*)v?"
    version = r"(\d{1,9}(?:\.\d{1,9}){0,3})(?:\.x)?(?![\w%]|[.,]\d)"
    return re.compile(rf"(?<![\w.-]){spelled}{sign}{version}", re.IGNORECASE)


def _by_name(tags: Iterable[Library]) -> dict[str, list[Library]]:
    grouped: dict[str, list[Library]] = {}
    for tag in tags:
        grouped.setdefault(tag.name, []).append(tag)
    return grouped


@dataclass(frozen=True)
class Scope:
    """What says which versions a question is about, in this order; else it is about the newest known ones."""

    wanted: Wanted | None = None
    text: str = ""
    """The question, which may name versions."""
    project: Mapping[str, str] = field(default_factory=dict)
    """The versions that a lock file pins."""

    @staticmethod
    def of(tag: str) -> Scope:
        """What a text with this tag is about."""
        return Scope(Library.parse(tag).first if tag else None)

    def versions(self, tags: Collection[Library]) -> dict[str, Wanted]:
        """The version of each library that has a tag."""
        chosen = {name: newest(name, of_name) for name, of_name in _by_name(tags).items()}
        chosen |= {name: Wanted(name, self.project[name]) for name in chosen.keys() & self.project.keys()}
        return chosen | {named.name: named for named in self.named(tags) if named.version and named.name in chosen}

    def named(self, tags: Collection[Library]) -> list[Wanted]:
        """What the caller or the text of the question names, the caller last."""
        return [*mentioned(self.text, tags), *filter(None, [self.wanted])]

    def hidden(self, tags: Collection[Library]) -> list[Library]:
        """The tags of memories that must not answer."""
        versions = self.versions(tags)
        return [tag for tag in tags if not applies(tag, versions[tag.name])]

    def unknown(self, tags: Collection[Library]) -> list[str]:
        """Which of the named versions no tag describes, in words."""
        notes = []
        for wanted in {wanted.name: wanted for wanted in self.named(tags)}.values():
            of_library = [tag for tag in tags if tag.name == wanted.name]
            if not of_library:
                notes.append(f"nothing known is about {wanted}; `selfedit learn --for {wanted}` tags what you learn")
            elif not any(applies(tag, wanted) for tag in of_library):
                names = ", ".join(sorted({described(tag) for tag in of_library}))
                notes.append(f"only {names} is known; nothing is known of {described(wanted)}")
        return notes


def described(version: Library | Wanted) -> str:
    """For people: polars 2.0."""
    return re.sub(r"@|==", " ", str(version))


def canonical_name(name: str) -> str:
    """Raises LibraryError."""
    try:
        if len(name) > MAX_NAME:
            raise InvalidName
        return name.lower() if name.startswith(NPM) else canonicalize_name(name, validate=True)
    except InvalidName:
        raise LibraryError(f"{_quoted(name)} is no name of a library; {_ADVICE}") from None


def _divided(text: str) -> tuple[str, str]:
    """The name, and what is written behind it."""
    match = _WRITTEN.fullmatch(text)
    rest = match["range"].strip() if match else ""
    if not match or rest and rest[0] not in "@=<>!~":
        raise LibraryError(f"{_quoted(text)} is no library with a version; {_ADVICE}")
    return canonical_name(match["name"]), rest


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _version(text: str, whole: str) -> Version:
    """Without what is behind the release numbers. Of npm's and other spellings, the numbers at the beginning count."""
    text = text.strip()
    try:
        return Version(Version(text[:100]).base_version)
    except InvalidVersion:
        if match := re.match(r"v?(\d{1,9}(?:\.\d{1,9}){0,5})(?=[-+.]|$)", text):
            return Version(match[1])
    raise LibraryError(f"{_quoted(whole)} names no version; {_ADVICE}")


def _version_of(epoch: int, *release: int) -> Version:
    return Version(f"{epoch}!" + ".".join(map(str, release)))


def _shown(version: Version) -> str:
    """With two numbers at least, and without zeros behind them."""
    release = list(version.release)
    while len(release) > 2 and not release[-1]:
        release.pop()
    return str(_version_of(version.epoch, *release, *[0] * (2 - len(release))))


def _from(version: Version) -> str:
    """From this version to the next major one; of 0.x, to the next minor one."""
    release = version.release
    fixed = 2 if release[0] == 0 and len(release) > 1 else 1
    after = _version_of(version.epoch, *release[: fixed - 1], release[fixed - 1] + 1)
    return f">={version},<{after}"


def _written(specifier: str, whole: str) -> str:
    """The range in one spelling: by release numbers, without ~= and trailing zeros, in a fixed order."""
    try:
        parts = {part for spec in SpecifierSet(specifier) for part in _parts(spec, whole)}
    except (InvalidSpecifier, InvalidVersion):
        raise LibraryError(f"{_quoted(whole)} is no library with a range of versions; {_ADVICE}") from None
    return ",".join(sign + text for sign, text in sorted(parts, key=lambda part: (_ORDER.index(part[0]), part[1])))


def _parts(spec: Specifier, whole: str) -> Iterator[tuple[str, str]]:
    wildcard = spec.version.endswith(".*")
    version = _version(spec.version.removesuffix(".*"), whole)
    release = version.release
    if spec.operator == "~=" or (spec.operator == "==" and wildcard):
        fixed = release if wildcard else release[:-1]
        yield ">=", _shown(version)
        yield "<", str(_version_of(version.epoch, *fixed[:-1], fixed[-1] + 1))
    elif spec.operator in ("==", "===", "!="):
        yield spec.operator[:2], f"{version}{'.*' if wildcard else ''}"
    else:
        yield spec.operator, _shown(version) if spec.operator == ">=" else str(version)


def _points(spec: Specifier) -> Iterator[Version]:
    """Versions at the ends of a part of a range."""
    version = Version(spec.version.removesuffix(".*"))
    if spec.operator in (">=", "==", "<="):
        yield version
    elif spec.operator == ">":
        yield _version_of(version.epoch, *version.release, _INFINITE)
    elif spec.operator == "<":
        release = list(version.release)
        while release and not release[-1]:
            release.pop()
        if release:
            yield _version_of(version.epoch, *release[:-1], release[-1] - 1, _INFINITE)


# Lock files


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
            _version(version, version)
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
    for name, value in content.get("tool", {}).get("poetry", {}).get("dependencies", {}).items():
        value = value.get("version", "") if isinstance(value, dict) else value
        if isinstance(value, str) and name != "python" and (match := re.search(r"\d[\w.+!-]*", value)):
            pins.append((canonical_name(name), match[0]))
    return _highest(pins)


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
        if name not in found or _version(version, version) > _version(found[name], version):
            found[name] = version
    return found


def _pin(line: str, place: object) -> Iterator[tuple[str, str]]:
    """The library of a requirement and its version, if it names one and is for this Python and system."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = " ".join(str(error).split())
        raise LibraryError(f"{place}: {_quoted(line)} is no requirement ({reason[:200]}); correct it") from None
    name = canonicalize_name(requirement.name)
    if _is_true(requirement.marker):
        exact = [spec.version for spec in requirement.specifier if spec.operator in ("==", "===")]
        plain = [version for version in exact if not version.endswith(".*") and re.match(r"\d", version)]
        if plain:
            yield name, plain[0]
        elif lowest := Library(name, _written(str(requirement.specifier), line)).lowest:
            if _INFINITE not in lowest.release:
                yield name, _shown(lowest)


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
