"""Words, stems and sentences in many languages: the one module that knows how text is written.

Text is compared in the form that `plain` gives: one encoding per character (NFKC also resolves ligatures and full-width
letters) and no invisible characters. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese have no reliable spaces
between words: there `words` returns single characters, and `terms`, which retrieval compares, runs of characters.

Libraries: `Stemmer` (Snowball) removes the endings of other languages than English, `sentencex` finds the ends of
sentences, `stopwordsiso` lists function words, by which languages in Latin letters are told apart, and `regex` knows
the properties of characters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import pairwise
from math import log

import regex
import sentencex
import Stemmer

_STEMMED = frozenset("ar ca cs da de el es et eu fi fr ga hi hu hy id it lt nl no pl pt ro ru sv ta tr".split())
"""Languages whose endings Snowball removes; for English see `_ENGLISH_ENDING`."""
_LATIN = "ca cs da de en es et eu fi fr ga hu id it lt nl no pl pt ro sv tr".split()
_SCRIPTS = {
    script: regex.compile(rf"[{characters}]")
    for script, characters in {
        "latin": r"\p{Latin}",
        "ja": r"\p{Hiragana}\p{Katakana}",
        "zh": r"\p{Han}",
        "ko": r"\p{Hangul}",
        "th": r"\p{Thai}",
        "lo": r"\p{Lao}",
        "km": r"\p{Khmer}",
        "my": r"\p{Myanmar}",
        "ru": r"\p{Cyrillic}",
        "el": r"\p{Greek}",
        "ar": r"\p{Arabic}",
        "he": r"\p{Hebrew}",
        "hi": r"\p{Devanagari}",
        "hy": r"\p{Armenian}",
        "ta": r"\p{Tamil}",
    }.items()
}
_COMPOUNDING = frozenset("da de et fi hu nl no sv".split())
"""Languages that write compounds as one word."""
_PART = 5
"""Letters of the shortest part of a compound that is a term of its own."""
_ROOT = 5
_SAMPLE = 4000
"""Characters of a text from which its language is recognized."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORDS = regex.compile(rf"(?V1)[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+|[[\p{{L}}\p{{M}}\p{{N}}]&&[{_UNSPACED}]]+")
_IS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_LENGTH_UNITS = regex.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,20}}")
_CLUSTERS = regex.compile(r"\X")
_HIRAGANA = regex.compile(r"\p{Hiragana}+")
_SOUTH_EAST = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_INVISIBLE = regex.compile(r"[\u00AD\u061C\u180E\u200B-\u200F\u202A-\u202E\u2060-\u2064\uFE00-\uFE0F\uFEFF]")
_ENGLISH_ENDING = regex.compile(r"(?<=\p{L}{3})(?:ing|ed|ies|es|e|s|y)$")
"""Snowball's English stemmer finds as many memories and lets a few more foreign questions pass (docs/LOG.md), and the
router's thresholds were fitted with these endings."""
_POSSESSIVE = regex.compile(r"['’]s\b")
_ACCENTS = regex.compile(r"[\u0300-\u036F]+")
_NOT_AN_END = regex.compile(
    r"(?:^|[\s(\"“‘])(?:Ms|Mme|Mlle|M|approx|Vol|Figs|Eqs?|Chs?|[Cc]haps?|[Ss]ects?|[Ee]ds?|Refs|Tab|App|incl|resp|Ph\.D)\.\s+$"
    r"|^\(?\w{1,3}[.):]\s+$|^[^\w\s]\s+$"
)
"""What `sentencex` takes for a sentence and is none: an abbreviation that it lacks, or the mark of a list item."""
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
CONTRACTED_NOT = regex.compile(r"n['’]t\b", regex.IGNORECASE)
_GOES_ON = regex.compile(rf"(?V1)(?<=[!-~])(?=[[\p{{L}}\p{{N}}_]--[{_UNSPACED}]])|(?<=\s)(?=(?:--+|[–—])\s+\p{{Ll}})")
"""Where a sentence does not end: before the rest of a name ("attrs.Converter"), and before a dash."""
_INLINE_CODE = regex.compile(r"(`+)[^`\n]{1,200}\1(?!`)")

