"""MCP with the official client: in the process, over standard input and output, and over HTTP."""

import json
import sys

import anyio
import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from test_answers import FAST, store  # noqa: F401  (a fixture)
from test_serve import serving, tiny_model  # noqa: F401  (a fixture)

from selfedit.bench.load import Server
from selfedit.memory.store import MemoryStore
from selfedit.serve.mcp import SUSPICION, mcp_server
from selfedit.serve.service import Service

TOOLS = {"recall", "learn", "memories", "approve", "forget"}


def called(result) -> dict:
    assert not result.is_error, result.content
    return result.structured_content


@pytest.fixture
def talk(tiny_model, store):  # noqa: F811
    """Runs a function with a client that is connected to the server."""

    def run(use, **options):
        async def connected():
            service = Service(tiny_model, store.home)
            async with service.running(), Client(mcp_server(service), **options) as client:
                return await use(client)

        return anyio.run(connected)

    return run


def agrees(yes: bool):
    asked = []

    async def answer(context, parameters):
        from mcp_types import ElicitResult

        asked.append(parameters.message)
        return ElicitResult(action="accept", content={"yes": yes})

    answer.asked = asked
    return answer


def test_the_tools_are_described_and_say_what_they_change(talk):
    async def use(client):
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in talk(use)}
    assert tools.keys() == TOOLS and all(len(tool.description) > 40 for tool in tools.values())
    assert tools["recall"].annotations.read_only_hint and tools["memories"].annotations.read_only_hint
    assert tools["forget"].annotations.destructive_hint and not tools["learn"].annotations.destructive_hint
    assert "consent" not in json.dumps(tools["approve"].input_schema), "the user consents, not the agent"


def test_recall_says_from_where_and_whether_it_is_known(talk, store):  # noqa: F811
    async def use(client):
        known = called(await client.call_tool("recall", {"question": FAST.question, "strict": False}))
        other = called(await client.call_tool("recall", {"question": "Who are you?"}))
        return known, other

    known, other = talk(use)
    assert known["known"] and known["source"] == "/q.md" and known["memory"] == store.active_ids()[0]
    assert not other["known"] and other["answer"] == "I don't know."


def test_what_an_agent_gives_to_learn_waits_for_the_user(talk, store):  # noqa: F811
    async def use(client):
        text = "The token of the deployment is rotated every Friday by Ines Roth."
        job = called(await client.call_tool("learn", {"text": text, "title": "Deployment"}))
        with anyio.fail_after(300):
            while any(one["job"] == job["job"] for one in called(await client.call_tool("memories"))["jobs"]):
                await anyio.sleep(0.2)
        return called(await client.call_tool("memories"))

    listed = talk(use)
    (waiting,) = listed["not_in_force"]
    assert waiting["title"] == "Deployment" and not waiting["in_force"]
    assert SUSPICION in store.get(waiting["id"]).scores["quarantined"]
    assert len(listed["memories"]) == 2


def test_only_the_user_approves_and_forgets(talk, store):  # noqa: F811
    gate = store.active()[0]
    store.disable(gate.id)

    async def approve(client):
        return await client.call_tool("approve", {"id": gate.id})

    async def forget(client):
        return await client.call_tool("forget", {"id": gate.id})

    cannot_ask = talk(approve)
    assert cannot_ask.is_error and f"selfedit memory approve {gate.id}" in cannot_ask.content[0].text
    no, yes = agrees(False), agrees(True)
    assert called(talk(approve, elicitation_callback=no)) == {"done": False, "note": "the user said no"}
    assert gate.id not in store.active_ids() and gate.passage.title in no.asked[0]
    assert called(talk(approve, elicitation_callback=yes))["done"] and gate.id in store.active_ids()
    assert called(talk(forget, elicitation_callback=no))["done"] is False and gate.id in store.active_ids()
    assert called(talk(forget, elicitation_callback=yes))["done"]
    assert gate.id not in {entry.id for entry in store.all()}


