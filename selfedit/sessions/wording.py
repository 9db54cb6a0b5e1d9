"""What kind of sentence the user wrote: a statement, a question, a request, a supposition or somebody's claim.

In: the content of one user turn. Out: the user's own sentences, without pasted text, and tests on one sentence. All are
rules for English; a sentence in another language is a statement unless it ends in a question mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from selfedit.text import split_sentences, words

LONGEST = 600
"""Characters of a sentence; a longer one is cut, so that the rules take linear time."""


def one_of(*phrases: str) -> str:
    """A pattern for any of the phrases, which " | " separates; an apostrophe may be curly."""
    return "(?:" + "|".join(p.strip() for text in phrases for p in text.split(" | ")).replace("'", "['’]") + ")"


def matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_PASTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)"  # fenced
    r"|^[ \t]*([-=*_])\1{2,}[ \t]*$.*?(?:^[ \t]*\1{3,}[ \t]*$|\Z)"  # between rules
    r"|^[ \t]*>.*?$|<<.*?(?:>>|\Z)|\[\[.*?(?:\]\]|\Z)"  # quoted lines and brackets
    r"|^[ \t]*-{2,}.*?(?:original|forwarded) message.*|^begin forwarded message.*|^on .{5,80} wrote:\s*$.*"
    r"|^(?:from|subject|to|cc|sent): .*"  # the header of a mail, up to the end of the mail
    r"|^[ \t]*(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:|Traceback |File \"|(?:ERROR|WARN(?:ING)?|INFO|DEBUG)\b|[$#] ).*?$",  # logs
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_QUOTED = re.compile(r"(?<!\w)[\"“„«]([^\"“”„«»]*)(?:[\"”»]|\Z)")
_LONG_QUOTE = 7
"""Words of a quotation that is pasted text; a shorter one, without a sentence's end inside, is a name or a password."""
_TEXT = one_of(
    "text | e-?mails? | letter | leaflet | flyer | review | abstract | article | message | note | post | ticket",
    "log | paragraph | quote | snippet | comment | notice | advert | poem | story | page | document | report | code",
)
_WORK_ON_TEXT = one_of(
    "summari[sz]e | shorten | translate | proofread | rewrite | rephrase | correct | explain | read | fix"
)
_INTRODUCES_TEXT = matcher(rf"\b(?:{_TEXT}|this|these)\b.*[:?.]\s*$|:\s*$|^(?:please )?{_WORK_ON_TEXT}\b")
_TEXT_AFTER_COLON = matcher(rf"^(?:please |can you |could you )*{_WORK_ON_TEXT}\b[^:\n]*:\s")
_ONLY_INTRODUCES = matcher(
    rf"^(?:here(?:['’]s| is| are)|(?:I|we) (?:just )?(?:got|have|received|found)) .*\b{_TEXT}\b"
    r"|.*\b(?:mailed|sent|wrote) (?:me |us )?this\b"
)

_INTERJECTION = one_of(
    "oh | ok | okay | right | well | good | nice | fun | thanks(?: a lot| again)? | thank you(?: very much)?",
    "anyway | hey(?: hey)? | hi(?: there)? | hello(?: again)? | ha(?:ha)? | hm+ | u[hm]+ | no(?: no)* | nope | yes",
    "yeah | yep | true | sure | great | lovely | cool | fine | perfect | wrong | nonsense | sorry | quick | back",
    "wow | ah+ | oops | morning | evening | good (?:morning|evening|day|afternoon|one|idea) | by the way | btw",
    "between us | fyi | enough | for the record | one more thing | exactly | indeed | actually | careful | beware",
    "please | never ?mind | welcome back",
    r"(?:sad |good |bad |small |big |an? )?(?:news|bit|correction|change)\b[^:,.!?]{0,25}(?=:|,)",
)
_CONNECTIVE = r"(?:and|also|but|so(?! far)|oh|plus|then|anyway)\b,?\s+"
_LEAD_IN = matcher(rf"^(?:{_INTERJECTION}\s*(?:[,.!:;…-]+\s*|$)|{_CONNECTIVE})+")
_REMEMBER = matcher(
    "^(?:(?:please|can you|could you|and|also|so),? )*(?:do )?"
    + one_of(
        "remember | keep in mind | note | bear in mind | take note | don't (?:ever )?forget | never forget",
        "make a note | memori[sz]e | save | for your (?:notes|memory) | note to self",
    )
    + r"(?: down)?(?:,? please)?(?: that\b|\s*[:,]|(?= (?:my|our|the|I|we)\b))\s*"
)
_PLEASE_NOTE = matcher(
    r"[,;]? (?:so )?(?:(?:please )?(?:note|remember|keep|write) (?:it|that|this)(?: down| in mind)?"
    r"|please (?:note|remember))"
    r"(?: please| for [\w ]+| somewhere)?(?=[.!]*$)"
)

