"""What kind of sentence the user wrote: a statement, a question, a request, a supposition or somebody's claim.

In: the content of one user turn. Out: the user's own sentences, without pasted text, and tests on one sentence. All are
rules for English; a sentence in another language is a statement unless it ends in a question mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from selfedit.text import MONTHS, split_sentences, words

LONGEST = 360
"""Characters of a sentence; a longer one is cut, so that the rules take linear time."""


def one_of(*phrases: str) -> str:
    """A pattern for any of the phrases, which " | " separates; an apostrophe may be curly, and lack in "n't"."""
    pattern = "(?:" + "|".join(p.strip() for text in phrases for p in text.split(" | ")) + ")"
    return re.sub(r"(?<!\[)'", "['’]", pattern.replace("n't", "n'?t"))


def matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_PASTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|'{3}.*?(?:'{3}|\Z)|\"{3}.*?(?:\"{3}|\Z)"  # fenced
    r"|<!--.*?(?:-->|\Z)|<(\w+)[^<>\n]*>.*?(?:</\1>|\Z)|\{\{.*?(?:\}\}|\Z)"  # marked up
    r"|^[ \t]*([-=*_#+~])\2{2,}[ \t]*$.*?(?:^[ \t]*\2{3,}[ \t]*$|\Z)"  # between rules
    r"|^[ \t]*>.*?$|<<.*?(?:>>|\Z)|\[\[.*?(?:\]\]|\Z)"  # quoted lines and brackets
    r"|^[ \t]*-{2,}[^\n]*(?:original|forwarded) message.*|^begin forwarded message.*|^on .{5,80} wrote:\s*$.*"
    r"|^(?:from|subject|to|cc|sent): .*"  # the header of a mail, up to the end of the mail
    r"|^[ \t]*(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:|Traceback |File \"|(?:ERROR|WARN(?:ING)?|INFO|DEBUG)\b|[$#] ).*?$",  # logs
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_QUOTED = re.compile(
    r"(?<!\w)(?:[\"“„«]([^\"“”„«»]*)(?:[\"”»]|\Z)|['‘‹]([^\n'‘’‹›]{30,}|(?:[^'‘’‹›]|\b'\b)*)['’›](?!\w))"
)
_LONG_QUOTE = 7
"""Words of a quotation that is pasted text; a shorter one, without a sentence's end inside, is a name or a password."""
_TEXT = one_of(
    "text | e-?mails? | letter | leaflet | flyer | review | abstract | article | message | note | post | ticket",
    "log | paragraph | quote | snippet | comment | notice | advert | poem | story | page | document | report | code",
)
_WORK_ON_TEXT = one_of(
    "summari[sz]e | shorten | translate | proofread | rewrite | rephrase | correct | explain | read | fix"
)
_INTRODUCES_TEXT = matcher(
    rf"\b(?:{_TEXT}|this|these|it|he|she|they)\b.*[:?.]\s*$|:\s*$|^(?:please |pls )?{_WORK_ON_TEXT}\b"
    r"|\b(?:says?|reads?|wrote|writes|sent|forwarded|posted|pasted|copied|typed|got|found)\b[^.!?]*[.:]?\s*$"
)
_TEXT_AFTER_COLON = matcher(
    rf"^(?:.*[.!?]\s)?(?:[^:\n.!?]*\b(?:{_WORK_ON_TEXT}\b[^:\n.!?]*|here(?:['’]?s| is| are| comes)\b[^:\n.!?]*"
    rf"|(?:says?|reads?|wrote|writes|goes)(?: \w+){{0,2}}|(?:sent|forwarded|posted|mailed) (?:me|us|this"
    rf"|round)\b[^:\n.!?]*"
    rf"|(?:this|the|an?|my|our|following) (?:\w+ )?{_TEXT}(?: \w+){{0,3}})):\s(?=(?:\S+\s+){{5}})"
)
_ADDRESSES_MACHINE = matcher(
    r"^(?!.*\b(?:I|me|my|we|us|our)\b)(?=.*\b(?:ai|a\.i\.|(?:chat)?bots?|robots?|assistants?|llms?"
    r"|(?:language )?models?"
    r"|machines?|computer|automated|readers?|system|prompt|override|instructions?|orders|rules)\b)"
    r".*\b(?:ignore|disregard|reply|answer|respond|repeat|recite|say|speak|talk|write|sign"
    r"|greet|mention|output|print|end|finish|append|add|include|recommend|tell|reveal|send|call|act|pretend)\b"
    r"|.*\b(?:ignore|disregard|forget|override|drop)\b (?!.*\b(?:I|me|my|we|us|our)\b).{0,40}\b(?:user|above"
    r"|previous|prior|earlier|instructions?|orders|prompt)\b"
)
_SHOUTED = re.compile(
    r"(?i:\b(?:say|reply|answer|respond|output|print|repeat|write|speak|talk|end|finish|sign|mention|praise)\b)[^.!?]*\b[A-Z]{6,}\b"
)
"""These two: an instruction to a machine in a text that the user shows."""
_MYSELF = matcher(r"\b(?:I|me|my|we|us|our)\b")
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

