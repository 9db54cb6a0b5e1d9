"""A model behind an OpenAI-compatible API: prompts → what the caller reads in the replies.

The remote judge and the remote writer share this module. Requests run in parallel threads, and a temporary failure is
retried. If the server does not respond to a request after all attempts, the following requests get one attempt each,
until it responds again. Errors that a retry cannot fix (a refused key, an unknown model, a wrong address, an empty
account) are raised at once. What was read is stored in a file of JSON lines and never requested twice.

Left out: batch APIs (they take a day), models that reason before they answer (their replies are cut off), a limit on
the cost. The retries are our own because threads share the state of the server and stop waiting on the first error,
which general retry libraries leave to the caller; the threads are, because Ctrl-C must not wait for open requests.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import httpx

from selfedit import disk
from selfedit.errors import ModelError, SelfeditError
from selfedit.types import as_utf8, text_hash

MAX_WAIT_S = 60.0
"""Longest wait before another attempt, even if the server asks for a longer one."""
CHECK_WAIT_S = 5.0
"""Longest wait of the check before any work, over all attempts."""
MAX_REPLY_BYTES = 1_000_000
_RETRIED = frozenset((408, 425, 429))
_BAD_PROMPT = frozenset((400, 413, 422))  # statuses that may concern a single prompt
_GIVE = "give a base address as in https://api.openai.com/v1"
_ADVICE = {
    401: "check the key in OPENAI_API_KEY",
    402: "the account cannot pay",
    403: "this key may not use the model",
    404: f"check the model's name, and {_GIVE}",
    429: "the account cannot pay",
}


class NoReplyError(ModelError):
    """A request got no usable reply. `retry`: another attempt may succeed, after `wait_s` seconds if the server says
    so. `unreachable`: the server did not respond at all."""

    def __init__(self, message: str, *, retry: bool = True, wait_s: float | None = None, unreachable: bool = False):
        super().__init__(" ".join(message.split()))
        self.retry, self.wait_s, self.unreachable = retry, wait_s, unreachable


@dataclass(frozen=True)
class ChatRequest:
    prompt: str
    max_tokens: int
    temperature: float = 0.0
    variant: str = ""
    """Distinguishes requests with the same prompt in the file of results."""


class RemoteModel:
    def __init__(
        self,
        role: str,
        url: str,
        model: str,
        file: Path,
        field: str,
        *,
        key: str | None = None,
        parallel: int = 8,
        retries: int = 4,
        timeout_s: float = 60.0,
        backoff_s: float = 0.5,
    ):
        """`role`: what the messages call the model. `url`: the base address (…/v1) or the whole address
        (…/chat/completions). `file`: stores the results under the name `field`; it is created if missing.

        `key`: by default OPENAI_API_KEY; local servers need none. `backoff_s`: the wait before the second attempt,
        doubled before each further attempt. Raises SelfeditError.
        """
        self._address = chat_address(url)
        self.url = public_url(str(self._address))
        self.model, self.parallel, self.retries, self.backoff_s = model, parallel, retries, backoff_s
        self._title = f"the {role} {model!r} at {self.url}"
        self._stored = Stored(file, field, role)
        key = (os.environ.get("OPENAI_API_KEY", "") if key is None else key).strip()
        self._client = _client(key, timeout_s, parallel)
        self._total_s = 2 * timeout_s  # for a whole reply; `timeout_s` limits the wait for each part of it
        self._secrets = [secret for secret in (key, self._address.password) if len(secret) >= 8]
        self._jitter = random.Random(0)
        self._unreachable = False  # the last request that failed got no response at all
        self._works = False  # a valid reply was received, so the address, the key and the model are correct

    def check(self, request: ChatRequest) -> str:
        """Sends one small request, so that an unusable model is reported before any work, and returns the reply.
        Raises SelfeditError."""
        return self._reply(request, Event(), patient=False)

    def results(
        self,
        requests: Sequence[ChatRequest],
        read: Callable[[str], Any],
        *,
        required: bool = False,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Any]:
        """Returns for each request what `read` finds in the reply: text, True or False; None if it finds nothing.

        A request without a usable reply has the result None, too, or raises NoReplyError if results are `required`.
        Raises SelfeditError if the server refuses permanently.
        """
        keys = [self._key(request) for request in requests]
        missing = {key: request for key, request in zip(keys, requests) if self._stored.get(key) is None}
        known = len(requests) - len(missing)

        def fetch(item: tuple[str, ChatRequest], stop: Event) -> None:
            try:
                result = read(self._reply(item[1], stop))
            except NoReplyError:
                if required:
                    raise
                return
            if result is not None:
                self._stored.add(item[0], result)

        if requests:
            on_step(known, len(requests))
        if missing:
            threads = min(self.parallel, len(missing))
            _in_threads(fetch, missing.items(), threads, lambda done: on_step(known + done, len(requests)))
        return [self._stored.get(key) for key in keys]

    def _key(self, request: ChatRequest) -> str:
        return text_hash(str(self._address), self.model, *filter(None, (as_utf8(request.prompt), request.variant)))

    def _reply(self, request: ChatRequest, stop: Event, *, patient: bool = True) -> str:
        """`patient`: retry if the server does not respond, and wait for longer than CHECK_WAIT_S in all."""
        waited_s = 0.0
        for attempt in range(self.retries + 1):
            try:
                return self._post(request)
            except NoReplyError as error:
                wait_s = error.wait_s
                if wait_s is None:
                    wait_s = self.backoff_s * 2**attempt * self._jitter.uniform(0.5, 1.0)
                waited_s += wait_s
                give_up = not error.retry or (error.unreachable and (self._unreachable or not patient))
                give_up |= attempt == self.retries or (not patient and waited_s > CHECK_WAIT_S)
                if give_up or stop.wait(min(wait_s, MAX_WAIT_S)):
                    self._unreachable = error.unreachable
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _post(self, request: ChatRequest) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": as_utf8(request.prompt)}],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        outcome = SimpleQueue[tuple[httpx.Response, str, bool] | Exception]()
        Thread(target=self._exchange, args=(body, outcome), daemon=True).start()
        try:
            received = outcome.get(timeout=self._total_s)
        except Empty:
            received = TimeoutError("the reply takes too long")
        if isinstance(received, httpx.RequestError | OSError | UnicodeError):
            reason = f"cannot be reached ({received or type(received).__name__})"
            reason += "; check the address, and that the server runs"
            raise NoReplyError(f"{self._title} {reason}", unreachable=True)
        if isinstance(received, Exception):
            raise received
        response, reply, is_complete = received
        self._unreachable = False
        status = response.status_code
        if status == 200:
            if not is_complete:
                raise NoReplyError(f"{self._title} sent a reply of more than {MAX_REPLY_BYTES} bytes", retry=False)
            return self._content(reply)
        if (status in _RETRIED or status >= 500) and "insufficient_quota" not in reply:
            raise NoReplyError(f"{self._title} answered {status}; try again later", wait_s=_retry_after_s(response))
        refusal = f"{self._title} refused ({status}: {_reason(reply, self._secrets) or response.reason_phrase})"
        if status in _BAD_PROMPT and self._works:  # other prompts were accepted, so this one is too long or filtered
            raise NoReplyError(refusal, retry=False)
        raise SelfeditError(f"{refusal}; {_ADVICE[status]}" if status in _ADVICE else refusal)

    def _exchange(self, body: dict, outcome: SimpleQueue) -> None:
        """Puts the response, its text, and whether the text is complete into `outcome`; or the error. It runs in a
        thread that is abandoned if a server goes on and on: httpx only limits the wait for each part of a response.

        The text is read as UTF-8: the codec that a server names may be one that does not decode text at all."""
        try:
            content = bytearray()
            with self._client.stream("POST", self._address, json=body) as response:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > MAX_REPLY_BYTES:
                        break
            text = content[:MAX_REPLY_BYTES].decode("utf-8-sig", "replace")
            outcome.put((response, text, len(content) <= MAX_REPLY_BYTES))
        except Exception as error:
            outcome.put(error)

    def _content(self, reply: str) -> str:
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            reason = f"does not reply like a chat-completions API; {_GIVE}"
            raise NoReplyError(f"{self._title} {reason}", retry=False) from None
        self._works = True
        return content if isinstance(content, str) else ""


def _in_threads(work: Callable[[Any, Event], None], items: Iterable, threads: int, on_step: Callable[[int], None]):
    """Calls `work(item, stop)` for all items. After the first error no item is begun, `stop` is set, and the error is
    raised when the threads have ended. Ctrl-C does not wait for them."""
    todo, stop, events = iter(items), Event(), SimpleQueue[Exception | str]()

    def run() -> None:
        try:
            while not stop.is_set() and (item := next(todo, None)):
                work(item, stop)
                events.put("done")
        except Exception as error:
            stop.set()
            events.put(error)
        events.put("ended")

    for _ in range(threads):
        Thread(target=run, daemon=True).start()
    done, failure = 0, None
    try:
        while threads:
            event = events.get()
            if isinstance(event, Exception):
                failure = failure or event
            elif event == "done":
                on_step(done := done + 1)
            else:
                threads -= 1
    finally:
        stop.set()
    if failure:
        raise failure


class Stored:
    """Results by key, stored as lines of a file that several runs may append to at the same time."""

    def __init__(self, file: Path, field: str, role: str):
        self._file, self._field, self._role, self._lock = file, field, role, Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Opening the file for appending reports a file that cannot be written before any request is paid for.
            with disk.file_lock(file), open(file, "a+b") as lines:
                lines.seek(0)
                self._by_key = dict(filter(None, map(self._result, lines)))
        except OSError as error:
            raise self._error(error) from None

    def get(self, key: str) -> Any:
        return self._by_key.get(key)

    def add(self, key: str, result: bool | str) -> None:
        line = json.dumps({"key": key, self._field: result}).encode() + b"\n"
        try:
            with self._lock:  # faster than letting the threads of one run compete for the lock of the file
                disk.add_line(self._file, line)
        except OSError as error:
            raise self._error(error) from None
        self._by_key[key] = result

    def _result(self, line: bytes) -> tuple[str, bool | str] | None:
        """Returns the key and the result of a line; None if the line is incomplete, empty or has another format."""
        try:
            record = json.loads(line)
            key, result = record["key"], record[self._field]
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        is_result = isinstance(result, bool) or (isinstance(result, str) and result.strip())
        return (key, result) if isinstance(key, str) and is_result else None

    def _error(self, error: OSError) -> SelfeditError:
        reason = error.strerror or error
        return SelfeditError(
            f"cannot store the replies of the {self._role} in {self._file} ({reason}); make it writable, or choose "
            f"another folder (SELFEDIT_CACHE for a judge, --home for a writer)"
        )


def public_url(url: str) -> str:
    """Returns the address without password and query, so that it can be written to a file. Raises SelfeditError."""
    return str(_parse_url(url).copy_with(userinfo=b"", query=None, fragment=None))


def chat_address(url: str) -> httpx.URL:
    """Returns the whole address of chat completions. Raises SelfeditError."""
    address = _parse_url(url)
    try:
        is_host = bool(address.raw_host.decode().encode("idna"))  # as when its number is looked up
    except UnicodeError:  # a part of the name that is empty or longer than 63 characters
        is_host = False
    if address.scheme not in ("http", "https") or not is_host:
        raise SelfeditError(f"{without_secrets(url)!r} is no address of an API; {_GIVE}")
    path = address.path.rstrip("/")
    return address.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")


def _parse_url(url: str) -> httpx.URL:
    try:
        return httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        shown = without_secrets(url)
        reason = f" ({error})" if shown == url else ""  # the error may quote a part of a password
        raise SelfeditError(f"{shown!r} is no address of an API{reason}; {_GIVE}") from None


def without_secrets(url: str) -> str:
    """Returns an address, also an invalid one, without what may be a password or a key in a query."""
    return re.sub(r"^(\s*\w+:/*)?.*@|[?#].*", r"\1", url, flags=re.DOTALL)


def _client(key: str, timeout_s: float, parallel: int) -> httpx.Client:
    if not (key.isascii() and key.isprintable()):
        raise SelfeditError("the key for the API has invalid characters; check OPENAI_API_KEY")
    headers = {"user-agent": "selfedit"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        return httpx.Client(headers=headers, timeout=timeout_s, limits=httpx.Limits(max_keepalive_connections=parallel))
    # A SOCKS proxy without its library, or the URL of a proxy that is invalid.
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SelfeditError(f"cannot set up the connection to the API ({error}); check the proxy settings") from None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Returns the wait that the server requests, in seconds; None if it requests none, or in an unknown format."""
    header = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a time zone
        return None


def _reason(reply: str, secrets: Sequence[str]) -> str:
    """Returns the error message of the server as one short line without the secrets."""
    try:
        body = json.loads(reply)
        error = body.get("error", body)
        reason = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        reason = reply
    text = " ".join(str(reason or "").split())
    for secret in secrets:
        text = text.replace(secret, "…")
    return text[:200]
