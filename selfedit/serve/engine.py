"""Questions of many people at once → answers, while one running batch decodes them all.

In: an Ask and the home that it is answered from. Out: pieces of text as they are written, then the Answer. One thread
decodes the batch; meanwhile a reader of conversations (`sessions.Reader`) may use the same model in other threads. A
question joins the batch between two tokens of the others, whatever memory it needs, and leaves when it has ended. Where
several arms are compared, nothing is known of the answer before all of them have been written, so it comes in one
piece, as does one that a quotation may replace (`Plan.streams`); others are streamed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from traceback import print_exception

from selfedit.answers.answerer import Answer, Answerer, Ask, Plan
from selfedit.errors import SelfeditError
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model

SLOTS = 64
"""Adapters that are loaded at once."""
HOMES = 64
"""Stores that stay open."""
RECENT = 1024
"""Requests whose times `Measured` remembers."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""At the end of a text: the bytes of a character of which some are still to come."""


@dataclass(frozen=True)
class Written:
    """An answer with what an API reports beside it."""

    answer: Answer
    text: str
    """Up to the first stop text."""
    prompt_tokens: int
    completion_tokens: int
    """Of the arm that was taken."""
    is_cut: bool
    """Whether it ended because it was as long as it may be."""


@dataclass
class Measured:
    """What the engine has done since it started."""

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    """Written, over all arms."""
    first_token_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))


class EngineError(Exception):
    """A fault of the batch that a question was in; the log of the server says which."""


class _Turn:
    """A question that is being answered. Its client's callbacks run in the client's event loop."""

    def __init__(self, home: Path, ask: Ask, stops: Sequence[str], send: Callable[[str | Written | Exception], None]):
        self.home, self.ask, self.stops, self.send = home, ask, stops, send
        self.began = monotonic()
        self.plan: Plan | None = None
        self.streams = False
        self.tokens: dict[str, list[int]] = {}
        self.left: dict[int, str] = {}
        """Keys in the batch of what is still being written, with their arms."""
        self.sent = ""
        self.cancelled = False