_IF = matcher(r"\bif\b")
_MODAL = matcher(r"\b(?:would|could|might)\b|['’]d\b|\b(?:id|wed|youd|theyd)\b")
_HYPOTHETICAL = matcher(
    r"^(?:maybe|perhaps)\b|\b"
    + one_of(
        "if (?:I|we|they|he|she|it|you) were | think(?:ing)? aloud | imagine | supposing | suppose | what if",
        r"if only | I wonder | hypothetical\w* | (?:day-?)?dream(?:ing|s|t)?\b(?! about you) | (?:some|one) day",
        "someday | in theory | in another life | would be (?:nice|great|cool|fun|lovely) | were I | had (?:I|we)",
        "pipe dream | say (?:I|we) (?:had|were) | (?:I|we) (?:wish|could imagine) | toy(?:ing)? with | tempted to",
        r"fantasi[sz]\w+ | (?:think|thinking|thought) (?:of|about) \w+ing | consider(?:ing)? \w+ing",
        "play(?:ing)? with the (?:idea|thought) | lottery | just kidding | only joking | as a joke | for a laugh",
    )
    + r"\b"
)
_UNREAL = matcher(
    r"(?:^|[,;:.!?–—-]\s*|\b(?:and|but|so|or|then)\s+)(?:I|we|you|they|he|she|it|that|this|there|maybe"
    r"|perhaps)?(?: \w+)? ?"
    r"(?:(?<=\w)['’]d|would|could|might)\b(?! (?:like|rather|prefer|be (?:obliged|grateful|glad)|ask|appreciate"
    r"|kill|never)\b)"
    r"(?! \w+ (?:prefer|rather)\b)(?! better\b)"
)
"""A clause of what would be; the clauses before it may state facts."""
_CLAIMS = one_of(
    "(?:go(?:es)? (?:around|round|about) |keeps? (?:on )?)?(?:claim|insist|say|swear|reckon|alleg|argu|believ"
    "|maintain|pretend|suspect|assum|suppos|guess|bet|think|figur|estimat|hint|joke|declar|announc)(?:e?s|e?d|ing?)",
    "claim | insist | say | swear | reckon | argue | believe | maintain | think | assume | said | thought | swore",
    "heard | (?:is|are|was) (?:sure|convinced|certain|adamant|positive|of the opinion)",
    r"(?:told|tells?) (?:me|us|people|everyone|everybody|anyone|anybody|the \w+) | (?:writes?|wrote)(?= that)",
    "(?:has|have|had) (?:this|a|the|some) (?:theory|idea|notion|feeling|hunch) | would have (?:it|me believe)",
    "puts? it at | has it | makes? out | spreads? (?:the word|around|about)",
)
_SOURCE = r"(?:(?:the|our|my|a|its?) )?(?:[\w-]+ )?" + one_of(
    "it | plan | calendar | label | sign | dial | contract | log | page | list | law | manual | map | book",
    "schedule | screen | display | meter | clock | scale | ticket | invoice | website | documentation | config",
    "file | letter",
)
_SOURCE += r" (?:says?|said|tells?|told)\b"
"""What a thing says, unlike a person, the user has read."""
_CLAIM = matcher(
    rf"^(?!(?:I|we|you|when|if|as|after|before|once|because|who|what|how|im|ive)\b)(?!{_SOURCE})"
    r"(?P<who>[^.!?]{0,80}?[^\s,])(?<! to)(?<! not)"
    rf",?\s+(?:also |always |still |just |once |even )?{_CLAIMS}\b,?\s*(?:that\s+)?(?P<clause>.*)"
)
_HEARSAY = matcher(
    "^"
    + one_of(
        r"according to | as far as \w+ (?:is|are) concerned | (?:if you ask|ask) \w+ | rumou?r has it | apparently",
        "people say | they say | allegedly | word is | supposedly",
        r"(?:I|we)(?: have|'ve)? (?:heard|read|was told|were told|am told)(?: (?:somewhere|online|that|in \w+ \w+))",
        "(?:I|we)(?: have|'ve)? heard | legend has it | it is said | the (?:rumou?r|word|gossip) is",
    )
    + r"\b,?\s*(?:that\s+)?(?P<clause>.*)|(?P<before>.*), (?!as )(?:\w+ ){1,3}(?:says|said|claims|claimed|thinks"
    r"|joked)[.!]*$"
)
_CONTRAST = matcher(r"[,;]?\s+(?:but|though|although|whereas|while|yet)\s+|[,;.]\s+(?:in fact|actually|really),?\s+")
_NO_SPEAKER = matcher(r"\b(?:I|we|you|is|are|was|were|can|could|would|do|not|as|like)\b")
_DUTY = matcher(r"^(?:I|we) (?:must|should|need|can['’]t|cannot|have to|mustn['’]t|shouldn['’]t|may not)\b")
"""What somebody tells the user to do; it is the user's rule from then on."""
_ROLE_AND_NAME = re.compile(r"^(?:(?:[Mm]y|[Oo]ur|[Tt]he) )?(?:[a-z-]+ ){1,3}[A-Z]\w+$")