_IMPERATIVE = one_of(
    "convert | write | give | tell | summari[sz]e | translate | explain | list | name | suggest | make | show",
    "help | shorten | rewrite | draft | calculate | compute | compare | read | check | find | describe | define",
    "recommend | propose | fix | proofread | spell | continue | sort | count | pick | choose | remind | rephrase",
    "think of | let's | look | correct | generate | create | plan | solve | add | put | turn | format | say",
    "repeat | print | draw | sketch | design | outline | expand | improve | answer | rate | guess | wish me",
    "do me a favou?r",
)
_REQUEST = matcher(
    rf"^(?:please |now |just |then )*(?:(?:can|could|would|will) you\b|{_IMPERATIVE}\b(?! (?:is|are|was|of)\b))"
)
_ASK = one_of(
    "should | do | does | did | is | are | was | were | am | can | could | would | will | shall | have | has | may",
    "any | got | what | which | who | whose | whom | how | where | when | why | ok | right | isn't | aren't | don't",
    "doesn't | won't | what's | who's | how's | where's",
)
_ASKING_START = matcher(rf"^{_ASK}\b")
_INVERTED = matcher(
    r"^(?:what|which|who|where|when|why|how)\b[^,.]* (?:do|did|does|is|are|was) (?:I|you|we|my|our|the)\b"
)
_QUESTION_CLAUSE = matcher(rf"(?:,|;|:| [-–—])\s+(?:and |but |so |or )*(?={_ASK}\b)")
_REASON = one_of("as | since | because | given that")
_REASON_CLAUSE = matcher(
    rf"(?:(?:,|;| [-–—]|\.)\s+(?:(?:{_REASON}|and|but|so)\s+)?|\s+{_REASON}\s+)(?=(?:I|we|my|our)\b)"
)
_REASON_START = matcher(rf"^(?:{_REASON}|seeing that|now that)\s+")

_HYPOTHETICAL = matcher(
    r"\bif\b.*(?:\b(?:would|could|might)\b|['’]d\b)|(?:\b(?:would|could|might)\b|['’]d\b).*\bif\b|^(?:maybe|perhaps)\b|\b"
    + one_of(
        "if (?:I|we|they|he|she|it|you) were | think(?:ing)? aloud | imagine | suppos(?:e|ing) | what if | might",
        r"I wonder | hypothetical\w* | day-?dream\w* | I(?:'m| keep| am)? dream(?:ing)? | (?:some|one) day",
        r"in theory | would be (?:nice|great|cool|fun|lovely) | (?:I|we) (?:could|would)(?! be\b) | were I",
        "had (?:I|we) | say (?:I|we) (?:had|were) | I (?:wish|could imagine)",
    )
    + r"\b"
)
_CLAIMS = one_of(
    "claim(?:s|ed|ing)? | insist(?:s|ed)? | says? | said | thinks? | thought | believes? | believed | swears?",
    "swore | reckons? | guess(?:es|ed) | alleges? | alleged | (?:is|are) (?:sure|convinced|certain) | heard",
    "pretends? | suspects? | assumes? | maintains? | argues? | bets? | (?:told|tells) (?:me|us|everyone|people)",
    "writes? | wrote | keeps? (?:saying|claiming)",
)
_SOURCE = r"(?:(?:the|our|my|a|its?) )?(?:[\w-]+ )?" + one_of(
    "it | plan | calendar | label | sign | dial | contract | log | page | list | law | manual | map | book",
    "schedule | screen | display | meter | clock | scale | ticket | invoice | website | documentation | config",
    "file | letter",
)
_SOURCE += r" (?:says?|said|tells?|told)\b"
"""What a thing says, unlike a person, the user has read."""
_CLAIM = matcher(
    rf"^(?!(?:I|we|you|when|if|as|after|before|once|because)\b)(?!{_SOURCE})"
    r"(?P<who>(?:[^\s,]+\s+){0,7}?[^\s,]+)(?<! to)(?<! not)"
    rf",?\s+(?:also |always |still |just |once |even )?{_CLAIMS}\b,?\s*(?:that\s+)?(?P<clause>.*)"
)
_HEARSAY = matcher(
    "^"
    + one_of(
        "according to | rumou?r has it | apparently | people say | they say | allegedly | word is",
        "I(?: have|'ve)? heard | I read (?:somewhere|online)",
    )
    + r"\b,?\s*(?:that\s+)?(?P<clause>.*)|(?P<before>.*), (?:\w+ ){1,3}(?:says|said|claims|claimed|thinks|joked)[.!]*$"
)
_DUTY = matcher(r"^(?:I|we) (?:must|should|need|can['’]t|cannot|have to|mustn['’]t|shouldn['’]t|may not)\b")
"""What somebody tells the user to do; it is the user's rule from then on."""
_ROLE_AND_NAME = re.compile(r"^(?:[Mm]y|[Oo]ur) (?:[a-z-]+ ){1,3}[A-Z]\w+$")

