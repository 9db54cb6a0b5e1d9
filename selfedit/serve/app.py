"""The HTTP server: OpenAI's API, memories and jobs, MCP, and the page.

Whoever comes from another web site, or without the token, gets nothing: every route but the page's files and `/health`
needs the token, and requests that name another host than this server's own are refused (a page elsewhere cannot reach
a server on this machine by a name that it controls).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Header, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from selfedit import __version__
from selfedit.answers.answerer import ARMS, AUTO, BASE, WEIGHTS, Ask
from selfedit.errors import MemoryStoreError, SelfeditError
from selfedit.model.json_grammar import json_grammar
from selfedit.serve import openai
from selfedit.serve.engine import Written
from selfedit.serve.jobs import Job, TooManyJobsError
from selfedit.serve.service import UPLOAD_BYTES, BusyError, Service
from selfedit.types import Message, Question

PAGE = Path(__file__).with_name("page")
BODY_BYTES = 2_000_000
"""Longest body of a request, but for an uploaded file."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OPEN = ("/", "/health", "/static/", "/favicon.ico")
"""What needs no token: a path, or the beginning of one that ends with a slash."""


class AskBody(BaseModel):
    question: str = Field(min_length=1, max_length=openai.LONGEST_TEXT)
    arm: Literal["auto", "weights", "text", "both"] = Field("auto", alias="from")
    strict: bool = False
    memory: str | None = Field(None, max_length=64)
    max_tokens: int = Field(64, ge=1, le=openai.MOST_TOKENS)


class LearnBody(BaseModel):
    text: str | None = Field(None, max_length=BODY_BYTES)
    title: str = Field("", max_length=200)
    url: str | None = Field(None, max_length=2000, pattern=r"^(https?://|package:)")


class RollbackBody(BaseModel):
    to: str | None = Field(None, max_length=64)


