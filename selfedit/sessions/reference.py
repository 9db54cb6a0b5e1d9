"""What a pronoun or a fragment refers to, by rule: the subject of the claim, question or sentence before it.

In: a sentence and the user's sentences before it. Out: the sentence with the noun phrase in place of its pronoun, or
with the question that it answers beside it. No value is ever taken from the assistant.
"""

from __future__ import annotations

import re

from selfedit.sessions.values import values
from selfedit.text import stem, weight, words

_VERB = (
    r"is|are|was|were|has|have|had|will|can|must|does|do|did|should|may|shall|won['’]t|isn['’]t|gave|took|went"
    r"|came|got|made|"
    r"left|sent|put|set|ran|bought|sold|told|said|wrote|goes|keeps|hangs|sits|lives|stands|holds|costs|wants|needs"
)
_SUBJECT = re.compile(
    rf"^(?P<subject>(?:[^\s,;:]+\s+){{1,7}}?)(?:{_VERB})\b|^(?P<other>(?:[^\s,;:]+\s+){{1,5}}?)\w+(?:[^s\W]s|ed)\b",
    re.IGNORECASE,
)
_NOUN = (
    r"(?![\w-]+['’])(?!(?:is|are|was|were|has|and|or|but|that|who|which|to|of|in|on|at|for|with|by|from|is)\b)[\w-]+"
)
_INDEFINITE = re.compile(
    rf"\b(?:an?) ((?:{_NOUN} ){{0,2}}?{_NOUN})(?=[,.!;]|\s(?:now|to|in|on|at|for|with|from|that|by|called|and)\b|\s*$)"
)
_PERSON = (
    r"wife|husband|partner|son|daughter|child|children|kids?|brother|sister|mother|father|mum|mom|dad|granny"
    r"|grandma|grandpa"
    r"|uncle|aunt|cousin|nephew|niece|friend|neighbou?r|boss|lead|head|student|colleague|assistant|pupil|girl|boy"
    r"|man|woman"
    r"|bride|groom|chef|apprentice|guy|lady|guest|vet|nurse|critic|bos|client|mate|\w+(?:mate|ist|man|woman)"
    r"|\w{3,}(?:er|or)(?<!paper)(?<!server)(?<!number)(?<!order)(?<!computer)(?<!letter)"
)
_PERSONAL = re.compile(
    rf"\b((?:[Mm]y|[Oo]ur|[Aa]n?|[Tt]he|[Oo]ne) (?:[\w-]+ ){{0,2}}?(?:{_PERSON}))\b(?:,? ([A-Z]\w+))?"
)
_NAME_SUBJECT = re.compile(
    r"^(?!(?:My|Our|The|An?|We|It|He|She|They|There|You|This|That)\b)([A-Z][\w.]+(?: [A-Z]\w+)*)\s+(?=[a-z])"
)
_CHECKED = re.compile(
    r"^(?:but )?(?:I|we) (?:did|do|checked|looked|read|asked|measured|tested|counted|know|found out)\b[^,.]{0,25}?"
    r"(?:,\s+(?:and )?|\s+and\s+(?=it\b))",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"^(it|he|she|they|these|those)(?P<short>['’](?:s|re|ll|ve|d)|(?<=^it)s(?= (?:an?|the|not|now|\d)\b))?\b\s*",
    re.IGNORECASE,
)
_POSSESSIVE = re.compile(r"^(its|his|her) ", re.IGNORECASE)
_FULL = {"s": "is", "re": "are", "ll": "will", "ve": "have", "d": "would"}
_ANAPHOR = re.compile(
    r"\b(?:it|there|them|this one|that one|him|her|its|his|their)\b(?! (?:is|are|was|were|['’]s))", re.IGNORECASE
)
_OBJECT = re.compile(r"\b(for|of|to|in|on|with|at) it\b(?!['’])", re.IGNORECASE)
_HAS_VERB = re.compile(
    r"\b(?:I|we|he|she|it|they|you|there|is|are|was|were|am|be|has|have|had|do|does|did|will|would|can|could"
    r"|should|must|may"
    r"|got|use|need|want)\b|n['’]t\b|\w['’](?:s|re|m|ve|ll|d)\b",
    re.IGNORECASE,
)
_NAME_AND_VERB = re.compile(r"([A-Z][\w-]+) [a-z]+s (?:on|at|in|to|from|by|for|with|a|an|the)\b")
_QUESTION_SUBJECT = re.compile(
    r"\b(?:what|which|who|where|when|how(?: \w+)?)(?:['’]s| is| was| are| were)\s+"
    r"(?P<subject>(?:my|our|the|his|her|their)\b.+?)"
    r"(?:\s+(?:again|now|currently|called|in your (?:notes|memory))\b|,|\?|$)",
    re.IGNORECASE,
)
_META = re.compile(
    r"\s*\b(?:again|in your (?:notes|memory)|according to you|(?<=, )do you (?:know|recall|remember)|by the way)\b,?",
    re.IGNORECASE,
)


def subject_of(sentence: str) -> str | None:
    """The noun phrase before the verb of a sentence that begins with "my", "our", "the", "a" or a name."""
    match = _SUBJECT.match(sentence)
    phrase = ((match["subject"] or match["other"]) if match else "").strip()
    if (
        not phrase
        or not re.match(r"(?:my|our|the|an?|his|her|their)\s|[A-Z]", phrase)
        and not re.match(r"(?:My|Our|The)\s", phrase)
    ):
        return None
    if re.match(r"(?:I|We|It|He|She|They|There|You|That|This|What|If)\b", phrase) or len(words(phrase)) > 8:
        return None
    return phrase


