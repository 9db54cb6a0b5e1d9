"""Who may ask, and for how long: checked before a request reaches its route.

The host, the token and the length of a request are checked here, and a client that stops sending or reading loses its
connection. Every reply gets the headers of safety.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from selfedit.serve.service import UPLOAD_BYTES, USER_HEADER

BODY_BYTES = 2_000_000
"""Longest body of a request, but for an uploaded file."""
STALLED_S = 15.0
"""A client that sends, or reads, nothing for so long is given up."""
LONGEST_MESSAGE = 500
LONGEST_USER = 200
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OPEN = ("/", "/health", "/static/", "/favicon.ico")
"""What needs no token: a path, or the beginning of one that ends with a slash."""
_HOST = re.compile(r"(?:\[([\da-f:.]+)\]|([^\[\]:\s]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


def error_reply(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error in OpenAI's form, in one line."""
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
    body = {"error": {"message": line, "type": kind, "code": code, "param": None}}
    return JSONResponse(body, status, headers=headers)


class Http(H11Protocol):
    """Closes the connection of a client that does not send the head of its request in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    def _watch(self) -> None:
        is_waiting = self.conn.their_state is h11.IDLE
        if self._timer and not is_waiting:
            self._timer.cancel()
            self._timer = None
        elif is_waiting and not self._timer:
            self._timer = self.loop.call_later(STALLED_S, self.transport.close)


class Events(StreamingResponse):
    """A stream of server-sent events, whose source is closed at once when the client leaves."""

    def __init__(self, events: AsyncGenerator[str]):
        super().__init__(events, media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


class Guard:
    """The outermost application: refuses a request, or hands it on with limits to `receive` and `send`."""

    def __init__(self, app: Callable, token: str, hosts: tuple[str, ...]):
        self.app, self.token, self.hosts = app, f"Bearer {token}".encode(), hosts

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most, received, is_whole, is_stalled = _longest(scope), 0, False, False

        async def receive_limited() -> dict:
            nonlocal received, is_whole
            try:
                async with asyncio.timeout(None if is_whole else STALLED_S):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the rest of the request did not come within {STALLED_S:.0f} s") from None
            is_whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, f"the request has more than {most:,} bytes")
            return message

        async def send_safely(message: Any) -> None:
            nonlocal is_stalled
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in known)]
            try:
                async with asyncio.timeout(STALLED_S):
                    await send(message)
            except TimeoutError:
                is_stalled = True
                raise

        app = self._refusal(scope) or self.app
        try:
            await app(scope, receive_limited, send_safely)
        except ClientDisconnect:
            pass
        except Exception:
            if not is_stalled:  # else nobody reads a reply, and uvicorn closes the connection
                raise

    def _refusal(self, scope: Any) -> JSONResponse | None:
        names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = _HOST.fullmatch(names[0]) if len(names) == 1 else None
        if "*" not in self.hosts and (not host or (host[1] or host[2]).lower() not in self.hosts):
            shown = ", ".join(names)[:80]
            return error_reply(403, f"this server is not called {shown!r}; `selfedit serve --name NAME` adds a name")
        headers = dict(scope["headers"])
        if int(_digits(headers.get(b"content-length", b""))) > _longest(scope):
            return error_reply(413, f"the request has more than {_longest(scope):,} bytes")
        path = scope["path"]
        if path in OPEN or any(path.startswith(open) for open in OPEN if open.endswith("/") and len(open) > 1):
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self.token):
            message = "give the token that `selfedit serve` prints as `Authorization: Bearer TOKEN`"
            return error_reply(401, message, "authentication_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        users = [value for name, value in scope["headers"] if name == USER_HEADER.encode()]
        if len(users) > 1 or any(len(user) > LONGEST_USER for user in users):
            return error_reply(400, f"give one header X-Selfedit-User of at most {LONGEST_USER} characters")
        return None


def _digits(value: bytes) -> str:
    return value.decode("latin-1") if value.isdigit() else "0"


def _longest(scope: Any) -> int:
    return UPLOAD_BYTES + 100_000 if scope["path"] == "/v1/memories" else BODY_BYTES
