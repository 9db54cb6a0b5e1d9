"""Questions → answers: a long-lived Answerer finds what is known about each question and answers from it in an arm.

    weights   no document is in the prompt: the best memories recite their passages and the untouched model answers from
              that, or, where the best memory did not learn to recite, its adapter answers
    text      the untouched model answers with a passage of the best memories in the prompt: with the one that the
              question is likeliest about (`answers.about`), or with all of them if it asks for two things
    both      the untouched model reads these passages and the question, and the adapter writes the answer
    auto      all three answer, and the answer that is most probably right is taken (`answers.choose`); `weights` is
              left out where a memory would only recite what `text` reads

Words decide which memories fit (`memory.route`); where they leave it open, the untouched model reads the memories. What
is read is grounded: an answer that the passages do not support gives way to their sentence that fits the question best,
and a model that does not read well only quotes (`judge.grounding`). Where no memory fits, the untouched model answers
closed book (`base`). All arms of all questions are decoded in one batch; what `text` and `both` have to read is read
once for both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from selfedit.answers.about import is_about, log_likelihoods
from selfedit.answers.choose import CERTAIN, probability
from selfedit.answers.nearest import nearest
from selfedit.answers.query import looked_up
from selfedit.disk import plain_errors
from selfedit.edits.quiz import with_passages
from selfedit.edits.recitation import recite
from selfedit.errors import AdapterError, MemoryStoreError, ModelError
from selfedit.judge.grounding import Grounded, Support, asks_two, grounded, support
from selfedit.libraries import Library, Scope, Wanted, described
from selfedit.memory.contradict import disagreeing
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Adapters, OnStep, Request, no_steps
from selfedit.model.load import Model
from selfedit.model.peft_folder import CONFIG_FILE
from selfedit.text import split_sentences
from selfedit.types import MemoryEntry, Message, Passage, Question

ANSWER_TOKENS = 64
"""Longest answer; a memory answers with a whole statement."""
HISTORY_TOKENS = 2048
"""Of a conversation, in the prompt at most; what is older is left out. On two cores the 0.5B model reads them in about
ten seconds."""
ADAPTERS = 32
"""Loaded together at most, which bounds the memory for any number of questions."""
NEARLY_AS_GOOD = 0.9
"""Share of the best memory's score that another one must reach, so that its adapter may answer."""
QUOTED_FROM = 3
"""Passages from which one sentence is quoted by a model that does not read well."""
DOUBTED = 2
"""Memories that are read to learn whether a question is about them, where words do not tell."""
COMPARED = 3
"""Memories that are searched for a sentence that contradicts an answer."""
BASE, WEIGHTS, TEXT, BOTH, AUTO = "base", "weights", "text", "both", "auto"
ARMS = (AUTO, WEIGHTS, TEXT, BOTH)
"""The ways to answer with what is known."""
TRIED = (WEIGHTS, TEXT, BOTH)
"""The arms that AUTO compares."""
RECITED = 256
"""Recitations that are remembered."""
TOGETHER = 8
"""Passages that are recited in one batch."""
ENDS = ".!?…。！？`"
"""Characters with which a sentence, or code, is whole."""
CLOSING = "\"'”’»)]*_ "
"""Characters that may follow them."""
T = TypeVar("T")
UNKNOWN = "I don't know."
"""The answer under `strict` where none is probably right."""


