"""Versions of libraries: what a memory is about (`Library`), and what a question is about (`Wanted`).

A tag is a range of versions, a question is a point; a memory may answer if its range contains the point. Versions are
compared by their release numbers only: 2.0rc1, 2.0.post1 and 2.0+local count as 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from selfedit.errors import LibraryError

PACKAGE = "package:"
"""Begins the source of a document that lies in a package."""
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
            raise LibraryError(f"{quoted(self.name + self.specifier)} contains no version; {_ADVICE}")

    @staticmethod
    def parse(text: str) -> Library:
        """`polars@2.0` stands for 2.0 and all later versions before the next major one (of 0.x: the next minor one).

        Raises LibraryError.
        """
        name, rest = _divided(text)
        return Library(name, _from(parse_version(rest[1:], text)) if rest.startswith("@") else rest)

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
    def lowest_allowed(self) -> str:
        """The first version of the range in short: 2.0; empty where the range begins behind a version or nowhere."""
        return _shown(self.lowest) if self.lowest and _INFINITE not in self.lowest.release else ""

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
            raise LibraryError(f"{quoted(text)} is no single version; write {name}@2 or {name}==2.1.0")
        version = parse_version(rest.removeprefix(sign), text).base_version if sign else ""
        return Wanted(name, version if sign == "@" or not sign else f"=={version}")

    def __str__(self) -> str:
        return (
            f"{self.name}{self.version}" if self.version.startswith("==") else f"{self.name}@{self.version}".strip("@")
        )

    @property
    def point(self) -> Version:
        """Its version; numbers that are not given count as infinite in a version of one or two numbers."""
        version = parse_version(self.version.removeprefix("=="), str(self))
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
        raise LibraryError(f"{quoted(name)} is no name of a library; {_ADVICE}") from None


def _divided(text: str) -> tuple[str, str]:
    """The name, and what is written behind it."""
    match = _WRITTEN.fullmatch(text)
    rest = match["range"].strip() if match else ""
    if not match or rest and rest[0] not in "@=<>!~":
        raise LibraryError(f"{quoted(text)} is no library with a version; {_ADVICE}")
    return canonical_name(match["name"]), rest


def quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def parse_version(text: str, whole: str) -> Version:
    """Without what is behind the release numbers. Of npm's and other spellings, the numbers at the beginning count."""
    text = text.strip()
    try:
        return Version(Version(text[:100]).base_version)
    except InvalidVersion:
        if match := re.match(r"v?(\d{1,9}(?:\.\d{1,9}){0,5})(?=[-+.]|$)", text):
            return Version(match[1])
    raise LibraryError(f"{quoted(whole)} names no version; {_ADVICE}")


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
        raise LibraryError(f"{quoted(whole)} is no library with a range of versions; {_ADVICE}") from None
    return ",".join(sign + text for sign, text in sorted(parts, key=lambda part: (_ORDER.index(part[0]), part[1])))


def _parts(spec: Specifier, whole: str) -> Iterator[tuple[str, str]]:
    wildcard = spec.version.endswith(".*")
    version = parse_version(spec.version.removesuffix(".*"), whole)
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
