"""The Model Context Protocol: an agent or an editor learns, recalls, lists and forgets, over stdio or HTTP.

What an agent gives to learn waits in quarantine, because it may have read it anywhere; putting it into force and
deleting are the user's decisions, for which the client asks the user (elicitation), or which the user takes with
`selfedit memory approve` and `selfedit memory forget`.
"""
# No `from __future__ import annotations`: the SDK resolves the annotations of the tools, which name local functions.

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from selfedit import __version__
from selfedit.answers.answerer import AUTO, BASE, Ask
from selfedit.errors import SelfeditError
from selfedit.libraries import Wanted
from selfedit.serve.jobs import DONE
from selfedit.serve.service import USER_HEADER, Service
from selfedit.types import Question

INSTRUCTIONS = (
    "Long-term memory in a local model's weights. Call `recall` before you answer a question about the user, their "
    "projects, or documents they have had learned; say which source it names. Call `learn` for what should be known in "
    "later sessions: whole sentences that can be understood alone, with names, numbers and dates. What you give to "
    "`learn` waits until the user approves it, so tell the user. `memories` shows what is known, and what waits."
)
SUSPICION = "a program gave it to learn"
LONGEST = 200_000
"""Characters of a text to learn."""
SHOWN = 200
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
DELETES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
_home: ContextVar[Path] = ContextVar("home")
"""The home of the user whose message is being answered."""


class Consent(BaseModel):
    yes: bool = Field(description="whether it may be done")


def mcp_server(service: Service) -> MCPServer:
    """The server with its tools and resources. They work on the memories of the user that the header of a message
    names; without a header, as over standard input and output, on those of whoever names no user."""

    async def in_home(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        headers = getattr(ctx.request, "headers", None) or {}
        before = _home.set(service.home_of(headers.get(USER_HEADER)))
        try:
            return await call_next(ctx)
        finally:
            _home.reset(before)

    server = MCPServer(
        "selfedit",
        title="selfedit memory",
        version=__version__,
        instructions=INSTRUCTIONS,
        log_level="WARNING",
        middleware=[in_home],
    )

    @server.tool(title="Recall", annotations=READS)
    async def recall(
        question: Annotated[
            str, Field(description="a whole question that can be understood alone", min_length=1, max_length=4000)
        ],
        strict: Annotated[bool, Field(description='answer "I don\'t know." where no answer is probably right')] = True,
        library: Annotated[
            str | None,
            Field(description="the version of a library that the question is about, e.g. polars@2", max_length=300),
        ] = None,
    ) -> dict[str, Any]:
        """Answers a question from what was learned. `from`: weights, text, both, `base` if nothing known fits (then do
        not trust it), or empty if there is no answer; `source` and `passage` say what supports the answer, `note` if
        nothing is known of that version of the library."""
        ask = Ask(Question(question, ()), AUTO, library=_wanted(library), strict=strict)
        record = service.explained(_home.get(), ask, await _answered(service, ask))
        fields = ("answer", "from", "source", "passage", "memory", "why", "library", "note")
        shown = {name: record.get(name) for name in fields}
        return shown | ({"known": False} if record["from"] in ("", BASE) else {"known": True})

    @server.tool(title="Learn", annotations=ADDS)
    async def learn(
        text: Annotated[
            str, Field(description="what is to be known, in whole sentences", min_length=1, max_length=LONGEST)
        ],
        title: Annotated[str, Field(description="what it is about, in a few words", min_length=1, max_length=200)],
        context: Context,
    ) -> dict[str, Any]:
        """Learns a text in the background (8 to 45 seconds per 100 words on a CPU, by the model). It is in force once
        the user has approved it: with `approve`, or `selfedit memory approve ID`."""
        job = service.learn_text(_home.get(), text, title, SUSPICION)
        return {
            "job": job.id,
            "status": job.status,
            "note": "waits for the user's approval when it is learned; see `memories`",
        }

    @server.tool(title="Memories", annotations=READS)
    def memories() -> dict[str, Any]:
        """What is known and in force, what waits for the user's approval, and what is being learned."""
        home = _home.get()
        every = service.memories(home, True)["memories"]
        fields = ("id", "title", "source", "created", "accuracy_after")
        short = [{name: memory[name] for name in fields} | {"in_force": memory["active"]} for memory in every]
        jobs = [
            {"job": job.id, "title": job.title, "status": job.status, "error": job.error}
            for job in service.jobs.of(home)
        ]
        return {
            "memories": [memory for memory in short if memory["in_force"]][-SHOWN:],
            "not_in_force": [memory for memory in short if not memory["in_force"]][-SHOWN:],
            "jobs": [job for job in jobs if job["status"] != DONE][:SHOWN],
        }

    def may_approve(id: str, context: Context) -> Elicit[Consent]:
        return _question(service, id, context, "Put the memory {id} “{title}” (from {source}) into force?", "approve")

    def may_forget(id: str, context: Context) -> Elicit[Consent]:
        return _question(service, id, context, "Delete the memory {id} “{title}” (from {source}) for good?", "forget")

    @server.tool(title="Approve", annotations=ADDS)
    def approve(
        id: Annotated[str, Field(description="of a memory, as `memories` lists it")],
        consent: Annotated[Consent, Resolve(may_approve)],
    ) -> dict[str, Any]:
        """Puts a memory that waits into force, after the user has agreed."""
        return _changed(service, "approve", id, consent)

    @server.tool(title="Forget", annotations=DELETES)
    def forget(
        id: Annotated[str, Field(description="of a memory, as `memories` lists it")],
        consent: Annotated[Consent, Resolve(may_forget)],
    ) -> dict[str, Any]:
        """Deletes a memory for good, after the user has agreed."""
        return _changed(service, "forget", id, consent)

    @server.resource("memory://all", title="All memories in force", mime_type="application/json")
    def every_memory() -> list[dict[str, Any]]:
        return service.memories(_home.get(), False)["memories"]

    @server.resource("memory://{id}", title="A memory with its source", mime_type="application/json")
    def one_memory(id: str) -> dict[str, Any]:
        """The passage that it was learned from, where that came from, what was studied, and how it was tested."""
        return service.memory(_home.get(), id)

    return server


def _wanted(library: str | None) -> Wanted | None:
    try:
        return Wanted.parse(library) if library else None
    except SelfeditError as error:
        raise ToolError(str(error)) from error


async def _answered(service: Service, ask: Ask):
    try:
        return await service.answered(_home.get(), ask)
    except SelfeditError as error:
        raise ToolError(service.without_paths(str(error))) from error


def _question(service: Service, id: str, context: Context, text: str, command: str) -> Elicit[Consent]:
    """The question to the user. Raises ToolError if the client cannot ask."""
    try:
        entry = service.find(_home.get(), id)
    except SelfeditError as error:
        raise ToolError(service.without_paths(str(error))) from error
    capabilities = context.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        raise ToolError(f"the user decides that; this client cannot ask, so run `selfedit memory {command} {entry.id}`")
    return Elicit(text.format(id=entry.id, title=entry.passage.title, source=entry.passage.source), Consent)


def _changed(service: Service, action: str, id: str, consent: Consent) -> dict[str, Any]:
    if not consent.yes:
        return {"done": False, "note": "the user said no"}
    try:
        line = service.change(_home.get(), action, id)
    except SelfeditError as error:
        raise ToolError(service.without_paths(str(error))) from error
    return {"done": True, "version": line["version"], "in_force": len(line["active"])}