_SMALL_TALK = matcher(
    r"(?:I(?:['’]m| am) (?:so |very |really )*(?:bored|tired|hungry|back|here|busy|fine|ok|good|sorry|happy)\b"
    r"|I (?:like|love|doubt|think|knew|did|do|have) ?(?:it|that|this|so|not)?(?=\W*$)|I (?:['’]ll|will) (?:try"
    r"|see|do that)"
    r"|see you\b|how are you|that['’]s (?:all|it|great|nice|fine|good|helpful|funny)|I (?:never (?:said|told)"
    r"|told you nothing)"
    r"|talk (?:to you )?(?:soon|later)|you (?:made|invented) (?:that|it)|I mean it).{0,30}[.!…\s]*"
)
_ANSWERS = one_of(
    "answers? | repl(?:y|ies) | respon[ds]e?s? | explanations? | sentences? | bullet(?:s| points?)? | lists?",
    "emojis? | paragraphs? | words? | lines? | numbers? | digits | figures | units? | metric | imperial | miles?",
    r"km | kilomet\w+ | celsius | fahrenheit | grams | fractions? | decimals? | percent\w* | spelling | names?",
    "tone | jargon | dates? | times? | clock | 24-hour | 12-hour | comments? | code | python | examples? | markdown",
    r"tables? | headings? | capitals | caps | exclamation marks? | jokes? | apolog\w+ | small talk | slang",
    r"swear\w* | languages? | english | latin | french | german | spanish | titles? | first name | surname",
    "formal(?:ly)? | informal(?:ly)? | short | shorter | brief(?:ly)? | concise | long | plain | simple | simply",
    "rhymes? | verse | poems? | quotes? | links? | sources? | steps? | type hints | draft | message | texts?",
    r"letters? | sums | maths? | recipes? | plots? | diagrams? | call | address | refer | explain\w* | write",
)
_STANDING = one_of(
    "always | never | ever | only | whenever | wherever | every time | each time | from now on | from here on",
    "in future | for me | with me | to me | when (?:you|I|we|it|there) | if you | do without | stick (?:to|with)",
    "spare me | skip the | keep (?:it|things|them|your|all) | in general | by default | as a rule | rule",
    r"no \w+(?: \w+){0,3} (?:please|pls) | (?:call|address) me | refer to me | (?:is|are) (?:plenty|enough|fine)",
    "need | prefer | rather | instead of | hate | can't stand | don't like | go easy on | leave out | without",
    r"avoid | not \w+ (?:please|pls) | (?:please|pls) (?:no|not|don't|use)",
)
_ON_ANSWERS = matcher(
    rf"^(?=.*\b{_STANDING}\b)(?=.*\b{_ANSWERS}\b)|\b{_ANSWERS}\b[^.?!]{{0,30}}\b(?:only|please|pls)\W*$"
    rf"|^(?:please |pls )*(?:write|answer|reply|speak) (?:to me )?(?:in|with|like) \w+(?: \w+)?\W*$"
    rf"|^{_ANSWERS} (?:for|in|with) \w+\W*$"
    rf"|^(?:please |pls |just )*(?:no|not|nothing|less|fewer|never|use|avoid|skip|stop|don['’]?t|do not"
    rf"|spare)\b.*\b{_ANSWERS}\b"
)
"""How to answer, from now on."""
_ASKS_POLITELY = matcher(r"\b(?:can|could|would|will|may) (?:you|we|I)\b|\b(?:please|pls)\b")
_PREFERENCE = matcher(
    r"\b(?:allerg|intoleran|prefer|dislik|detest|loath|vegetarian|vegan|pescatarian|teetotal|diabet|c?o?eliac"
    r"|kosher|halal"
    r"|gluten|lactose|colou?r-?blind|dyslex)|^(?:no|not|nothing|never|always|only|please|pls)\b|\b"
    + one_of(
        "can't (?:stand|eat|have|digest|drink|bear|take|touch|abide|see) | must not | mustn't | vegan | no more",
        "cannot (?:stand|eat|have|digest|drink|bear|take|touch|abide|see) | can not | never | always | only | ever",
        r"rules? | nothing (?:with|else|on|containing|but) | no \w+ (?:please|pls|in|for|at|on) | without | avoid",
        "off limits | taboo",
        "(?:do not|don't|doesn't|does not|won't|will not) (?:do|use|want|like|eat|drink|suggest|touch|wear"
        "|contain|allow|have)",
        "(?:is|are|isn't|aren't) (?:not |never )?(?:eaten|drunk|used|served|allowed|welcome|forbidden|banned)",
        "I (?:just|only)? ?(?:drink|eat|use|want|write|wear|read|hate|love|like) | for me | with me | favou?rite",
        "I'd (?:like|love|hate|rather) | I would (?:like|rather|ask|be) | when(?:ever)? (?:you|I) | call me",
        "address me",
        r"(?:kill|poison|welts|hives|rash|swell\w*|itch\w*|choke|throat|stomach|hospital|sick|ill|ulcer|pen"
        r"|doctor\S* orders)",
        "react(?:s|ed)? (?:badly|to) | disagrees? with me | brings? me out | come out in | gave up | given up",
        r"off (?:the )?\w+ | quit \w+ing | stopped \w+ing | your (?:answers?|replies|reply|explanations?|tone|style)",
        r"from now on | free of | you (?:must|should|may)(?: not| only| never)? | must be | forbidden | religio\w+",
        "ramadan | lent | sabbath | fasting",
    )
    + r"\b"
)
_CORRECTION = matcher(
    rf"^no\b|\bfrom (?:\d\d? )?(?:{MONTHS})\b|\b"
    + one_of(
        r"after all | extension | had to move | made (?:me|us) move | (?:up|down) to (?=\d)",
        "from (?:next|this|today|tomorrow) | from (?:mon|tues|wednes|thurs|fri|satur|sun)day | scratch that",
        "I meant | typo | delayed | pushed | brought forward | put off | extended | rewrote | migrated | turned",
        "ran away | quit | correction | news | mistake | slipped | down to | now | instead",
        "in (?:fact|truth|reality) | actually | no longer | any ?more | since | changed? | moved | new | as of",
        "relocated | with effect | nowadays | until further | swapped | got moved | the other is | turns out",
        "switch(?:ed)? | upgraded? | jumped | back | wrong | went (?:up|down) | (?:is|are) (?:up|down|gone|over)",
        "I (?:said|told|gave you|wrote|mentioned) | retire[sd]? | left | leaves | gave up | shut | postponed",
        "renamed | rescheduled | replace[sd]? | until | these days | by now | meanwhile | sold",
        r"from .{1,30} (?:to|on) | so (?:\w+ )?(?:are |is |have |makes )?(?:\d+|two|three)",
        r"so (?:\w+ )?(?:are |is |have |makes )?(?:four|five|six|seven|eight|nine|ten|eleven|twelve)",
    )
    + r"\b"
)
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
        if (
            not has_paste
            and "\n" in content.strip()
            and (_INTRODUCES_TEXT.search(line) or is_request(line) or is_question(line))
        ):
            return  # the lines after it are the text


