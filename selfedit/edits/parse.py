"""Text that a model wrote → training Examples, and a filter for examples that are not worth training on.

In: a style, a text and its passage. Out: Examples. Lists and rewrites give one example per line, since models write a
paragraph as one line. Question styles give one example per pair of question and answer, in chat form. Markdown,
numbering and chatter ("Sure! Here are …:") are removed. Nothing is added, not even the title: the caller decides how an
example is framed. SEAL keeps all lines, so its models also train on "Certainly! Here is a list:".
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from selfedit.config import FilterConfig
from selfedit.text import language, split_sentences, words
from selfedit.types import Example, Passage, Question

_BULLETS = "-*+•◦▪–—"
_MARKER = re.compile(rf"(?:[{_BULLETS}]|#{{1,6}}|\(?\d{{1,3}}[.):](?!\d))(?:\s+|$)")
_HEADING = re.compile(r"#{1,6}\s")
_BULLET = re.compile(rf"^[{_BULLETS}]\s+(?:\[[ xX]\]\s+)?")
_LABELLED = re.compile(r"[^:;!?]{1,60}: \S")
_TABLE_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")
_NO_NAME = ("", "value")
"""Column headings that do not describe the column."""
_EMPHASIS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=\S)\*(?![\w*])")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_RULE = re.compile(r"\s*[-*_=]{3,}\s*")
_LABEL = re.compile(r"(?:passage|version|rewrite|paragraph|implication)\s*\d*\s*:\s+(?=\S)", re.IGNORECASE)
_CHATTER = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok)\b\W*(?:here\b.*)?"
    r"|(?:here (?:is|are)|here['’]s|below (?:is|are)) .*(?:passage|text|list|version|question|implication|rewrit).*"
    r"|(?:let me know|i hope (?:this|these)|feel free)\b.*",
    re.IGNORECASE,
)
_QUESTION_LABEL = re.compile(r"(?:Q|Question)\s*\d*\s*(?:[:.)]\s*|$)", re.IGNORECASE)
_ANSWER_LABEL = re.compile(r"(?:A\s*\d*\s*:|A\d+\.|Answer\s*\d*\s*(?:[:.)]|$))\s*", re.IGNORECASE)
_INLINE_ANSWER = re.compile(r"\s+(?=(?:A\s*\d*\s*:|A\d+\.|Answer\s*\d*\s*:)\s)")


def parse_edit(
    style: str, text: str, passage: Passage, *, max_examples: int = FilterConfig.max_examples
) -> tuple[Example, ...]:
    """Returns the first `max_examples` examples of an edit in this style, in order and unfiltered (see `clean`)."""
    if style.startswith(("questions", "self-qa")):
        examples = [Example(text=pair.answers[0], prompt=pair.question) for pair in parse_questions(text)]
    else:
        examples = [Example(text=piece) for piece in _pieces(text) if not is_frame(piece, passage.title)]
    return tuple(examples[:max_examples])


def parse_questions(text: str) -> list[Question]:
    """Returns pairs of question and answer in the usual layouts; questions without an answer are left out.

    The layouts are "Q: … A: …", "Question 1: …" above "Answer: …", "1. …?" above "- …", and "1. …? …", bold or not.
    """
    pairs: list[list[str]] = []
    awaited = ""  # "question" or "answer": the part that the next unlabelled line continues
    for piece in (piece for line in text.splitlines() for piece in _INLINE_ANSWER.split(plain_line(line))):
        question, answer = pairs[-1] if pairs else ("", "")
        if not piece:
            if answer:  # the blank line ends the answer: the next question or chatter follows
                awaited = ""
        elif (label := _ANSWER_LABEL.match(piece)) and question:
            pairs[-1][1] = f"{answer} {piece[label.end() :]}".strip()
            awaited = "answer"
        elif label := _QUESTION_LABEL.match(piece):
            pairs.append([piece[label.end() :], ""])
            awaited = "answer" if piece.endswith("?") else "question"
        elif awaited == "question":
            pairs[-1][0] = f"{question} {piece}".strip()
            awaited = "answer" if piece.endswith("?") else "question"
        elif piece.endswith("?") or ("?" in piece and (answer or not question)):
            before, mark, after = piece.rpartition("?")
            pairs.append([before + mark, after.strip()])
            awaited = "answer"
        elif awaited == "answer":
            pairs[-1][1] = f"{answer} {piece}".strip()
    return [Question(question=question, answers=(answer,)) for question, answer in pairs if question and answer]


def clean(
    examples: Iterable[Example],
    passage: Passage,
    prompt_texts: Sequence[str] = (),
    config: FilterConfig = FilterConfig(),
) -> tuple[list[Example], Counter[str]]:
    """Returns the examples that are worth training on, and the number of dropped examples per reason.

    `prompt_texts`: the instructions that the model was given, without the passage.
    """
    passage_sentences = {_key(sentence) for sentence in sentences(passage.text)}
    instructed = set().union(*(_runs(_key(text), config.echo_words) for text in prompt_texts))
    instructed -= set(_runs(_key(passage.text), config.echo_words))
    kept: list[Example] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple] = set()
    for example in examples:
        words, prompt_words = _key(example.text), _key(example.prompt)
        if not words:
            reason = "empty"
        elif len(prompt_words or words) < config.min_words:  # an answer may be a single word, but a question may not
            reason = "too short"
        elif (words, prompt_words) in seen:
            reason = "copy of another"
        elif _is_loop(example.text, words, config):
            reason = "loop"
        elif instructed.intersection(_runs(words, config.echo_words)):
            reason = "echo of the prompt"
        elif not prompt_words and words in passage_sentences:
            reason = "copy of the passage"
        else:
            seen.add((words, prompt_words))
            kept.append(example)
            continue
        dropped[reason] += 1
    return kept, dropped


def copied(text: str, passage: Passage) -> float:
    """Returns the share of the text's word triples that the passage has, in [0, 1]; 1 for fewer than three words."""
    triples, passage_triples = _runs(_key(text), 3), set(_runs(_key(passage.text), 3))
    return sum(triple in passage_triples for triple in triples) / len(triples) if triples else 1.0


