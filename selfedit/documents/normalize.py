"""Bytes → text in one normal form, by the rules of the web.

A byte-order mark decides the encoding, then a declared label by the table of the WHATWG (`latin-1` means windows-1252),
then UTF-8 if the bytes are valid, then what `charset-normalizer` takes for the likeliest. Text that decodes to control
characters is refused.
"""

from __future__ import annotations

import re
import unicodedata

import webencodings
from charset_normalizer import from_bytes

from selfedit.errors import DocumentError

_META = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]+)""", re.I
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]"
)
_JOINERS = re.compile("(?<![\u0600-\u1cff\ua800-\uabff])[\u200c\u200d]|[\u200c\u200d](?![\u0600-\u1cff\ua800-\uabff])")
"""Zero-width joiners outside the scripts of Asia in which they change a word."""
_LIGATURES = re.compile("[\ufb00-\ufb06]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]")
_MAX_BAD = 0.01
"""Share of characters that may be replacement or control characters in a readable text."""


def decode(data: bytes, label: str | None = None) -> str:
    """Decodes text or HTML. Raises DocumentError without a source."""
    if encoding := _encoding_of_utf(data):
        return _checked(data.decode(encoding, "replace"), encoding)
    if b"\0" in data:
        raise DocumentError("a binary file (it has NUL bytes); save it as text")
    start = data[:4096].lstrip()
    match = _META.search(start) if start.startswith(b"<") else None  # other text may quote a declaration
    labels = [label, next(filter(None, match.groups()), b"").decode("ascii", "replace") if match else None]
    for name in filter(None, labels):
        known = webencodings.lookup(name)
        if known is None or known.name.startswith("utf-16"):  # a page that can be read as ASCII is not UTF-16
            continue
        try:
            return _checked(known.codec_info.decode(data, "strict")[0], known.name)
        except UnicodeError:
            pass
    try:
        return _checked(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        best = from_bytes(data[:100_000]).best()
        encoding = best.encoding if best and len(data) > 200 else "windows-1252"
        return _checked(data.decode(encoding, "replace"), encoding)


def normal_form(text: str) -> str:
    """Unix newlines without white space before them, and characters in one form (`clean_characters`)."""
    text = re.sub("\r\n?|[\x0b\x0c\u2028\u2029]", "\n", text)
    return "\n".join(line.rstrip() for line in clean_characters(text).split("\n")).strip("\n")


def clean_characters(text: str) -> str:
    """NFC without ligatures, control characters, soft hyphens and other invisible characters; plain spaces."""
    if not text.isascii():
        text = _JOINERS.sub("", _INVISIBLE.sub("", text))
        text = _LIGATURES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
        text = unicodedata.normalize("NFC", text).replace("\xa0", " ").replace("\u202f", " ")
    return _CONTROLS.sub("", text)


def _encoding_of_utf(data: bytes) -> str:
    """The encoding that a byte-order mark or the zero bytes of Latin letters give away."""
    marks = {
        b"\xef\xbb\xbf": "utf-8-sig",
        b"\xff\xfe\0\0": "utf-32",
        b"\0\0\xfe\xff": "utf-32",
        b"\xff\xfe": "utf-16",
        b"\xfe\xff": "utf-16",
    }
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return encoding
    sample = data[:2000]
    zeros = [sum(byte == 0 for byte in sample[i::4]) / max(1, len(sample[i::4])) for i in range(4)]
    shapes = {
        "utf-32-le": (0, 1, 1, 1),
        "utf-32-be": (1, 1, 1, 0),
        "utf-16-le": (0, 1, 0, 1),
        "utf-16-be": (1, 0, 1, 0),
    }
    for encoding, shape in shapes.items():
        if all(share > 0.5 if zero else share < 0.05 for share, zero in zip(zeros, shape)):
            return encoding
    return ""


def _checked(text: str, encoding: str) -> str:
    bad = len(_CONTROLS.findall(text)) + text.count("\ufffd")
    if bad > _MAX_BAD * len(text):
        raise DocumentError(
            f"not readable as text ({bad} of {len(text)} characters are no letters when read as {encoding}); "
            "save it as UTF-8 text"
        )
    return text.removeprefix("\ufeff")