@dataclass(frozen=True)
class Ask:
    """A question, what to answer it with, and how to write the answer."""

    question: Question
    """One whose kind is not `question` is a text to be continued."""
    arm: str = AUTO
    """One of ARMS, or BASE: the untouched model, closed book."""
    memory: str | None = None
    """The whole id of a memory; None: those that fit best."""
    library: Wanted | None = None
    """The version that the question is about; None: the one that it names, else that of the project, else the newest
    known one. Memories of other versions of a library do not answer."""
    project: Mapping[str, str] = field(default_factory=dict)
    """The versions that the project's lock file pins."""
    passages: tuple[Passage, ...] = ()
    """To be in view in place of what fits best, the best first. Their memories answer, where the store has any."""
    writer: str | None = None
    """The whole id of the memory whose adapter writes; None: that of the best memory."""
    opening: str = ""
    """The beginning of the answer, which is given."""
    stop: Callable[[str], bool] | None = None
    """As in `Request.stop`."""
    query: str = ""
    """What the store is searched for, if not the question."""
    view: Callable[[Sequence[Passage], Question], Question] = with_passages
    """Puts passages before the question."""
    check: Callable[[str], str] | None = None
    """An answer → the same, or another one where the passages do not support it."""
    history: tuple[Message, ...] = ()
    """The conversation before the question."""
    whole: bool = True
    """Whether an answer that is cut off ends with its last whole sentence."""
    grounds: bool = True
    """Whether a sentence of the passages is quoted where they do not support the answer; not for what asks for more
    than a fact."""
    strict: bool = False
    """UNKNOWN where no answer is probably right."""
    max_new_tokens: int = ANSWER_TOKENS
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 0.95
    seed: int = 0
    allow: Callable[[Sequence[int]], Sequence[int]] | None = None
    """A grammar, as in `Request.allow`."""

    @property
    def looked_up(self) -> str:
        """What the store is searched for."""
        return self.query or looked_up(self.question.question, self.history)

    @property
    def is_grounded(self) -> bool:
        """Whether an answer that was read may give way to a sentence: the form of the answer is not given."""
        is_free = not (self.opening or self.stop or self.allow or self.check) and self.view is with_passages
        return self.grounds and is_free and self.question.kind == "question"

    @property
    def scope(self) -> Scope:
        """The versions of libraries that may answer. Passages and a memory that are named explicitly are of another
        version only where `library` says so."""
        is_explicit = self.memory is not None or bool(self.passages)
        return Scope(self.library) if is_explicit else Scope(self.library, self.looked_up, self.project)


@dataclass(frozen=True)
class Candidate:
    """One arm's answer."""

    arm: str
    """One of ARMS but AUTO, or `base`."""
    text: str
    support: Support | None = None
    """By the passages that are known; None without any."""
    quoted: bool = False
    """Whether the text is the supporting sentence, in place of what a model wrote."""
    probability: float | None = None
    """That it is right (`answers.choose`); None where there is nothing to judge it by."""

    def record(self) -> dict:
        record: dict = {"arm": self.arm, "answer": self.text}
        if self.support:
            record |= {"support": round(self.support.share, 3), "sentence": self.support.sentence}
        record |= {"quoted": True} if self.quoted else {}
        return record | ({} if self.probability is None else {"probability": round(self.probability, 3)})


@dataclass(frozen=True)
class Answer:
    answer: str
    arm: str
    """What answered: one of WEIGHTS, TEXT, BOTH, BASE; empty if nothing did."""
    memory: MemoryEntry | None
    """Whose passage supports the answer, else whose adapter gave it; None: the untouched model answered closed book."""
    writer: MemoryEntry | None
    """Whose adapter answered, or which memory that recites fits best; None: the untouched model answered from the text
    or closed book."""
    score: float
    """How well the best memory fits the question, in [0, 1) (`Router.route`)."""
    candidates: tuple[Candidate, ...] = ()
    """The answer of every arm that was tried."""
    tokens: int = 0
    """Tokens read and written for all of them; a prompt that two arms have is read once. Those of a recitation are not
    counted: it is remembered for other questions."""
    disagrees: tuple[dict, ...] = ()
    """Other sources that contradict this one about the question: `memory`, `source`, the sentences `here` and
    `there`."""
    error: str = ""
    """Why there is no answer."""
    note: str = ""
    """Why an adapter that fits did not answer, or which versions of a library are not known."""
    recited: tuple[Passage, ...] = ()
    """What the memories recited, where the answer was read from that."""
    read: tuple[Passage, ...] = ()
    """The stored passages that were in view, where the answer was read from them."""

    @property
    def taken(self) -> Candidate | None:
        """The candidate that became the answer; None if none did."""
        return next((candidate for candidate in self.candidates if candidate.arm == self.arm), None)

    def record(self) -> dict:
        record = {
            "answer": self.answer,
            "from": self.arm,
            "memory": self.memory.id if self.memory else None,
            "source": self.memory.passage.source if self.memory else None,
        }
        if self.memory and self.memory.passage.library:
            record["library"] = self.memory.passage.library
        disagrees = {"disagrees": list(self.disagrees)} if self.disagrees else {}
        told = {name: text for name, text in (("error", self.error), ("note", self.note)) if text}
        return record | disagrees | told