@pytest.mark.parametrize(
    "tool, arguments, wrong",
    [
        ("recall", {"question": "word " * 799}, "do not fit the model's 2048 positions; shorten it"),
        ("approve", {"id": "nothing"}, "no memory in the memory home starts with 'nothing'"),
        ("forget", {"id": "../.."}, "no memory in the memory home starts with '../..'"),
        ("nothing", {}, "Unknown tool: nothing"),
    ],
)
def test_a_wrong_call_is_an_error_in_one_line(talk, tool, arguments, wrong):
    message = error_of(talk, tool, arguments)
    assert wrong in message and "\n" not in message


@pytest.mark.parametrize(
    "tool, arguments, field",
    [
        ("recall", {}, "question"),
        ("recall", {"question": ""}, "question"),
        ("recall", {"question": 3}, "question"),
        ("learn", {"text": "", "title": "x"}, "text"),
        ("learn", {"text": "x"}, "title"),
    ],
)
def test_an_argument_that_is_missing_or_of_another_kind_is_named(talk, tool, arguments, field):
    """By the SDK, which needs several lines for it."""
    message = error_of(talk, tool, arguments)
    assert f"\n{field}\n" in message and "Traceback" not in message


def error_of(talk, tool: str, arguments: dict) -> str:
    async def use(client):
        return await client.call_tool(tool, arguments)

    result = talk(use, elicitation_callback=agrees(True))
    (content,) = result.content
    assert result.is_error
    return content.text


def test_memories_are_resources_with_their_sources(talk, store):  # noqa: F811
    gate = store.active()[0]

    async def use(client):
        every = await client.read_resource("memory://all")
        return every, await client.read_resource(f"memory://{gate.id}")

    every, one = talk(use)
    assert gate.id in {memory["id"] for memory in json.loads(every.contents[0].text)}
    page = json.loads(one.contents[0].text)
    assert (page["passage"], page["source"]) == (gate.passage.text, "/q.md")


def test_over_standard_input_and_output(tiny_model, store):  # noqa: F811
    command = ["-m", "selfedit.cli", "mcp", "--home", str(store.home), "--model", tiny_model.name]

    async def run():
        async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            return tools, called(await client.call_tool("recall", {"question": FAST.question, "strict": False}))

    tools, recalled = anyio.run(run)
    assert tools == TOOLS and recalled["known"]


def test_over_http_the_header_decides_whose_memories_are_used(tiny_model, store):  # noqa: F811
    gate = store.active()[0]
    ada = {"X-Selfedit-User": "ada"}

    def call(method, headers, **parameters):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        accept = {"Accept": "application/json, text/event-stream"}
        reply = client.post("/mcp/", json=body, headers=accept | headers)
        (line,) = [line for line in reply.text.splitlines() if line.startswith("data: {")]
        return line

    def tool(headers, name, **arguments):
        return call("tools/call", headers, name=name, arguments=arguments)

    with serving(tiny_model, store.home) as client:
        for headers, is_known in (({}, True), (ada, False)):
            assert (gate.id in tool(headers, "memories")) is is_known
            assert (gate.id in tool(headers, "recall", question=FAST.question, strict=False)) is is_known
            assert (gate.id in call("resources/read", headers, uri="memory://all")) is is_known
            assert (gate.passage.text in call("resources/read", headers, uri=f"memory://{gate.id}")) is is_known
            assert ("cannot ask" in tool(headers, "forget", id=gate.id)) is is_known
        tool(ada, "learn", text="Ulm is old.", title="Ulm")
        assert client.get("/v1/jobs").json()["jobs"] == []
        (job,) = client.get("/v1/jobs", headers=ada).json()["jobs"]
        assert job["title"] == "Ulm"
        client.delete(f"/v1/jobs/{job['id']}", headers=ada)


def test_over_http_with_the_token_only(tiny_model, store):  # noqa: F811
    token = "a-token-for-the-tests"
    with Server(tiny_model.name, store.home, "--token", token) as server:
        url = next(line.split()[1] for line in server.process.stdout if line.startswith("MCP"))

        async def run(**headers):
            headers |= {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(headers=headers, timeout=60) as http:
                async with Client(streamable_http_client(url, http_client=http)) as client:
                    return called(await client.call_tool("recall", {"question": FAST.question, "strict": False}))

        assert httpx.post(url, json={}, timeout=60).status_code == 401
        assert anyio.run(run)["known"]
        assert not anyio.run(lambda: run(**{"X-Selfedit-User": "ada"}))["known"]
    assert MemoryStore(store.home).active_ids()