def subject_of_question(question: str) -> str | None:
    """The noun phrase that a question asks about: "How big is my plot, do you recall?" asks about my plot."""
    match = _QUESTION_SUBJECT.search(question)
    return match["subject"].strip() if match else None


def person_in(sentence: str) -> tuple[str, str] | None:
    """The last person that a sentence mentions: (noun phrase, name or "")."""
    if found := _PERSONAL.findall(sentence):
        return found[-1]
    match = _NAME_SUBJECT.match(sentence)
    return (match[1], match[1]) if match else None


def thing_in(sentence: str) -> str | None:
    """The thing that a later "it" most likely refers to."""
    if found := _INDEFINITE.findall(sentence):
        return f"the {found[-1]}"
    subject = subject_of(sentence)
    if subject and not _PERSONAL.search(subject) and not re.match(r"[A-Z]\w+\s*$", subject):
        return subject
    return None


def begins_with_pronoun(sentence: str) -> bool:
    return bool(_PRONOUN.match(_CHECKED.sub("", sentence)))


def refers_back(sentence: str) -> bool:
    """Whether a sentence has a pronoun and nothing before it that the pronoun can mean."""
    if begins_with_pronoun(sentence):
        return True
    match = _ANAPHOR.search(sentence)
    named = match and re.search(r"\b(?:my|our|an?|the) \w|(?<=\w )[A-Z]\w", sentence[: match.start()])
    return bool(match) and not named


def is_fragment(sentence: str) -> bool:
    named = _NAME_AND_VERB.match(sentence)
    if named and weight(stem(named[1])) == 1:
        return False
    return len(words(sentence)) <= 8 and not _HAS_VERB.search(sentence.split(",")[0])


def with_subject(sentence: str, phrase: str) -> str:
    """The sentence with the noun phrase in place of the pronoun at its start."""
    sentence = _CHECKED.sub("", sentence)
    match = _PRONOUN.match(sentence)
    assert match
    short = match["short"]
    verb = f"{_FULL[short.lstrip(chr(39) + '’').lower()]} " if short else ""
    if re.match(r"an? ", phrase, re.IGNORECASE):
        phrase = "the " + phrase.split(" ", 1)[1]
    return f"{phrase[:1].upper()}{phrase[1:]} {verb}{sentence[match.end() :]}"


def with_question(sentence: str, question: str) -> str:
    """The sentence with the question that it answers before it."""
    question = _META.sub("", question).strip()
    if match := re.match(
        r"(?:can you |could you |please )*remind me (?=(?:what|which|who|where|when|how)\b)", question, re.IGNORECASE
    ):
        clause = question[match.end() :].rstrip("?.! ")
        return f"{clause[:1].upper()}{clause[1:]}: {sentence}"
    return f"{question} {sentence}"


def against(claim: str, truth: str) -> str:
    """What the user sets against a claim, with the subject of the claim: "the quota is 70", "it is 55" → "The quota is
    55"; where it has no subject, the words of the claim with the true value."""
    phrase = subject_of(claim)
    if begins_with_pronoun(truth):
        if phrase:
            return with_subject(truth, phrase)
        pairs = [(a, b) for a in values(claim) for b in values(truth) if a.kind == b.kind and a.text != b.text]
        return claim.replace(pairs[0][0].text, pairs[0][1].text) if pairs else truth
    truth = f"{truth[:1].upper()}{truth[1:]}"
    return f"{phrase[:1].upper()}{phrase[1:]}: {truth}" if phrase and phrase.lower() not in truth.lower() else truth


def resolved(sentence: str, before: list[str], question: str, claimed: str) -> str:
    """The sentence readable alone.

    before: the user's sentences before it, the latest last; question: the user's last question, or "";
    claimed: what somebody else claimed before, or "".
    """
    match = _PRONOUN.match(_CHECKED.sub("", sentence))
    if match:
        pronoun = match[1].lower()
        source = bool(re.match(r"(?:he|she|it) (?:says?|said|wrote|told)\b", sentence, re.IGNORECASE))
        if claimed and not source and (phrase := subject_of(claimed)):
            return with_subject(sentence, phrase)
        if pronoun in ("he", "she"):
            for earlier in reversed(before):
                if person := person_in(earlier):
                    return with_subject(sentence, person[1] if person[1] else person[0])
            return sentence
        if question:
            phrase = subject_of_question(question)
            return with_subject(sentence, phrase) if phrase else with_question(sentence, question)
        for earlier in reversed(before):
            if pronoun == "it" and (phrase := thing_in(earlier)):
                return with_subject(sentence, phrase)
        return sentence
    if (match := _POSSESSIVE.match(sentence)) and before:
        owner = thing_in(before[-1]) if match[1].lower() == "its" else (person_in(before[-1]) or ("",))[0]
        return f"{owner[:1].upper()}{owner[1:]}'s {sentence[match.end() :]}" if owner else sentence
    if question and is_fragment(sentence) and values(sentence):
        return with_question(sentence, question)
    if (found := _OBJECT.search(sentence)) and before and (thing := thing_in(before[-1])):
        return f"{sentence[: found.end(1)]} {thing}{sentence[found.end() :]}"
    return sentence