_SMALL_TALK = matcher(
    one_of(
        r"I(?:'m| am) (?:so |very |really )*(?:bored|tired|hungry|back|here|busy|fine|ok|good|sorry|happy)\b.{0,30}",
        "I (?:like|love) (?:it|that|this) | I(?:'ll| will) (?:try|do that|see|think about it).{0,20}",
        r"see you\b.{0,30} | how are you.{0,20}",
        "that's (?:all|it|great|nice|fine|good|helpful|perfect|funny).{0,20} | (?:typical|poor) me",
        r"I (?:doubt|believe|think|knew|know) ?(?:it|that|so)? | I never (?:said|told|claimed)\b.{0,30}",
        "I told you nothing.{0,20} | I mean it.{0,20} | (?:I don't,? )?you (?:made|invented) (?:that|it).{0,20}",
        "talk (?:to you )?(?:soon|later).{0,20} | I (?:did|do|didn't|don't|have|haven't)(?: not)?(?: agree)?",
    )
    + r"[.!…\s]*"
)
_PREFERENCE = matcher(
    r"\ballerg|\bintoleran|\bprefer|\bcolou?r-?blind|^no \w+|\b"
    + one_of(
        "can(?:'t|not| not) (?:stand|eat|have|digest|drink|bear|take) | must not (?:have|eat) | vegan | vegetarian",
        "always | never | (?:house )?rules? | no more | nothing (?:with|else|on|containing)",
        r"no \w+ (?:please|in any) | (?:don't|do not) (?:use|want|like|eat|drink|suggest)",
        "I (?:only|just) (?:drink|eat|use|want|read) | for me | I(?:'d)? (?:want|like|love|hate)",
        "when (?:you|I ask) | favou?rite | avoid | dislike | makes? me (?:ill|sick) | must be (?:answered|written)",
        "your (?:answers?|replies|reply|explanations?|tone|style) | call me | from now on | with me",
        "you (?:must|should|may)(?: not| only| never)? | I (?:eat|drink|write|wear)",
        "(?:does|do) not (?:use|contain) | free of",
    )
    + r"\b"
)
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_CORRECTION = matcher(
    rf"^no\b|\bfrom (?:\d\d? )?(?:{_MONTHS})\b|\b"
    + one_of(
        "scratch that | I meant | typo | delayed | pushed | brought forward | put off | extended | rewrote",
        "migrated | turned | ran away | quit | correction | news | mistake | slipped | down to | now | instead",
        "in (?:fact|truth|reality) | actually | no longer | any ?more | since | changed? | moved | new",
        "switch(?:ed)? | upgraded? | jumped | back | wrong | went (?:up|down) | (?:is|are) (?:up|down|gone|over)",
        "I (?:said|told|gave you|wrote|mentioned) | retire[sd]? | left | leaves | gave up | shut | postponed",
        "renamed | rescheduled | replace[sd]? | until | these days | by now | meanwhile | sold",
        r"from .{1,30} (?:to|on) | so (?:\w+ )?(?:are |is |have |makes )?(?:\d+|two|three)",
        r"so (?:\w+ )?(?:are |is |have |makes )?(?:four|five|six|seven|eight|nine|ten|eleven|twelve)",
    )
    + r"\b"
)
DEPARTS = matcher(
    r"\b(?:left|leaves|gone|retire[sd]?|moved (?:out|away)|gave up|stopped|quit|broke|dropped|sold|closed|shut|died)\b"
)
"""Somebody or something is no longer there."""
RESTATED = matcher(
    r"^(?:(?:but|no|hey),? )*(?:earlier )?I (?:said|told you|gave you|wrote|mentioned|claimed)(?: that)? (?P<old>.+?)"
    r"(?:[,;]\s+(?:but )?(?P<new>.+)|[.!]*)$"
)
"""The user repeats what they told before in order to correct it."""