class Engine:
    """Answers in a thread of its own. `answer` may be called from any event loop."""

    def __init__(self, model: Model):
        self.model, self.measured = model, Measured()
        self._inbox: SimpleQueue[_Turn | None] = SimpleQueue()
        self._waiting = 0
        self._turns: dict[int, _Turn] = {}
        self._answerers: OrderedDict[Path, Answerer] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="selfedit-engine", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Questions that are being answered or wait for their turn."""
        return self._waiting

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after the token that is being written."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    async def answer(self, home: Path, ask: Ask, stops: Sequence[str] = ()) -> AsyncGenerator[str | Written]:
        """Pieces of the answer's text, then a Written. Raises SelfeditError. A client that stops listening frees its
        place in the batch."""
        loop, received = asyncio.get_running_loop(), asyncio.Queue[str | Written | Exception]()
        turn = _Turn(home, ask, stops, lambda item: _call(loop, received.put_nowait, item))
        self._waiting += 1
        self._inbox.put(turn)
        try:
            while True:
                item = await received.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Written):
                    return
        finally:
            turn.cancelled = True
            self._waiting -= 1

    # The thread

    def _run(self) -> None:
        self._batch = self.model.backend.decoding(SLOTS)
        while True:
            try:
                while turn := self._next():
                    self._join(turn)
            except StopIteration:
                return
            self._drop_cancelled()
            try:
                written = self._batch.step()
            except Exception as error:  # a fault of one step must not leave all clients without a reply
                self._fail_all(error)
                continue
            for key, token in written:
                self._take(key, token)

    def _next(self) -> _Turn | None:
        """The next new question; waits for one if nothing is being written. Raises StopIteration at the end."""
        try:
            turn = self._inbox.get(block=not self._turns)
        except Empty:
            return None
        if turn is None:
            raise StopIteration
        return turn

    def _join(self, turn: _Turn) -> None:
        if turn.cancelled:
            return
        try:
            plan, folder = self._answerer(turn.home).plan(turn.ask)
            if plan.error:
                raise SelfeditError(plan.error)
            turn.plan, turn.streams, turn.tokens = plan, plan.streams, {arm: [] for arm in plan.requests}
            needs = {arm: folder if plan.acts(arm) else None for arm in plan.requests}
            keys = self._batch.add([(request, needs[arm]) for arm, request in plan.requests.items()])
        except Exception as error:
            self._end(turn, error)
            return
        turn.left = dict(zip(keys, plan.requests))
        self._turns |= dict.fromkeys(keys, turn)
        if not turn.left:
            self._finish(turn)

    def _answerer(self, home: Path) -> Answerer:
        answerer = self._answerers.pop(home, None) or Answerer(self.model, MemoryStore(home))
        self._answerers[home] = answerer
        while len(self._answerers) > HOMES:
            _, unused = self._answerers.popitem(last=False)
            unused.store.close()
        return answerer

    def _drop_cancelled(self) -> None:
        for turn in {id(turn): turn for turn in self._turns.values() if turn.cancelled}.values():
            self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        for key in turn.left:
            self._batch.cancel(key)
            self._turns.pop(key, None)
        turn.left = {}

    def _take(self, key: int, token: int | None) -> None:
        turn = self._turns.get(key)
        if turn is None:
            return
        arm = turn.left[key]
        if token is None:
            del turn.left[key], self._turns[key]
        else:
            if not any(turn.tokens.values()):
                self.measured.first_token_s.append(monotonic() - turn.began)
            turn.tokens[arm].append(token)
            self.measured.tokens += 1
            if turn.streams:
                self._stream(turn, arm)
        if not turn.left and not turn.cancelled:
            self._finish(turn)

    def _stream(self, turn: _Turn, arm: str) -> None:
        """Sends what is new of the text, but for what may be the beginning of a stop text or half a character."""
        text = self.model.chat.decode(turn.tokens[arm]).lstrip()
        cut = _before_stop(text, turn.stops)
        if cut != text:
            self._leave(turn)
        elif text.endswith(_INCOMPLETE):
            return
        ready = cut if cut != text else text[: len(text) - _maybe_stop(text, turn.stops)]
        if len(ready) > len(turn.sent) and ready.startswith(turn.sent):
            turn.send(ready[len(turn.sent) :])
            turn.sent = ready

    def _finish(self, turn: _Turn) -> None:
        plan = turn.plan
        assert plan is not None
        try:
            answerer = self._answerer(turn.home)
            for arm, tokens in turn.tokens.items():
                answerer.take(plan, arm, tokens)
            answer = answerer.finish(plan)
            written = self._written(turn, plan, answer)
        except Exception as error:
            self._end(turn, error)
            return
        if written.text.startswith(turn.sent) and written.text != turn.sent:
            turn.send(written.text[len(turn.sent) :])
        self._end(turn, written)

    def _written(self, turn: _Turn, plan: Plan, answer: Answer) -> Written:
        """The answer as it is sent. A quotation has as many tokens as may be written at most."""
        request, tokens = plan.requests.get(answer.arm), turn.tokens.get(answer.arm, [])
        is_cut, text = len(tokens) == plan.ask.max_new_tokens, answer.answer
        if answer.taken and answer.taken.quoted:
            whole = self.model.chat.encode(self.model.chat.plain(text))
            tokens = whole[: plan.ask.max_new_tokens]
            is_cut = tokens != whole
            text = self.model.chat.decode(tokens).strip(_INCOMPLETE + " \n") if is_cut else text
        elif turn.streams and answer.arm:
            text = self.model.chat.decode(tokens).lstrip()
        text = _before_stop(text, turn.stops)
        read = len(request.tokens) if request else 0
        return Written(replace(answer, answer=text), text, read, len(tokens), is_cut)

    def _end(self, turn: _Turn, result: Written | Exception) -> None:
        self.measured.requests += 1
        self.measured.failed += isinstance(result, Exception)
        self.measured.seconds.append(monotonic() - turn.began)
        turn.cancelled = True
        turn.send(result)

    def _fail_all(self, error: Exception) -> None:
        print_exception(error)
        for turn in {id(turn): turn for turn in self._turns.values()}.values():
            self._end(turn, EngineError(f"the batch failed ({type(error).__name__})"))
        self._turns.clear()
        self._batch = self.model.backend.decoding(SLOTS)


def _call(loop: asyncio.AbstractEventLoop, function: Callable, item: object) -> None:
    """Runs it in that loop, unless the loop has ended, and with it whoever waited there."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, item)


def _before_stop(text: str, stops: Sequence[str]) -> str:
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _maybe_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may begin a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