# The 300 commonest words of eleven English corpora (encyclopedia, novels, questions, sums), the commonest first.
_RANKS = {
    word: rank
    for rank, word in enumerate(
        """
        the of a in to and is for on was that with it as from are what at an by be when which have one has can how they
        who do this he first or you many were where after if not did his all two into their time out there would up had
        most used new more other over but does will i about than its water some use made day been only before them make
        place between part also then year each long number get take people end she off so during much three found
        through best no last like home under while city same her could area back work go second down around high set
        another type being small called years old because large him both show now name any may using world air body way
        should game four need half find come person these times your until great right life group power different car
        light order won white play just book company line left put run given every along since known house against still
        us very school good state next help well man john main food top see together going such red system start cup
        days form states family black want following change country early based open live building south held away
        making river season ball third later without took often five my give point even side land become once needed
        money full team lost saw earth hand head those near own must night north blue rock few human outside per across
        less total makes likely war little bowl feet force united we park tree six several age service move why having
        became room largest french film began kind surface said children important plants green keep court fire public
        usually hours parts party ice king better
        """.split()
    )
}
_COMMON_WEIGHT = 0.5
"""Of the least common of the commonest English words; the commonest weighs nothing, and any other word weighs 1."""
_FUNCTION_WEIGHT = 0.2
"""Of a function word of another language, whose ranks are not known."""
_GRAM_WEIGHT = 0.5


def plain(text: str) -> str:
    """The text in one encoding per character, without soft hyphens, zero-width and direction marks."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def words(text: str) -> list[str]:
    """The words of a text as they are spelled, without a possessive 's; of unspaced scripts, the characters."""
    return [word for run in _runs(text) for word in (run if _IS_UNSPACED.match(run) else (run,))]


def _runs(text: str) -> list[str]:
    return _WORDS.findall(_POSSESSIVE.sub("", plain(text)))


@lru_cache(maxsize=100_000)
def stem(word: str, language: str = "en") -> str:
    """The word in lower case without its ending and accents; a common English word stays as it is."""
    word = word.casefold()
    if language == "en":
        word = without_accents(word)
        return word if word in _RANKS else _ENGLISH_ENDING.sub("", word)
    if language in _STEMMED:
        word = _stemmer(language).stemWord(word)
    return without_accents(word)


def root(word: str) -> str:
    """The beginning that a word shares with words derived from it (Norway, Norwegian); a number as it is."""
    return word if word[:1].isdigit() else word.casefold()[:_ROOT]