def _lines(content: str) -> Iterator[str]:
    """The user's own lines of a turn, without pasted text and without long quotations."""
    rest = _PASTED.sub("\n", _QUOTED.sub(_short_quote, content))
    has_paste = rest != content
    for line in (line.strip() for line in rest.splitlines()):
        if not line or has_paste and _ONLY_INTRODUCES.match(line):
            continue
        if request := _TEXT_AFTER_COLON.match(line):
            line = line[: request.end()]
        yield re.sub(r"^[-*•]\s+", "", line)
        if not has_paste and "\n" in content.strip() and _INTRODUCES_TEXT.search(line):
            return  # the lines after it are the text


def _short_quote(quote: re.Match[str]) -> str:
    return "" if len(words(quote[1])) >= _LONG_QUOTE or re.search(r"[.!?] \w", quote[1]) else quote[0]


def sentences(content: str) -> list[str]:
    """The user's own sentences of a turn, in order."""
    found = (sentence for line in _lines(content) for sentence in split_sentences(line, "en"))
    parts = (
        part for sentence in found for part in re.findall(rf".{{1,{LONGEST}}}(?:\s|$)|\S{{1,{LONGEST}}}", sentence)
    )
    return [part.strip() for part in parts if re.search(r"\w", part)]


def without_lead_in(sentence: str) -> str:
    """The sentence without the interjections and connectives at its start ("Oh, and …")."""
    return _LEAD_IN.sub("", sentence).strip()


def to_remember(sentence: str) -> str | None:
    """The fact after "remember that", "keep in mind:" and the like; None if the sentence does not start so."""
    match = _REMEMBER.match(sentence)
    return sentence[match.end() :] if match and not sentence.endswith("?") else None


def without_note(sentence: str) -> str:
    """The sentence without ", please note it" at its end."""
    return _PLEASE_NOTE.sub("", sentence)


def is_question(sentence: str) -> bool:
    return sentence.rstrip("\"'”)! ").endswith(("?", "？", "؟")) or bool(_INVERTED.match(sentence))


def is_request(sentence: str) -> bool:
    return bool(_REQUEST.match(sentence))


def facts_beside(sentence: str) -> list[str]:
    """The statements beside the question or the request in one sentence: "The port is 80, is that usual?"."""
    clause = _QUESTION_CLAUSE.search(sentence)
    if is_question(sentence) and clause and not _ASKING_START.match(sentence) and not is_request(sentence):
        before = _REASON_START.sub("", sentence[: clause.start()])
        return [_closed(before)] if len(words(before)) >= 4 else []
    after = _REASON_CLAUSE.split(sentence)[1:][-1:]
    return [_closed(part.rstrip("?")) for part in after if part and not _QUESTION_CLAUSE.search(", " + part)]


def _closed(clause: str) -> str:
    """The clause as a sentence."""
    clause = clause.strip(" ,;:–—-")
    clause = clause[:1].upper() + clause[1:]
    return clause if clause.endswith((".", "!")) else clause + "."


def is_hypothetical(sentence: str) -> bool:
    return bool(_HYPOTHETICAL.search(sentence))


def is_preference(sentence: str) -> bool:
    return bool(_PREFERENCE.search(sentence))


def corrects(text: str) -> bool:
    """Whether the text has a word of correction or change."""
    return bool(_CORRECTION.search(text))


def claim(sentence: str) -> tuple[str, str] | None:
    """Who claims and what, if somebody else than the user makes the statement."""
    if match := _HEARSAY.match(sentence):
        return "", match["clause"] or match["before"] or ""
    match = _CLAIM.match(sentence)
    if not match or _DUTY.match(match["clause"]) or re.search(r"\b(?:I|we|is|are|was|were)\b", match["who"]):
        return None
    return match["who"], match["clause"]


def introduction(claimer: str) -> str:
    """What a claim tells about its speaker: "My flatmate Ada says …" tells that the flatmate is Ada."""
    if not _ROLE_AND_NAME.match(claimer):
        return ""
    role, _, name = claimer.rpartition(" ")
    return f"{role[:1].upper()}{role[1:]} is {name}."


def is_small_talk(sentence: str) -> bool:
    """Whether a sentence states nothing that lasts, where that is cheap to see."""
    rest = without_lead_in(sentence)
    return not re.search(r"\w", rest) or bool(_SMALL_TALK.fullmatch(rest))