def _short_quote(quote: re.Match[str]) -> str:
    inner = quote[1] or quote[2] or ""
    return "" if len(words(inner)) >= _LONG_QUOTE or re.search(r"[.!?] \w", inner) else quote[0]


_AFTER_MARK = re.compile(r"(?<=\w[!?]) +|(?<=[!?]{2}) +")


def sentences(content: str) -> list[str]:
    """The user's own sentences of a turn, in order."""
    found = (
        part for line in _lines(content) for whole in split_sentences(line, "en") for part in _AFTER_MARK.split(whole)
    )
    parts = (
        part for sentence in found for part in re.findall(rf".{{1,{LONGEST}}}(?:\s|$)|\S{{1,{LONGEST}}}", sentence)
    )
    own = [part.strip() for part in parts if re.search(r"\w", part)]
    if any(_ADDRESSES_MACHINE.match(part) or _SHOUTED.search(part) for part in own):  # a text without marks around it
        own = [p for p in own if _MYSELF.search(p) and not _ADDRESSES_MACHINE.match(p) and not _SHOUTED.search(p)]
    return own


def without_lead_in(sentence: str) -> str:
    """The sentence without the interjections and connectives at its start ("Oh, and …")."""
    return _LEAD_IN.sub("", sentence).strip()


def to_remember(sentence: str) -> str | None:
    """The fact after "remember that", "keep in mind:" and the like; None if the sentence does not start so."""
    match = _REMEMBER.match(sentence)
    return sentence[match.end() :] if match and not sentence.endswith("?") else None