def without_accents(text: str) -> str:
    """The text with plain Latin, Greek and Cyrillic letters; marks of other scripts, which are letters there, stay."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


_stemmer = cache(Stemmer.Stemmer)


def weight(term: str, language: str = "en") -> float:
    """How much a term tells about the subject: 1, or less if it is a common word."""
    if _IS_UNSPACED.match(term):
        return _gram_weight(term)
    if language == "en":
        return _COMMON_WEIGHT * log(1 + _RANKS[term]) / log(1 + len(_RANKS)) if term in _RANKS else 1.0
    return _FUNCTION_WEIGHT if term in _function_stems(language) else 1.0


def _gram_weight(gram: str) -> float:
    """How much a run of characters tells: a word has about two runs, so each weighs half of a word at most."""
    if len(gram) > 1 and (_HIRAGANA.fullmatch(gram) or any(c in _function_characters() for c in gram)):
        return _FUNCTION_WEIGHT / 2
    return _GRAM_WEIGHT


@cache
def _function_characters() -> frozenset[str]:
    """Single characters that are function words of Chinese or Japanese."""
    from stopwordsiso import stopwords

    return frozenset(word for word in stopwords(["zh", "ja"]) if len(word) == 1 and _IS_UNSPACED.match(word))


def terms(text: str, language: str) -> list[tuple[str, str]]:
    """What retrieval compares, in order, as (spelling, term): each word; in unspaced scripts each run of two characters
    (three in the scripts of South East Asia, whose characters tell less)."""
    pairs: list[tuple[str, str]] = []
    for run in _runs(text):
        if not _IS_UNSPACED.match(run):
            pairs.append((run, stem(run, language)))
            continue
        characters = _CLUSTERS.findall(run)
        length = 3 if _SOUTH_EAST.match(run) else 2
        grams = ["".join(characters[i : i + length]) for i in range(max(1, len(characters) - length + 1))]
        pairs += zip(grams, grams)
    return pairs


def compound_parts(term: str, language: str) -> list[str]:
    """The beginnings and ends of a term that may be the words of which it is made, the longest first."""
    if language not in _COMPOUNDING or len(term) < 2 * _PART or not term.isalpha():
        return []
    lengths = range(len(term) - _PART, _PART - 1, -1)
    return [part for length in lengths for part in (term[:length], term[-length:])]


@lru_cache(maxsize=1000)
def language(text: str) -> str:
    """The ISO 639 code of the text's language, by its script and function words; English if nothing tells otherwise."""
    text = plain(text[:_SAMPLE])
    if text.isascii() and not (sample := words(text)):
        return "en"
    counts = {script: len(pattern.findall(text)) for script, pattern in _SCRIPTS.items()}
    script = max(counts, key=counts.__getitem__)
    if script == "zh" and 10 * counts["ja"] > counts["zh"]:
        return "ja"
    if script != "latin":
        return script
    sample = [word.casefold() for word in words(text) if len(word) > 1]
    votes = Counter(language for word in sample for language in _languages_with().get(word, ()))
    ((best, count),) = votes.most_common(1) or [("en", 0)]
    return best if count >= 2 and count > 1.5 * votes["en"] else "en"


@cache
def _languages_with() -> dict[str, list[str]]:
    """Function word → the languages in Latin letters that have it."""
    from stopwordsiso import stopwords  # reads a large file

    languages: dict[str, list[str]] = {}
    for language in _LATIN:
        for word in stopwords(language):
            languages.setdefault(word, []).append(language)
    return languages


@cache
def _function_stems(language: str) -> frozenset[str]:
    from stopwordsiso import has_lang, stopwords

    return frozenset(stem(word, language) for word in stopwords(language)) if has_lang(language) else frozenset()


def sentence_ends(text: str, language_code: str | None = None) -> Iterator[int]:
    """Where each sentence of a text ends (the white space after it included), in order, up to the end of the text."""
    start = position = 0
    in_code = {i for code in _INLINE_CODE.finditer(text) for i in range(code.start() + 1, code.end())}
    for piece in sentencex.segment(language_code or language(text), text):
        position += len(piece)
        if not (position in in_code or _GOES_ON.match(text, position) or _NOT_AN_END.search(text[start:position])):
            yield position
            start = position
    if start < len(text):
        yield len(text)


def split_sentences(text: str, language_code: str | None = None) -> list[str]:
    """The sentences of a paragraph, in order, without the white space around them."""
    ends = [0, *sentence_ends(text, language_code)]
    sentences = [text[start:end].strip() for start, end in pairwise(ends)]
    return [sentence for sentence in sentences if sentence]


def length_units(text: str) -> Iterator[int]:
    """Where each unit ends that `count_words` counts."""
    return (match.end() for match in _LENGTH_UNITS.finditer(text))


def spaced_words(text: str) -> list[str]:
    """Words between white space with their punctuation; one over 20 characters (a URL, minified code) is cut into
    several, and a character of an unspaced script is one, so that such text has a length too."""
    return _LENGTH_UNITS.findall(text)


def count_words(text: str) -> int:
    """The number of `spaced_words`: the length of a text."""
    return len(spaced_words(text))


def duration(seconds: float) -> str:
    """Returns a length of time in the largest unit of which there are two: 119 s, 2 min, 3 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
