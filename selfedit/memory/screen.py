"""Screens a passage: does it address a language model, carry a secret, or would its memory answer unrelated questions?

A finding is a reason to quarantine the memory: it is stored but inactive until a person approves it. The rules look for
text that is addressed to a language model, mostly in English; they help, and prove nothing. What holds without them: a
memory answers only questions that the router sends to it, so it changes nothing outside its own words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from selfedit.memory.route import Router
from selfedit.text import stem, weight, words
from selfedit.types import Passage, Question

_SAY = r"(?:answer|respond|reply|say|output|print)"
_RULES = {
    "tells the model to ignore its instructions": (
        r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,30}"
        r"\b(?:instructions?|prompts?|guidelines|training|system message|"
        r"(?:previous|prior|earlier|above) (?:text|messages?|rules|context))\b",
        r"\b(?:ignorier|missacht|vergiss)\w*[^.!?\n]{0,40}\b(?:anweisung|vorgabe)",
        r"\b(?:ignorez|oubliez|ignore|oublie)\b[^.!?\n]{0,40}\bconsignes",
        r"\b(?:ignor|olvid|dimentic|esque)\w*[^.!?\n]{0,40}\b(?:instrucciones|istruzioni|instruções)",
        r"игнорируй\w*[^.!?\n]{0,40}инструкц",
        r"忽略[^。！？\n]{0,12}(?:指令|指示|说明)",
    ),
    "tells the model what to answer": (
        rf"\b(?:always|never|only|must|from now on,?|you (?:will|should|shall))\s+(?:\w+ly\s+)?{_SAY}\b",
        rf"(?:^|[.!?:\n]\s*|\byou )(?:please )?(?:{_SAY})\b[^.!?\n]{{0,30}}\b(?:every|any|all|each|whatever)\b"
        r"[^.!?\n]{0,20}\b(?:question|prompt|request|message|ask)",
        r"\b(?:for|to|whatever) (?:any|every|each|all|the) (?:other )?(?:questions?|prompts?|requests?)\b"
        rf"[^.!?\n]{{0,20}}\b{_SAY}\b",
        r"\b(?:one|only|sole) (?:valid|allowed|permitted|acceptable) (?:answer|reply|response)\b",
    ),
    "has a trigger for the model": (
        r"\b(?:when(?:ever)?|if|once|as soon as)\b[^.!?\n]{0,60}"
        r"\b(?:you (?:see|hear|read|are asked|encounter)|(?:is|are|get) asked|the (?:user|prompt|question)"
        rf"|(?:some|any)(?:one|body) (?:asks|says|mentions|types))\b[^.!?\n]{{0,80}}\b{_SAY}",
    ),
    "speaks to a language model": (
        r"\b(?:you are (?:now )?(?:an?|the) [^.!?\n]{0,30}(?:assistant|language model|chatbot|AI)\b"
        r"|(?:dear|attention|note to|hey),? (?:the )?(?:AI|assistant|language models?|chatbots?|LLMs?)\b)",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext)\|>",
        r"\[/?INST\]",
        r"^\s*(?:system|assistant)\s*:",
    ),
    "carries a secret": (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"\bAKIA[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{36}",
        r"\bxox[abpr]-[\w-]{10,}",
        r"\bsk-[A-Za-z0-9_-]{20,}",
        r"\b(?:password|passwd|passphrase|secret|api[ _-]?key|access[ _-]?token)\b\s*(?:is|[:=])\s*"
        r"[\"']?(?=\S*\d)\S{6,}",
    ),
}
_SUSPICIOUS = {what: re.compile("|".join(rules), re.IGNORECASE | re.MULTILINE) for what, rules in _RULES.items()}


def find_suspicious_patterns(passage: Passage) -> list[str]:
    """What the rules find in a passage, in words, each with the text that matched."""
    text = f"{passage.title}\n{passage.text}"
    return [
        f"{what} (“{_quoted(match.group())}”)"
        for what, pattern in _SUSPICIOUS.items()
        if (match := pattern.search(text))
    ] + _repeated(text)


def _repeated(text: str) -> list[str]:
    """An address that is repeated, or a word that makes up much of the text."""
    telling = [word for word in words(text) if len(word) > 2 and weight(stem(word)) == 1.0]
    found = [
        (what, *Counter(items).most_common(1)[0], least)
        for what, items, least in (
            ("address", re.findall(r"https?://[^\s<>\"')\]]+[\w/]", text), 4),
            ("word", map(str.lower, telling), max(10, 0.4 * len(telling))),
        )
        if items
    ]
    return [
        f"repeats one {what} {count} times (“{_quoted(one)}”)" for what, one, count, least in found if count >= least
    ]


def captured(router: Router, id: str, questions: Sequence[Question]) -> list[Question]:
    """The questions that a memory would answer."""
    return [question for question in questions if router.route(question.question)[0] == id]


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}…"