def statements(passage: Passage) -> list[str]:
    """Returns what the passage states, in order: its units, or the sentences of a passage that has none."""
    return list(dict.fromkeys(unit.text for unit in passage.units)) or sentences(passage.text)


def sentences(text: str) -> list[str]:
    """Returns the sentences of a Markdown text in order, without headings and bullets.

    Each list item begins a new sentence. Each row of a table is one sentence ("Pro: Price $5, Users 10"), as is each of
    several lines with a label ("Removed: melt(); Use instead: unpivot()").
    """
    lang = language(text)
    return [sentence for paragraph in _paragraphs(text) for sentence in split_sentences(paragraph, lang)]


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of lines between blank lines, list items and tables, each joined to one line; and the rows of tables, also
    those that are lines with a label."""
    lines: list[str] = []
    in_labelled = False  # whether the line before is one of several lines with a label
    header: list[str] | None = None  # of the table that this line belongs to
    own = [line.strip() for line in text.splitlines()] + [""]
    for line, following in zip(own, [*own[1:], ""]):
        if header is None and _is_row(line) and _is_row(following):
            yield " ".join(lines)
            named = _TABLE_RULE.fullmatch(following)
            lines, header = [], _cells(line) if named else []  # without names: the rest of a table that was cut in two
            if named:
                continue
        if header is not None and _is_row(line):
            if not _TABLE_RULE.fullmatch(line):
                yield _told(header, _cells(line))
        else:
            header = None
            after_labelled = in_labelled
            in_labelled = _is_labelled(line) and (after_labelled or _is_labelled(following))
            if lines and (not line or in_labelled or after_labelled or _MARKER.match(line)):
                yield " ".join(lines)
                lines = []
            # under a single # may be the code that it comments on
            if line and not (
                _HEADING.match(line)
                and (line.startswith("##") or not following or _MARKER.match(following) or _is_row(following))
            ):
                lines.append(_BULLET.sub("", line))


def _is_labelled(line: str) -> bool:
    return not line[:1].islower() and bool(_LABELLED.match(line))


def _is_row(line: str) -> bool:
    return line.startswith("|") and line.endswith("|") and len(line) > 2


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row[1:-1])]


def _told(header: Sequence[str], row: Sequence[str]) -> str:
    """A table's row as a sentence: what it is about, and the other cells under their headings."""
    names = [*header[1:], *[""] * len(row)]
    told = (value if name.casefold() in _NO_NAME else f"{name} {value}" for name, value in zip(names, row[1:]) if value)
    return ": ".join(part for part in (row[0], ", ".join(told)) if part)


def _pieces(text: str) -> list[str]:
    """Returns the lines that are not empty, as plain text; a block of code stays whole, with the line before it."""
    pieces: list[str] = []
    in_code = False
    for line in text.splitlines():
        if _FENCE.match(line):
            in_code = not in_code
        elif in_code and pieces:
            pieces[-1] += "\n" + line
        elif plain := plain_line(line):
            pieces.append(plain)
    return pieces


def plain_line(line: str) -> str:
    """Removes Markdown emphasis, list markers, numbering and labels ("Passage 1:"); a horizontal rule becomes empty."""
    if _RULE.fullmatch(line):
        return ""
    line = line.strip()
    for _ in range(2):  # "***both***"
        line = _EMPHASIS.sub(lambda match: match[1] or match[2], line)
    while marker := _MARKER.match(line) or _LABEL.match(line):
        line = line[marker.end() :]
    return line.strip()


def is_frame(line: str, title: str) -> bool:
    """Returns whether a line is only an introduction, a title or a closing remark."""
    return line.endswith(":") or _key(line) == _key(title) or bool(_CHATTER.fullmatch(line))


def _key(text: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in words(text))


def _runs(words: tuple[str, ...], length: int) -> list[tuple[str, ...]]:
    return [words[i : i + length] for i in range(len(words) - length + 1)]


def _is_loop(text: str, words: tuple[str, ...], config: FilterConfig) -> bool:
    if len(words) < config.loop_words:
        return False
    triples = _runs(words, 3)
    data = text.encode()
    return len(set(triples)) < config.min_distinct * len(triples) or (
        len(data) > config.long_bytes and len(zlib.compress(data)) < config.min_compressed * len(data)
    )