@dataclass
class Plan:
    """How a question is answered: what `Answerer.plan` gives to a decoder, which adds a text for each request."""

    ask: Ask
    memories: list[MemoryEntry]
    """That fit, the best first, as many as the model reads or quotes."""
    score: float
    writer: MemoryEntry | None = None
    """The best memory with an adapter."""
    fitting: list[Passage] = field(default_factory=list)
    """Those that were named, else those of the memories, the best first."""
    reciters: list[MemoryEntry] = field(default_factory=list)
    """The memories that recite for WEIGHTS, the best first; empty where the writer's adapter answers by itself."""
    recited: list[Passage] = field(default_factory=list)
    """What they recited: in view in WEIGHTS."""
    passages: list[Passage] = field(default_factory=list)
    """In view in TEXT and BOTH, or to be quoted."""
    requests: dict[str, Request] = field(default_factory=dict)
    """By arm, without the row of the adapter."""
    texts: dict[str, str] = field(default_factory=dict)
    """What was written, by arm; empty where a sentence is quoted."""
    tokens: int = 0
    error: str = ""
    note: str = ""
    left_out: int = 0
    """The conversation's first messages that no prompt has, because it is too long."""

    def add_note(self, text: str) -> None:
        self.note = "; ".join(filter(None, [self.note, text]))

    @property
    def reads_one(self) -> bool:
        """Whether only the passage that the question is most likely about is to be read. A question that asks for two
        things keeps all."""
        is_fixed = self.error or self.ask.passages or not self.ask.is_grounded or asks_two(self.ask.question.question)
        return not is_fixed and len(self.recited or self.fitting) > 1

    def acts(self, arm: str) -> bool:
        """Whether the writer's adapter acts on the answer of this arm."""
        return arm == BOTH or (arm == WEIGHTS and not self.reciters)

    def reads(self, arm: str) -> bool:
        """Whether the answer of this arm is read from passages."""
        return arm in (TEXT, BOTH) or (arm == WEIGHTS and bool(self.recited))

    @property
    def streams(self) -> bool:
        """Whether the answer is known as it is written: nothing is compared or checked afterwards."""
        changes = self.ask.strict or self.ask.check or (self.ask.is_grounded and any(map(self.reads, self.requests)))
        return len(self.requests) == 1 and not self.texts and not changes

    @property
    def adapter(self) -> str | None:
        """The memory whose adapter is needed."""
        return self.writer.id if self.writer and any(map(self.acts, self.requests)) else None

    def known(self, arm: str) -> list[Passage]:
        """What may support the answer of an arm."""
        if arm == WEIGHTS and self.writer:
            return self.recited or [self.writer.passage]
        return self.passages

    def memory(self, answer: Candidate) -> MemoryEntry | None:
        """Whose passage supports an answer, else whose adapter gave it."""
        passage = answer.support and answer.support.passage
        if answer.arm == WEIGHTS and self.recited:
            return next((entry for entry, one in zip(self.reciters, self.recited) if one == passage), self.writer)
        if answer.arm in (WEIGHTS, BASE):
            return self.writer if answer.arm == WEIGHTS else None
        # By its id: a passage of what the user told gets another source_hash with everything that they tell later.
        return next((entry for entry in self.memories if passage and entry.passage.id == passage.id), self.writer)