def is_question(sentence: str) -> bool:
    return sentence.rstrip("\"'”)! ").endswith(("?", "？", "؟")) or bool(_INVERTED.match(sentence))


def asks_something(message: str) -> bool:
    """Whether a message is a question, with or without its mark."""
    return is_question(message) or bool(_ASKING_START.match(without_lead_in(message)))


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
    conditional = _IF.search(sentence) and _MODAL.search(sentence)
    return bool(conditional or _HYPOTHETICAL.search(sentence))


def is_preference(sentence: str) -> bool:
    return bool(_PREFERENCE.search(sentence)) or is_about_answers(sentence)


@lru_cache(maxsize=1000)
def is_about_answers(sentence: str) -> bool:
    """Whether the sentence tells how to answer from now on, even if it has the form of a request or a question."""
    polite = not is_question(sentence) or _ASKS_POLITELY.search(sentence)
    return bool(polite and _ON_ANSWERS.search(sentence))


@lru_cache(maxsize=1000)
def corrects(text: str) -> bool:
    """Whether the text has a word of correction or change."""
    return bool(_CORRECTION.search(text))


def without_unreal(sentence: str) -> str:
    """The sentence up to the clause that tells what would be."""
    match = _UNREAL.search(sentence)
    return sentence if not match else _closed(sentence[: match.start()]) if match.start() else ""


def truth_after(claim: str) -> tuple[str, str]:
    """A claim and what the user sets against it: "it is 5, but the sign says 6"."""
    match = _CONTRAST.search(claim)
    return (claim[: match.start()], claim[match.end() :]) if match else (claim, "")


def claim(sentence: str) -> tuple[str, str] | None:
    """Who claims and what, if somebody else than the user makes the statement."""
    if match := _HEARSAY.match(sentence):
        return "", match["clause"] or match["before"] or ""
    match = _CLAIM.match(sentence)
    if not match or _DUTY.match(match["clause"]) or _NO_SPEAKER.search(match["who"]):
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
