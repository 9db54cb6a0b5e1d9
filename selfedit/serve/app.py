"""The HTTP server: OpenAI's API, memories and jobs, MCP, and the page.

Whoever comes from another web site, or without the token, gets nothing: every route but the page's files and `/health`
needs the token, and requests that name another host than this server's own are refused (a page elsewhere cannot reach
a server on this machine by a name that it controls).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Header, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from selfedit import __version__
from selfedit.answers.answerer import ARMS, AUTO, BASE, WEIGHTS, Ask
from selfedit.errors import MemoryStoreError, SelfeditError
from selfedit.libraries import Library, Wanted
from selfedit.model.json_grammar import json_grammar
from selfedit.serve import openai
from selfedit.serve.engine import Written
from selfedit.serve.guard import BODY_BYTES, Events, Guard, error_reply
from selfedit.serve.invalid import in_plain_words
from selfedit.serve.jobs import Job, TooManyJobsError
from selfedit.serve.service import USER_HEADER, BusyError, Service
from selfedit.types import Message, Question

PAGE = Path(__file__).with_name("page")


class AskBody(BaseModel):
    question: str = Field(min_length=1, max_length=openai.LONGEST_TEXT)
    arm: Literal["auto", "weights", "text", "both"] = Field("auto", alias="from")
    strict: bool = False
    memory: str | None = Field(None, max_length=64)
    library: str | None = Field(None, max_length=300)
    """The version that the question is about: polars@2."""
    max_tokens: int = Field(64, ge=1, le=openai.MOST_TOKENS)


class LearnBody(BaseModel):
    text: str | None = Field(None, max_length=BODY_BYTES)
    title: str = Field("", max_length=200)
    url: str | None = Field(None, max_length=2000, pattern=r"^(https?://|package:)")
    library: str = Field("", max_length=300)
    """The library and the versions that it describes: polars@2.0."""


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
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            route.methods = {"GET", "HEAD"}
    app.add_middleware(Guard, token=token, hosts=hosts)
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


User = Annotated[str | None, Header(alias=USER_HEADER)]


def _home(request: Request, user: User = None) -> Path:
    """The home of whoever asks."""
    return request.app.state.service.home_of(user)


def _home_for(service: Service, header: str | None, field: str | None) -> Path:
    """The home of the user that the header or, without it, the field of the body names. A proxy sets the header, so
    the body must not name somebody else."""
    if header is not None and field and field != header:
        raise HTTPException(400, "the header X-Selfedit-User and the field user name different users; leave one out")
    return service.home_of(field if header is None else header)


Home = Annotated[Path, Depends(_home)]


def _job(id: str, request: Request, home: Home) -> Job:
    if job := request.app.state.service.jobs.get(home, id):
        return job
    raise HTTPException(404, f"no job {id!r}")


KnownJob = Annotated[Job, Depends(_job)]


def _add_answers(app: FastAPI, service: Service) -> None:
    app.state.service = service

    @app.post("/v1/chat/completions")
    async def chat(body: openai.ChatRequest, user: User = None):
        home = _home_for(service, user, body.user)
        schema = body.response_format.schema_of_reply if body.response_format else None
        options = body.options
        if schema:  # in a thread: a large schema takes seconds
            options |= {"allow": await asyncio.to_thread(json_grammar, service.model.chat, schema)}
        named = _named(service, home, body.model)
        asked = service.conversations(home).ask  # in a thread: a model reads what is known of the user
        ask = await asyncio.to_thread(asked, body.question, body.history, **named, **options)
        ask = await asyncio.to_thread(service.about, home, ask)  # so does this, for a large store
        session = body.metadata.session if body.metadata else None
        if session:
            service.conversations(home).turns(session)  # an impossible name is an error before the answer

        async def remember(written: Written) -> None:
            if session:
                said = [Message("user", body.question), Message("assistant", written.text)]
                await service.remember(home, session, said)

        return await _reply(service, home, ask, body, openai.Reply("chat.completion", body.model), remember)

    @app.post("/v1/completions")
    async def complete(body: openai.CompletionRequest, user: User = None):
        home = _home_for(service, user, body.user)
        question = Question(body.prompt, (), kind="completion")
        ask = Ask(question, whole=False, **_named(service, home, body.model), **body.options)
        return await _reply(service, home, ask, body, openai.Reply("text_completion", body.model))

    @app.post("/v1/ask")
    async def ask(body: AskBody, home: Home) -> dict:
        memory = service.find(home, body.memory).id if body.memory else None
        library = Wanted.parse(body.library) if body.library else None
        question, limit = Question(body.question, ()), body.max_tokens
        ask = Ask(question, body.arm, memory, library, strict=body.strict, max_new_tokens=limit)
        return service.explained(home, ask, await service.answered(home, ask))

    @app.get("/v1/models")
    def models(home: Home) -> dict:
        name = service.model.name
        memories = [f"{name}:{memory['id']}" for memory in service.memories(home, False)["memories"]]
        versions = [f"{name}:{wanted}" for wanted in service.versions_of_libraries(home)]
        names = [name, *(f"{name}:{arm}" for arm in (*ARMS[1:], BASE)), *versions, *memories]
        return {
            "object": "list",
            "data": [{"id": id, "object": "model", "owned_by": "selfedit", "created": 0} for id in names],
        }


def _named(service: Service, home: Path, model: str) -> dict:
    """What a model's name says: `MODEL` takes the most probable answer, `MODEL:weights` (or text, both, base) one arm,
    `MODEL:polars@2` what is known of that version of a library, and `MODEL:ID` the adapter of one memory."""
    name = service.model.name  # it may have a colon itself
    if model != name and not model.startswith(f"{name}:"):
        raise HTTPException(404, f"no model {model[:80]!r}; /v1/models lists those of this server")
    part = model[len(name) + 1 :]
    if not part or part in (*ARMS, BASE):
        return {"arm": part or AUTO}
    if "@" in part or "=" in part:
        return {"library": Wanted.parse(part)}
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

    async def all_items() -> AsyncGenerator[str | Written]:
        item: str | Written | None = first
        async with aclosing(items):
            while item is not None:
                if isinstance(item, Written):
                    await finish(item)
                yield item
                item = await anext(items, None)

    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    return Events(reply.stream(all_items(), with_usage))


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
        library = str(Library.parse(body.library)) if body.library else ""
        if body.url:
            return {"job": service.learn_url(home, body.url, library=library).id}
        if not (body.text or "").strip():
            raise HTTPException(400, "there is no text to learn")
        return {"job": service.learn_text(home, body.text or "", body.title, library=library).id}

    @app.get("/v1/jobs")
    def jobs(home: Home) -> dict:
        return {"jobs": [job.record() for job in service.jobs.of(home)]}

    @app.get("/v1/jobs/{id}/events")
    async def events(job: KnownJob, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        lines = (f"data: {json.dumps(record)}\n\n" async for record in service.jobs.follow(job))
        return Events(lines)

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


# Errors


async def _invalid(request: Request, error: Any) -> JSONResponse:
    return error_reply(400, in_plain_words(error.errors()[0]))


async def _refused(request: Request, error: Any) -> JSONResponse:
    message, headers = str(error.detail), dict(error.headers or {})
    if "parsing the body" in message:  # of FastAPI
        message = "the body is no JSON, is not in UTF-8, or is nested too deeply"
    if error.status_code == 405:
        headers |= {"Allow": ", ".join(sorted(_methods(request)))}
        message = f"the method {request.method[:20]} does not work here; these do: {headers['Allow']}"
    if error.status_code == 404 and message == "Not Found":
        message = "there is nothing at this address"
    code = "model_not_found" if "no model" in message else None
    return error_reply(error.status_code, message, code=code, headers=headers)


def _methods(request: Request) -> set[str]:
    """The methods of the routes at the address of a request."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", ())} or {"GET", "HEAD"}


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    return error_reply(404 if "no memory" in str(error) else 409, request.app.state.service.without_paths(str(error)))


async def _impossible(request: Request, error: Exception) -> JSONResponse:
    return error_reply(400, request.app.state.service.without_paths(str(error)))


async def _busy(request: Request, error: Exception) -> JSONResponse:
    return error_reply(429, str(error), "rate_limit_error", headers={"Retry-After": "1"})


async def _unwritable(request: Request, error: Any) -> JSONResponse:
    return error_reply(503, f"the server cannot write: {error.strerror or type(error).__name__}", "server_error")


async def _fault(request: Request, error: Exception) -> JSONResponse:
    return error_reply(500, f"a fault of this server ({type(error).__name__}); its log says more", "server_error")