def whole_sentences(text: str) -> str:
    """An answer that was cut off at its last token, without the sentence that is not whole, if another one is."""
    *whole, last = split_sentences(text) or [""]
    if any(not part.endswith("?") for part in whole) and last.rstrip(CLOSING)[-1:] not in ENDS:
        text = text.removesuffix(last).rstrip()
    return f"{text}\n```" if text.count("```") % 2 else text


class Answerer:
    """A model and a store, and what answering needs of them between calls. Not for several threads at once."""

    def __init__(self, model: Model, store: MemoryStore):
        self.model, self.store = model, store
        self._entries: dict[str, MemoryEntry] = {}
        self._routers: dict[tuple[Library, ...], Router] = {}
        self._recited: dict[tuple[Path, str], Passage] = {}
        """By the folder of the adapter and the passage, the oldest first."""
        self._version = -1

    def answer(self, asks: Sequence[Ask], *, on_token: OnStep = no_steps) -> list[Answer]:
        """Answers in the order of the questions.

        A question that is too long for the model gets an error in place of an answer; raises ModelError if all are, and
        MemoryStoreError if an Ask names a memory that is not there."""

        def read() -> list[Answer]:
            plans, paths = self._plans(asks, on_token)
            if plans and all(plan.error for plan in plans):
                raise ModelError(plans[0].error)
            self._write(plans, paths, on_token)
            return [self._chosen(plan) for plan in plans]

        return self._consistently(read)

    def plan(self, ask: Ask) -> tuple[Plan, Path | None]:
        """How to answer a question, for a decoder that runs on its own: it adds to `Plan.texts` one text for each of
        `Plan.requests`. The path is the folder of the adapter that the requests of some arms need (`Plan.acts`). There
        are no requests where all is quoted, or where `Plan.error` says why. What is to be recited has been when this
        returns. Raises as `answer` does."""

        def read() -> tuple[Plan, Path | None]:
            (plan,), paths = self._plans([ask])
            return plan, paths.get(plan.adapter or "")

        return self._consistently(read)

    def finish(self, plan: Plan) -> Answer:
        """The answer that is most probably right, of those that were written."""
        return self._consistently(lambda: self._chosen(plan))

    def _consistently(self, read: Callable[[], T]) -> T:
        def at(version: int) -> T:
            if version != self._version:
                self._entries, self._routers, self._version = {}, {}, version
            return read()

        return self.store.read_consistently(at)

    # What is asked with what

    def _plans(self, asks: Sequence[Ask], on_token: OnStep = no_steps) -> tuple[list[Plan], dict[str, Path]]:
        assert all(ask.arm in (*ARMS, BASE) for ask in asks)
        plans = [self._found(ask) for ask in asks]
        self._recite([plan for plan in plans if plan.reciters and plan.ask.arm == WEIGHTS], on_token)
        self._keep_likeliest([plan for plan in plans if plan.reads_one and self.model.reads_well])
        for plan in plans:
            self._prepare(plan)
        return plans, self._paths(plans)

    def _router(self, scope: Scope) -> Router:
        hidden = tuple(scope.hidden(self.store.libraries(self.model.fingerprint)))
        if hidden not in self._routers:
            self._routers[hidden] = self.store.router(self.model.fingerprint, scope)
        return self._routers[hidden]

    def _found(self, ask: Ask) -> Plan:
        """What is known about a question: the memories, and whose adapter answers."""
        tags, router = self.store.libraries(self.model.fingerprint), self._router(ask.scope)
        hidden = {str(tag) for tag in ask.scope.hidden(tags)} if ask.library else set()
        passages = [passage for passage in ask.passages if passage.library not in hidden]
        if ask.arm == BASE:
            plan = Plan(ask, [], 0.0)
        elif ask.passages:
            entries = self.store.active_of(passages, self.model.fingerprint)
            writer = next((entry for entry in entries if entry.has_adapter), None)
            plan = Plan(ask, entries, router.route(ask.looked_up)[1], writer)
        elif ask.memory is not None:
            entry = self._entry(ask.memory)
            if entry.passage.library in hidden:
                raise MemoryStoreError(f"memory {entry.id} is about {entry.passage.library}, not about {ask.library}")
            plan = Plan(ask, [entry], 1.0, entry if entry.has_adapter else None)
        else:
            ranked = router.ranked(ask.looked_up) or self._fitting_by_reading(ask, router)
            score = ranked[0][1] if ranked else router.route(ask.looked_up)[1]
            most = QUOTED_FROM if self._quotes(ask) else self.model.max_passages
            plan = Plan(ask, [self._entry(id) for id, _ in ranked[:most]], score)
            good = [id for rank, (id, fit) in enumerate(ranked) if rank == 0 or fit >= NEARLY_AS_GOOD * score]
            plan.writer = next((entry for entry in map(self._entry, good) if entry.has_adapter), None)
        if ask.writer is not None:
            plan.writer = self._entry(ask.writer)
        elif plan.writer and plan.writer.recites:
            plan.reciters = [entry for entry in plan.memories if entry.recites] or [plan.writer]
        plan.fitting = passages or [entry.passage for entry in plan.memories]
        return plan

    def _fitting_by_reading(self, ask: Ask, router: Router) -> list[tuple[str, float]]:
        """The memories that may answer although their words alone do not tell, with their scores, the best first."""
        doubtful = router.doubtful(ask.looked_up)
        passages = [self._entry(id).passage for id, _ in doubtful[:DOUBTED]]
        return doubtful if passages and is_about(self.model, ask.looked_up, passages) else []

    def _quotes(self, ask: Ask) -> bool:
        """Whether the model does not read for this question: what is known is only quoted."""
        return ask.is_grounded and not self.model.reads_well

    def _recite(self, plans: Sequence[Plan], on_token: OnStep) -> None:
        """Fills in what the memories of each plan recite; a damaged one is left out, and an error if it is alone."""
        entries = {entry.id: entry for plan in plans for entry in plan.reciters}
        paths, damaged = {}, {}
        for id in entries:
            try:
                paths[id] = self.store.reciting_path(id)
            except MemoryStoreError as error:
                if self.store.version != self._version:
                    raise
                damaged[id] = str(error)
        left = {id: path for id, path in paths.items() if (path, entries[id].passage.id) not in self._recited}
        for adapters, rows in self._adapters(left):
            for low in range(0, len(rows), TOGETHER):
                assert adapters  # the untouched model recites nothing
                some = list(rows)[low : low + TOGETHER]
                passages, of_some = [entries[id].passage for id in some], [rows[id] for id in some]
                said = recite(self.model, passages, of_some, adapters, on_token=on_token)
                self._recited |= {(paths[id], entries[id].passage.id): one for id, one in zip(some, said)}
        for plan in plans:
            for entry in plan.reciters:
                plan.add_note(damaged.get(entry.id, ""))
            plan.reciters = [entry for entry in plan.reciters if entry.id in paths]
            plan.error = "" if plan.reciters else plan.note
            plan.recited = [self._recited[paths[entry.id], entry.passage.id] for entry in plan.reciters]
        while len(self._recited) > RECITED:
            del self._recited[next(iter(self._recited))]

    def _keep_likeliest(self, plans: Sequence[Plan]) -> None:
        """Of what each plan would read, leaves the passage that the question is most likely about: a small model reads
        one better than several."""
        read = [plan.recited or plan.fitting[: self.model.max_passages] for plan in plans]
        asked = [(plan.ask.looked_up, passage) for plan, passages in zip(plans, read) for passage in passages]
        found = iter(log_likelihoods(self.model, asked) if asked else ())
        for plan, passages in zip(plans, read):
            likely = [next(found) for _ in passages]
            best = likely.index(max(likely))
            if plan.recited:
                plan.reciters, plan.recited = [plan.reciters[best]], [plan.recited[best]]
            else:
                plan.fitting = [plan.fitting[best]]

    def _prepare(self, plan: Plan) -> None:
        """Adds the requests and the notes, if there is no error yet."""
        if plan.error:
            return
        ask, arms = plan.ask, self._arms(plan)
        if plan.memories and not plan.writer and not arms:
            plan.add_note(f"memory {plan.memories[0].id} fits, but has no adapter: it answers from its text")
        try:
            closed_book = self._request(plan, ask.question)
            if WEIGHTS in arms and plan.recited and self._quotes(ask):
                plan.texts[WEIGHTS] = ""
            elif WEIGHTS in arms and plan.recited:
                plan.recited, plan.requests[WEIGHTS] = self._in_view(plan, plan.recited)
            elif WEIGHTS in arms or not arms:
                plan.requests[WEIGHTS if arms else BASE] = closed_book
            if TEXT in arms and self._quotes(ask):
                arms -= {TEXT}
                plan.passages, plan.texts[TEXT] = list(plan.fitting), ""
            if in_view := arms & {TEXT, BOTH}:
                self._read(plan, plan.fitting, in_view)
        except ModelError as error:
            plan.error = str(error)
        if plan.left_out:
            plan.add_note(f"the conversation is long: its first {plan.left_out} messages are left out")
        if ask.arm != BASE and (ask.library or self.store.libraries(self.model.fingerprint)):
            plan.add_note("; ".join(self._unknown_versions(plan)))

    def _arms(self, plan: Plan) -> set[str]:
        """The ways in which a question is answered; none: the untouched model answers closed book."""
        ask, known = plan.ask, plan.fitting
        if not plan.writer:
            return {TEXT} if known and ask.arm not in (WEIGHTS, BASE) else set()
        arms = {*TRIED} if ask.arm == AUTO else {ask.arm}
        if ask.arm == AUTO and plan.reciters:  # what is recited would only repeat the text
            arms -= {WEIGHTS, BOTH} if self._quotes(ask) else {WEIGHTS}
        if not known and ask.writer is not None:
            arms = {WEIGHTS} if arms & {WEIGHTS, BOTH} else set()
        return arms

    def _unknown_versions(self, plan: Plan) -> list[str]:
        """In words, the versions that the question is about and of which nothing is known."""
        ask, tags = plan.ask, self.store.libraries(self.model.fingerprint)
        notes = ask.scope.unknown(tags)
        if notes or plan.memories or ask.passages:
            return notes
        other, _ = self.store.router(self.model.fingerprint).route(ask.looked_up)
        if other is None or not (library := self._entry(other).passage.library):
            return []
        tag = Library.parse(library)
        about = ask.scope.versions(tags)[tag.name]
        return [f"what fits is about {described(tag)}, the question about {described(about)}; --for {tag} asks that"]

    def _entry(self, id: str) -> MemoryEntry:
        if id not in self._entries:
            self._entries[id] = self.store.get(id)
        return self._entries[id]

    def _read(self, plan: Plan, known: Sequence[Passage], arms: set[str]) -> None:
        """Adds the requests with passages in view."""
        try:
            passages, request = self._in_view(plan, known)
        except ModelError:
            if not (plan.requests or plan.texts):
                raise
            return
        plan.passages = plan.passages or passages
        plan.requests |= {TEXT: request} if TEXT in arms else {}
        if BOTH in arms:
            opening = self.model.chat.opening(plan.ask.question) + len(self._opening(plan.ask))
            plan.requests[BOTH] = replace(request, adapter_from=len(request.tokens) - opening)

    def _in_view(self, plan: Plan, known: Sequence[Passage]) -> tuple[list[Passage], Request]:
        """As many of the passages as the model can read well, and the request with them in view."""
        known = known if plan.ask.passages else known[: self.model.max_passages]
        for count in range(len(known), 0, -1):
            try:
                return list(known[:count]), self._request(plan, plan.ask.view(known[:count], plan.ask.question))
            except ModelError:
                continue
        has_direct = plan.writer and not plan.reciters
        raise ModelError(
            f"a passage of {len(self.model.chat.encode(known[0].text))} tokens “{known[0].title}” and an answer of "
            f"{plan.ask.max_new_tokens} do not fit the model's {self.model.backend.max_positions} positions; give "
            f"fewer --tokens{', or --from weights' if has_direct else ''}"
        )

    def _request(self, plan: Plan, question: Question) -> Request:
        """The request for a question, or for one with passages before it. Raises ModelError if the model cannot read
        it."""
        ask, limit = plan.ask, self.model.backend.max_positions
        fixed = int(bool(ask.history) and ask.history[0].role == "system")
        turns = len(ask.history) - fixed

        def prompt(left_out: int) -> list[int]:
            history = ask.history[:fixed] + ask.history[fixed + left_out :]
            return self.model.chat.prompt(question, history) + self._opening(ask)

        tokens = prompt(turns)
        alone = len(tokens)
        if alone + ask.max_new_tokens > limit:
            raise ModelError(
                f"a question of {alone} tokens and an answer of {ask.max_new_tokens} do not fit the model's "
                f"{limit} positions; shorten it"
            )
        most = min(limit - ask.max_new_tokens, alone + HISTORY_TOKENS)
        # Templates expect a user's turn first; some refuse to render any other.
        starts = [i for i in range(turns) if ask.history[fixed + i].role == "user"]
        at = bisect_left(starts, True, key=lambda count: len(prompt(count)) <= most)
        left_out = starts[at] if at < len(starts) else turns
        plan.left_out = max(plan.left_out, left_out)
        return Request(
            tuple(tokens if left_out == turns else prompt(left_out)),
            max_new_tokens=ask.max_new_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=ask.seed,
            allow=ask.allow,
            stop=ask.stop,
        )

    def _opening(self, ask: Ask) -> list[int]:
        return self.model.chat.encode(self.model.chat.plain(ask.opening)) if ask.opening else []

    # The answers

    def _paths(self, plans: Sequence[Plan]) -> dict[str, Path]:
        """The verified folder of each adapter that is needed. Where one is damaged, the text answers in AUTO; else the
        plan gets an error. Raises MemoryStoreError if all plans have one."""
        paths: dict[str, Path] = {}
        damage: MemoryStoreError | None = None
        for plan in plans:
            if plan.adapter is None or plan.adapter in paths:
                continue
            try:
                paths[plan.adapter] = self.store.answering_path(plan.adapter)
            except MemoryStoreError as error:
                if self.store.version != self._version:
                    raise
                left = {arm: request for arm, request in plan.requests.items() if not plan.acts(arm)}
                if plan.ask.arm == AUTO and (left or plan.texts):
                    plan.requests = left
                    plan.add_note(str(error))
                else:
                    plan.requests, plan.error, damage = {}, str(error), error
        if damage and all(plan.error for plan in plans):
            raise damage
        return paths

    def _write(self, plans: Sequence[Plan], paths: dict[str, Path], on_token: OnStep) -> None:
        """Fills in the texts of all arms."""
        for adapters, rows in self._adapters(paths):
            batch = [
                (plan, arm, replace(request, adapter=rows.get(plan.adapter or "") if plan.acts(arm) else None))
                for plan in plans
                if (plan.adapter in rows if adapters else not plan.adapter)
                for arm, request in plan.requests.items()
            ]
            written = self.model.backend.generate([request for *_, request in batch], adapters, on_token=on_token)
            for (plan, arm, _), tokens in zip(batch, written):
                self.take(plan, arm, tokens)

    def take(self, plan: Plan, arm: str, tokens: list[int]) -> None:
        """Takes what was written for the request of an arm."""
        text, request = self.model.chat.decode(tokens).strip(), plan.requests[arm]
        is_cut = len(tokens) == request.max_new_tokens and plan.ask.whole and plan.ask.question.kind == "question"
        text = whole_sentences(text) if is_cut else text
        plan.texts[arm] = plan.ask.check(text) if plan.ask.check else text
        is_shared = arm == BOTH and TEXT in plan.requests
        plan.tokens += len(tokens) + (0 if is_shared else len(request.tokens))

    def _adapters(self, paths: dict[str, Path]) -> Iterator[tuple[Adapters | None, dict[str, int]]]:
        """The adapters of these memories, in batches of one LoRA configuration, with the row of each memory; first
        None, for the untouched model."""
        yield None, {}
        groups: dict[str, list[Path]] = {}
        for path in dict.fromkeys(paths.values()):
            with plain_errors(f"read {path}", AdapterError):  # another process may have forgotten it
                groups.setdefault((path / CONFIG_FILE).read_text(), []).append(path)
        for folders in groups.values():
            for low in range(0, len(folders), ADAPTERS):
                rows = {path: row for row, path in enumerate(folders[low : low + ADAPTERS])}
                loaded = self.model.backend.load(list(rows))
                yield loaded, {id: rows[path] for id, path in paths.items() if path in rows}

    def _chosen(self, plan: Plan) -> Answer:
        """The answer that is most probably right."""
        if plan.error:
            return Answer("", "", None, None, 0.0, error=plan.error)
        candidates = [self._candidate(plan, arm, plan.texts[arm]) for arm in (*TRIED, BASE) if arm in plan.texts]
        best = max(candidates, key=lambda c: c.probability or 0.0)
        unknown = plan.ask.strict and (best.probability or 0.0) < CERTAIN
        memory = plan.memory(best)
        return Answer(
            UNKNOWN if unknown else best.text,
            "" if unknown else best.arm,
            memory,
            plan.writer if best.arm in (WEIGHTS, BOTH) else None,
            plan.score,
            tuple(candidates),
            plan.tokens,
            self._disagreeing(plan.ask.looked_up, memory, plan.ask.scope) if memory else (),
            note=plan.note,
            recited=tuple(plan.recited) if best.arm == WEIGHTS else (),
            read=tuple(plan.passages) if best.arm in (TEXT, BOTH) else (),
        )

    def _candidate(self, plan: Plan, arm: str, text: str) -> Candidate:
        if not (known := plan.known(arm)):
            return Candidate(arm, text)
        if plan.ask.is_grounded and plan.reads(arm):
            answer = grounded(plan.ask.looked_up, text or UNKNOWN, known)
        else:
            answer = Grounded(text, support(plan.ask.looked_up, text, known))
        read = TEXT if arm == WEIGHTS and plan.recited else arm  # what was recited is read like the text
        likely = probability(read, answer, plan.score, self.model.max_passages)
        return Candidate(arm, answer.text, answer.support, answer.quoted, likely)

    def _disagreeing(self, question: str, entry: MemoryEntry, scope: Scope) -> tuple[dict, ...]:
        """Contradictions between the answering memory and other memories that fit the question, about what it asks."""
        router = self._router(scope)
        fitting = [id for id, _ in router.best(question, COMPARED, router.threshold)]
        others = [self._entry(id) for id in fitting if id != entry.id]
        records = [record for other in others for record in disagreeing(entry.passage, other)]
        return tuple(r for r in records if nearest(question, {"": f"{r['here']}\n{r['there']}"}) is not None)
