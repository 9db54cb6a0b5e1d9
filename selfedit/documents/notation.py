"""How marks above and below the line, formulas and numbers of lists are written in plain text.

An exponent is written with `^` (10^14), which a tokenizer reads better than raised digits; m², m³ and CO₂ as such.
"""

from __future__ import annotations

import re
from functools import cache

_SUPERSCRIPTS = str.maketrans({"2": "²", "3": "³"})
_SUBSCRIPTS = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
_ROMAN = dict(zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "m cm d cd c xc l xl x ix v iv i".split()))


def superscript(base: str, text: str, is_link: bool = False) -> str:
    """What stands for `text` after `base`: an exponent with `^`, ² and ³, the end of an ordinal, or a mark [1]."""
    if text in ("TM", "SM"):
        return "™" if text == "TM" else "℠"
    if text in ("®", "©", "™", "°", "º", "ª", "′", "″"):
        return text
    if re.fullmatch(r"\[.*\]|[*†‡§¶]+", text):
        return f" {text}" if text.startswith("[") else text
    before = base[-1:]
    is_year = re.search(r"(?<!\d)(?:1[5-9]|2[01])\d\d$", base)
    is_word = re.search(r"[^\W\d_]{4,}$", base)
    if (
        is_link
        or re.fullmatch(r"\d{1,3}(?:\s*[,–-]\s*\d{1,3})*", text)
        and (not before or is_year or is_word or before in ".,;:!?”\"'")
    ):
        return f" [{text}]"
    if text.isalpha() and len(text) > 1 and before.isalnum():
        return text
    if re.fullmatch(r"[23]", text) and before.isalpha():
        return text.translate(_SUPERSCRIPTS)
    return f"^{text}" if re.fullmatch(r"[+−-]?[\w.,/]+|[+−-]", text) else f"^({text})"


def subscript(text: str) -> str:
    return (
        text.translate(_SUBSCRIPTS)
        if re.fullmatch(r"[\d+-]+", text)
        else f"_{text}"
        if text.isalnum()
        else f"_({text})"
    )


def role_text(role: str, text: str) -> str:
    """What Sphinx shows for a role: the title of a reference, the last name after `~`."""
    if match := re.fullmatch(r"(.+?)\s*<[^<>]*>", text, re.DOTALL):
        return match[1]
    if role in ("pep", "rfc"):
        return f"{role.upper()} {text}"
    return text.removeprefix("~").rpartition(".")[2] if text.startswith("~") else text.lstrip("!.")


@cache
def _tex_reader():
    from pylatexenc.latex2text import LatexNodes2Text

    return LatexNodes2Text(math_mode="text")


def plain_tex(tex: str) -> str:
    """A formula in TeX as Unicode text: `10^{14}` → 10^14, `\\frac{a}{b}` → a/b, `x^{n+1}` → x^(n+1)."""
    tex = re.sub(r"^\s*(?:\\\(|\\\[|\$+)|(?:\\\)|\\\]|\$+)\s*$", "", tex)
    tex = re.sub(r"\\displaystyle|\\[,;:!]", " ", tex)
    tex = re.sub(r"([\^_])\{([^{}\\]*[^\w{}.,\\-][^{}\\]*)\}", r"\1{(\2)}", tex)
    tex = re.sub(
        r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}",
        lambda match: "/".join(part if re.fullmatch(r"\w+", part) else f"({part})" for part in match.groups()),
        tex,
    )
    try:
        return squeezed(_tex_reader().latex_to_text(tex))
    except Exception:  # the library raises exceptions of any kind for damaged TeX
        return squeezed(tex)


def numeral(number: int, kind: str) -> str:
    if kind in "aA" and 0 < number < 27:
        return chr(ord(kind) + number - 1)
    if kind in "iI" and 0 < number < 4000:
        text = ""
        for value, letters in _ROMAN.items():
            text += letters * (number // value)
            number %= value
        return text.upper() if kind == "I" else text
    return str(number)


def squeezed(text: str) -> str:
    return " ".join(text.split())
