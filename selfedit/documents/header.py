"""The header of a document → facts.

Headers are the front matter of Markdown, the header lines of a PEP or a mail, and the metadata of an office document or
a web page. Technical fields (layout, tags, content type) state nothing about the subject and are left out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from email.utils import parsedate_to_datetime

import yaml

from selfedit.documents.records import Block
from selfedit.types import Unit

_VERBS = {
    **dict.fromkeys(("author", "authors", "creator", "by"), "was written by {}"),
    **dict.fromkeys(("date", "dcterms.date", "dc.date"), "is dated {}"),
    **dict.fromkeys(("created", "created_at"), "was created on {}"),
    **dict.fromkeys(("published", "published_at", "article:published_time", "pubdate"), "was published on {}"),
    **dict.fromkeys(
        ("updated", "updated_at", "modified", "lastmod", "last_updated", "last-modified", "article:modified_time"),
        "was last changed on {}",
    ),
    "from": "was sent by {}",
    "to": "was sent to {}",
    "cc": "was also sent to {}",
    "attachments": "has the attachments {}",
}
_NAMES = frozenset(
    {*_VERBS, "version", "status", "license", "subtitle", "summary", "category", "pep", "title", "subject"}
)
"""Fields of front matter and web pages that are facts; header lines may state any other fact too."""
_TECHNICAL = frozenset(
    "content-type content-transfer-encoding mime-version message-id received return-path dkim-signature reply-to "
    "references in-reply-to user-agent post-history vim title pep subject".split()
)
_LINE = re.compile(r"([A-Z][A-Za-z]*(?:[- ][A-Z]?[A-Za-z]+){0,2}):[ \t]+(\S.*)|[ \t]+(\S.*)|([A-Z][A-Za-z-]*):[ \t]*")


def front_matter(text: str) -> tuple[dict[str, object], str]:
    """The fields of a YAML or TOML block at the start of a text, and the text after it."""
    match = re.match(r"(---|\+\+\+)[ \t]*\n(.*?)^(?:\1|\.\.\.)[ \t]*$\n?", text, re.DOTALL | re.MULTILINE)
    if not match:
        return {}, text
    try:
        fields = tomllib.loads(match[2]) if match[1] == "+++" else yaml.load(match[2], yaml.CSafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError, OverflowError):
        fields = dict(re.findall(r"^(\w+):[ \t]*(.+)", match[2], re.MULTILINE))
    if not isinstance(fields, dict):  # between two rules, and no front matter
        return {}, text
    return known(fields), text[match.end() :]


def known(fields: Mapping[object, object]) -> dict[str, object]:
    """The fields that are facts about any document."""
    return {str(name).lower(): value for name, value in fields.items() if str(name).lower() in _NAMES}


def header_lines(text: str) -> tuple[dict[str, object], str]:
    """The fields of two or more lines "Name: value" at the start of a text, and the text after them."""
    head, _, rest = text.partition("\n\n")
    fields: dict[str, str] = {}
    name = ""
    for line in head.split("\n"):
        match = _LINE.fullmatch(line)
        if not match or (match[3] and not name):
            return {}, text
        if match[3]:
            fields[name] = f"{fields[name]} {match[3]}".strip()
        else:
            name = match[1] or match[4]
            fields[name] = match[2] or ""
    if len(fields) < 2 or not {name.lower() for name in fields} & _NAMES:
        return {}, text
    return dict(fields), rest


def docinfo(rst: str) -> tuple[dict[str, object], str]:
    """The field list under the title of a document in reStructuredText, and the text without it."""
    match = re.search(r"\A(?:(?!:).*\n){0,5}^((?::[A-Z][\w -]*:.*\n(?:[ \t]+\S.*\n)*)+)", rst, re.MULTILINE)
    if not match:
        return {}, rst
    fields = re.findall(r"^:([^:\n]+):[ \t]*(.*\n(?:[ \t]+\S.*\n)*)", match[1], re.MULTILINE)
    return dict(fields), rst[: match.start(1)] + rst[match.end(1) :]


def title_of(fields: Mapping[str, object]) -> str:
    names = {name.lower(): _text(value) for name, value in fields.items()}
    title = names.get("title") or names.get("subject") or ""
    return f"PEP {names['pep']} – {title}".removesuffix(" – ") if "pep" in names else title


def facts(subject: str, fields: Mapping[str, object]) -> Iterator[Block]:
    """One block with a sentence for each field that states something."""
    subject = re.sub(r"^(PEP \d+) – .*", r"\1", subject)
    sentences = []
    for name, value in fields.items():
        text = _text(value)
        if name.lower() in _TECHNICAL or not text or "$" in text:
            continue
        verb = _VERBS.get(name.lower())
        label = name if name.isupper() else name.capitalize()
        sentence = f"{subject} {verb.format(text)}" if verb else f"{label} of {subject}: {text}"
        sentences.append(sentence.rstrip(".") + ".")
    sentences = list(dict.fromkeys(sentences))
    if sentences:
        parts = tuple(f"{sentence}\n" for sentence in sentences)
        yield Block(parts, tuple(Unit("field", sentence) for sentence in sentences))


def _text(value: object, depth: int = 0) -> str:
    """A value as a person writes it: a list with commas, a date as 2 April 2031. YAML may nest lists without end."""
    if isinstance(value, (list, Mapping)) and depth > 1:
        return ""
    if isinstance(value, Mapping):
        return _text(value.get("name") or list(value.values()), depth + 1)
    if isinstance(value, list):
        return ", ".join(filter(None, (_text(item, depth + 1) for item in value[:100])))
    if isinstance(value, (date, datetime)):
        return _date(value)
    text = " ".join(str("" if value is None else value).split())
    for read in (
        date.fromisoformat,
        datetime.fromisoformat,
        lambda text: datetime.strptime(text, "%d-%b-%Y").date(),
        parsedate_to_datetime,
    ):
        try:
            return _date(read(text)) if 8 <= len(text) <= 40 else text
        except (ValueError, TypeError, IndexError, OverflowError):
            pass
    return text


def _date(value: date) -> str:
    day = f"{value.day} {value:%B} {value.year}"
    is_midnight = not isinstance(value, datetime) or (value.hour, value.minute) == (0, 0)
    return day if is_midnight else f"{day}, {value:%H:%M}"