def create_app(service: Service, token: str, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")) -> FastAPI:
    """`token`: what `Authorization: Bearer` must carry. `hosts`: names by which this server may be called; `*`: any."""
    mcp = _mcp_app(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running(), mcp.router.lifespan_context(mcp):
            yield

    app = FastAPI(
        title="selfedit", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    _add_answers(app, service)
    _add_memories(app, service)
    _add_learning(app, service)
    _add_state(app, service)
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    app.mount("/mcp", mcp)
    app.add_middleware(_Guard, token=token, hosts=hosts)
    for kind, handler in (
        (RequestValidationError, _invalid),
        (HTTPException, _refused),
        (MemoryStoreError, _unknown),
        (SelfeditError, _impossible),
        (BusyError, _busy),
        (TooManyJobsError, _busy),
        (OSError, _unwritable),
        (Exception, _fault),
    ):
        app.add_exception_handler(kind, handler)
    return app


# Routes


def _home(
    request: Request, user: Annotated[str | None, Header(alias="x-selfedit-user", max_length=200)] = None
) -> Path:
    """The home of whoever asks."""
    return request.app.state.service.home_of(user)


Home = Annotated[Path, Depends(_home)]


def _job(id: str, request: Request, home: Home) -> Job:
    if job := request.app.state.service.jobs.get(home, id):
        return job
    raise HTTPException(404, f"no job {id!r}")


KnownJob = Annotated[Job, Depends(_job)]


def _add_answers(app: FastAPI, service: Service) -> None:
    app.state.service = service

    @app.post("/v1/chat/completions")
    async def chat(body: openai.ChatRequest, home: Home):
        home = service.home_of(body.user) if body.user else home
        schema = body.response_format.schema_of_reply if body.response_format else None
        options = body.options
        if schema:  # in a thread: a large schema takes seconds
            options |= {"allow": await asyncio.to_thread(json_grammar, service.model.chat, schema)}
        named = _named(service, home, body.model)
        ask = service.conversations(home).ask(body.question, body.history, **named, **options)
        session = body.metadata.session
        if session:
            service.conversations(home).turns(session)  # an impossible name is an error before the answer

        async def remember(written: Written) -> None:
            if session:
                said = [Message("user", body.question), Message("assistant", written.text)]
                await service.remember(home, session, said)

        return await _reply(service, home, ask, body, openai.Reply("chat.completion", body.model), remember)

    @app.post("/v1/completions")
    async def complete(body: openai.CompletionRequest, home: Home):
        home = service.home_of(body.user) if body.user else home
        question = Question(body.prompt, (), kind="completion")
        ask = Ask(question, whole=False, **_named(service, home, body.model), **body.options)
        return await _reply(service, home, ask, body, openai.Reply("text_completion", body.model))

    @app.post("/v1/ask")
    async def ask(body: AskBody, home: Home) -> dict:
        memory = service.find(home, body.memory).id if body.memory else None
        ask = Ask(Question(body.question, ()), body.arm, memory, strict=body.strict, max_new_tokens=body.max_tokens)
        return service.explained(home, ask, await service.answered(home, ask))

    @app.get("/v1/models")
    def models(home: Home) -> dict:
        name = service.model.name
        memories = [f"{name}:{memory['id']}" for memory in service.memories(home, False)["memories"]]
        names = [name, *(f"{name}:{arm}" for arm in (*ARMS[1:], BASE)), *memories]
        return {
            "object": "list",
            "data": [{"id": id, "object": "model", "owned_by": "selfedit", "created": 0} for id in names],
        }


def _named(service: Service, home: Path, model: str) -> dict:
    """What a model's name says: `MODEL` takes the most probable answer, `MODEL:weights` (or text, both, base) one arm,
    and `MODEL:ID` the adapter of one memory."""
    name, _, part = model.partition(":")
    if name != service.model.name:
        raise HTTPException(404, f"no model {name!r}; this server has {service.model.name!r}")
    if not part or part in (*ARMS, BASE):
        return {"arm": part or AUTO}
    entry = service.find(home, part)
    return {"arm": WEIGHTS if entry.has_adapter else "text", "memory": entry.id}


async def _nothing(written: Written) -> None:
    pass


async def _reply(
    service: Service,
    home: Path,
    ask: Ask,
    body: openai.Common,
    reply: openai.Reply,
    finish: Callable[[Written], Awaitable[None]] = _nothing,
):
    """The reply, whole or as a stream. `finish` is called with the answer before its end is told."""
    stops = body.stop or []
    if not body.stream:
        written = await service.answered(home, ask, stops)
        await finish(written)
        return reply.whole(written)
    items = service.answer(home, ask, stops)
    first = await anext(items)  # so that an error is a status and not half a stream

    async def all_items():
        item: str | Written | None = first
        while item is not None:
            if isinstance(item, Written):
                await finish(item)
            yield item
            item = await anext(items, None)

    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(reply.stream(all_items(), with_usage), media_type="text/event-stream")


def _add_memories(app: FastAPI, service: Service) -> None:
    @app.get("/v1/memories")
    def memories(home: Home, all: bool = False) -> dict:
        return service.memories(home, all)

    @app.get("/v1/memories/{id}")
    def memory(id: str, home: Home) -> dict:
        return service.memory(home, id)

    @app.get("/v1/memories/{id}/difference/{other}")
    def difference(id: str, other: str, home: Home) -> dict:
        return service.difference(home, id, other)

    @app.post("/v1/memories/{id}/{action}")
    def change(id: str, action: Literal["approve", "disable"], home: Home) -> dict:
        return service.change(home, action, id)

    @app.delete("/v1/memories/{id}")
    def forget(id: str, home: Home) -> dict:
        return service.change(home, "forget", id)

    @app.post("/v1/rollback")
    def rollback(body: RollbackBody, home: Home) -> dict:
        return service.change(home, "rollback", body.to)

    @app.get("/v1/versions")
    def versions(home: Home) -> dict:
        return {"versions": service.versions(home)}


def _add_learning(app: FastAPI, service: Service) -> None:
    @app.post("/v1/memories", status_code=202)
    async def learn(request: Request, home: Home, file: Annotated[UploadFile | None, File()] = None) -> dict:
        if file is not None:
            data = await file.read()
            if not data:
                raise HTTPException(400, "the file is empty")
            return {"job": service.learn_file(home, file.filename or "document", data).id}
        try:
            body = LearnBody.model_validate(await request.json())
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        except (
            ValueError,
            RecursionError,
            RuntimeError,
        ):  # RuntimeError: a form without a file, or one that is cut off
            raise HTTPException(400, "send a file (multipart field `file`), or JSON with `text` or `url`") from None
        if body.url:
            return {"job": service.learn_url(home, body.url).id}
        if not (body.text or "").strip():
            raise HTTPException(400, "there is no text to learn")
        return {"job": service.learn_text(home, body.text or "", body.title or "a note").id}

    @app.get("/v1/jobs")
    def jobs(home: Home) -> dict:
        return {"jobs": [job.record() for job in service.jobs.of(home)]}

    @app.get("/v1/jobs/{id}/events")
    async def events(job: KnownJob) -> StreamingResponse:
        lines = (f"data: {json.dumps(record)}\n\n" async for record in service.jobs.follow(job))
        return StreamingResponse(lines, media_type="text/event-stream")

    @app.delete("/v1/jobs/{id}")
    async def stop(job: KnownJob) -> dict:
        await service.jobs.stop(job)
        return job.record()


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health")
    def health() -> JSONResponse:
        alive = service.engine.alive
        state = {"status": "ok" if alive else "stopped", "model": service.model.name, "version": __version__}
        return JSONResponse(state, 200 if alive else 503)

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        measured = service.engine.measured
        values = {
            "selfedit_requests_total": measured.requests,
            "selfedit_failed_total": measured.failed,
            "selfedit_tokens_total": measured.tokens,
            "selfedit_waiting": service.engine.busy,
            "selfedit_first_token_seconds_median": median(measured.first_token_s or [0]),
            "selfedit_seconds_median": median(measured.seconds or [0]),
        }
        kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in values}
        lines = [f"# TYPE {name} {kinds[name]}\n{name} {value}\n" for name, value in values.items()]
        return PlainTextResponse("".join(lines))


def _mcp_app(service: Service):
    from mcp.server.transport_security import TransportSecuritySettings

    from selfedit.serve.mcp import mcp_server

    return mcp_server(service).streamable_http_app(
        streamable_http_path="/",
        stateless_http=True,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )  # the guard in front of it checks the host


# Errors, in OpenAI's form


def _error(status: int, message: str, kind: str = "invalid_request_error", code: str | None = None, headers=None):
    body = {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return JSONResponse(body, status, headers=headers)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return _error(400, f"{place}: {first['msg']}" if place else str(first["msg"]))


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _error(
        error.status_code, str(error.detail), code="model_not_found" if "no model" in str(error.detail) else None
    )


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    return _error(404 if "no memory" in str(error) else 409, str(error))


async def _impossible(request: Request, error: Exception) -> JSONResponse:
    return _error(400, str(error))


async def _busy(request: Request, error: Exception) -> JSONResponse:
    return _error(429, str(error), "rate_limit_error", headers={"Retry-After": "1"})


async def _unwritable(request: Request, error: Any) -> JSONResponse:
    return _error(503, f"the server cannot write: {error.strerror or type(error).__name__}", "server_error")


async def _fault(request: Request, error: Exception) -> JSONResponse:
    return _error(500, f"a fault of this server ({type(error).__name__}); its log says more", "server_error")


# Who may ask


class _Guard:
    """Checks the host, the token and the length of each request, and adds the headers of safety to each reply."""

    def __init__(self, app, token: str, hosts: tuple[str, ...]):
        self.app, self.token, self.hosts = app, f"Bearer {token}".encode(), hosts

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in known)]
            await send(message)

        if refusal := self._refusal(scope):
            await refusal(scope, receive, send_safely)
            return
        most, received = _longest(scope), 0

        async def receive_limited() -> dict:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, f"the request has more than {most:,} bytes")
            return message

        await self.app(scope, receive_limited, send_safely)

    def _refusal(self, scope) -> JSONResponse | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[2].isdigit() else "".join(host)).strip("[]")
        if "*" not in self.hosts and name not in self.hosts:
            return _error(403, f"this server is not called {name!r}; start it with --host")
        if int(_digits(headers.get(b"content-length", b""))) > _longest(scope):
            return _error(413, f"the request has more than {_longest(scope):,} bytes")
        path = scope["path"]
        if path in OPEN or any(path.startswith(open) for open in OPEN if open.endswith("/") and len(open) > 1):
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self.token):
            message = "give the token that `selfedit serve` prints as `Authorization: Bearer TOKEN`"
            return _error(401, message, "authentication_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        return None


def _digits(value: bytes) -> str:
    return value.decode("latin-1") if value.isdigit() else "0"


def _longest(scope) -> int:
    return UPLOAD_BYTES + 100_000 if scope["path"] == "/v1/memories" else BODY_BYTES
