"""500 malformed requests, made from a seed, against the real server: none is its fault, none hangs, and it goes on."""

import json
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from conftest import wait_until
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from test_answers import store  # noqa: F401  (a fixture)
from test_serve import client, tiny_model  # noqa: F401  (fixtures)

from selfedit.bench.load import TOKEN, Server
from selfedit.serve import guard
from selfedit.serve.app import _refused

SEED, COUNT = 27, 500
PATIENCE_S = 60
GETS = ["/", "/health", "/metrics", "/v1/models", "/v1/memories", "/v1/versions", "/v1/jobs", "/static/app.js"]
POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/ask", "/v1/memories", "/v1/rollback", "/mcp/"]
PYDANTIC = re.compile(
    r"Input should|Field required|[Vv]alue error|Extra inputs|valid (?:string|integer|number|boolean|list|dict)|JSON"
    r" decode|pydantic|type_error|Traceback|error parsing|at least \d+ item|has no attribute|object is not"
)


@dataclass
class Sent:
    """A request as bytes, and what was sent in words."""

    about: str
    data: bytes
    is_cut: bool = False
    """Whether the client says that it has sent all, although it has not."""


def values(chance: random.Random) -> list:
    deep: object = 1
    for _ in range(900):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    huge = 10 ** chance.randrange(20, 4200)
    numbers = [0, -1, 1.5, huge, -huge, 1e308, float("nan"), float("inf")]
    texts = ["", " ", "x", "\0", "\ud800", "𝔘" * 50, "9", "x" * 5000, "../../etc/passwd", "\r\nA: b"]
    return [None, True, *numbers, *texts, [], [None], [[]], {}, {"": {}}, {"type": "text"}, deep, ["a"] * 3000]


def changed(chance: random.Random, value):
    """The value with something in it replaced, taken away, or added."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        return [*value[:at], changed(chance, value[at]), *value[at + 1 :]]
    return chance.choice(values(chance))


def bodies(model: str) -> dict[str, dict]:
    chat = {"model": model, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2, "stream": False}
    options = {"temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["a"], "user": "ada", "n": 1}
    call = {"name": "recall", "arguments": {"question": "Who?"}}
    return {
        "/v1/chat/completions": chat
        | options
        | {
            "metadata": {"session": "work"},
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
            "stream_options": {"include_usage": True},
            "tools": [],
        },
        "/v1/completions": {"model": model, "prompt": "The river", "max_tokens": 2, "echo": False} | options,
        "/v1/ask": {"question": "Who?", "from": "auto", "strict": False, "memory": "abcd", "max_tokens": 2},
        "/v1/memories": {"text": 5, "title": "A title", "url": "file:///etc/passwd"},
        "/v1/rollback": {"to": "v99"},
        "/mcp/": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
    }


def request(method: str, path: str, headers: dict[str, str], body: bytes, hosts=("127.0.0.1",)) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"Host: {host}" for host in hosts)]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1", "replace") + body


def malformed(chance: random.Random, model: str) -> Sent:
    method, path = chance.choice([("POST", chance.choice(POSTS))] * 3 + [("GET", chance.choice(GETS))])
    valid = json.dumps(bodies(model).get(path, {})).encode() if method == "POST" else b""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    headers |= {"Accept": "application/json, text/event-stream"}
    hosts, body, length, is_cut = ("127.0.0.1",), valid, None, False
    kind = chance.choice(["fields"] * 5 + ["bytes", "type", "length", "host", "method", "path", "headers", "token"])
    if kind == "fields":
        method, path = "POST", chance.choice(POSTS)
        body = json.dumps(changed(chance, bodies(model)[path])).encode()
    elif kind == "bytes":
        choices = [
            chance.randbytes(chance.randrange(1, 3000)),
            valid[: chance.randrange(len(valid) + 1)],
            b"[" * 100_000,
            b'{"a":' * 20_000,
            b"\xef\xbb\xbf" + valid,
            valid.decode().encode("utf-16"),
            valid.replace(b"Who", b"\xff\xfe\xc3"),
            b"9" * 10_000,
            b"NaN",
            b"\0" * 100,
        ]
        body = chance.choice(choices)
    elif kind == "type":
        types = [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "a/b;;;=",
            "\xff",
            "image/png",
        ]
        headers["Content-Type"] = chance.choice([*types, 'multipart/form-data; boundary="' + "b" * 300])
    elif kind == "length":
        length = chance.choice(["-1", "1e3", "0x10", "9" * 30, "5, 6", " ", str(len(body) + 10), "30000000"])
        is_cut = True
    elif kind == "host":
        names = [
            "[[::1]]",
            "[::1",
            "::1]",
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:x",
            "127.0.0.1:9:9",
        ]
        hosts = chance.choice(
            [(name,) for name in [*names, "\xff", "127.0.0.1@evil", "a" * 5000]] + [(), ("127.0.0.1",) * 2]
        )
    elif kind == "method":
        method = chance.choice(
            ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "BREW", "get", "CONNECT", "G T", ""]
        )
        path = chance.choice([*GETS, *POSTS, "/static/", "/v1/jobs/abc/events", "/v1/memories/abcd"])
    elif kind == "path":
        paths = [
            "/../../etc/passwd",
            "//",
            "/%00",
            "/v1/memories/%ff%fe",
            "/static/..%2f..%2fapp.py",
            "/static/%00",
            "*",
        ]
        paths += [
            "/" + "a" * 9000,
            "/v1/memories?all=maybe",
            "/v1/memories/" + "0" * 12,
            "/v1/jobs/../events",
            "nothing",
            "/v1",
        ]
        paths += [
            "http://evil.example/v1/models",
            "/v1/memories/abcd/explode",
            "/static/" + "a/" * 2000,
            "/v1/memories/a%0db",
        ]
        paths += ["/v1/memories/abcd/difference/%2f", "/v1/jobs/abc/events", "/mcp", "/mcp/x"]
        path = chance.choice(paths)
    elif kind == "headers":
        extra = [{"X-Selfedit-User": "a" * 5000}, {"X-Selfedit-User": "\xff\xfe"}, {"Accept": "a" * 9000}, {"A B": "c"}]
        extra += [{f"X-{i}": "y" for i in range(400)}, {"Transfer-Encoding": "chunked"}, {"Expect": "nothing"}]
        headers |= chance.choice([*extra, {"Upgrade": "websocket"}, {"Transfer-Encoding": "gzip, identity"}])
        is_cut = True
    else:
        tokens = ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}\xff", "Bearer " + "x" * 9000, f"Bearer  {TOKEN}"]
        headers["Authorization"] = chance.choice(tokens)
    if "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(body)) if length is None else length
    return Sent(f"{kind}: {method} {path[:80]}", request(method, path, headers, body, hosts), is_cut)


def reply_to(address: tuple[str, int], sent: Sent) -> tuple[int, dict[str, str], bytes]:
    """The reply: status, headers, body. The status is 0 where the server ends the connection without a reply."""
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        received = b""
        try:
            connection.sendall(sent.data)
            if sent.is_cut:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):  # it had answered before it read everything
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    if not head:
        return 0, {}, b""
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}, body


def faults(sent: Sent, status: int, headers: dict[str, str], body: bytes, home: str) -> list[str]:
    """What is wrong with a reply."""
    if status >= 500:
        return [f"status {status}"]
    if " HEAD " in sent.about and body:
        return ["a reply to HEAD has a body"]
    if status == 405 and not headers.get("allow"):
        return ["405 without Allow"]
    if status < 400 or " HEAD " in sent.about or " /mcp" in sent.about:
        return []
    text = body.decode()
    message = json.loads(text)["error"]["message"] if headers.get("content-type") == "application/json" else text
    wrong = [message] if not message or "\n" in message or len(message) > 600 or PYDANTIC.search(message) else []
    return wrong + [message for path in (home, "/work/", "/usr/", "/root/") if path in text]


def test_500_malformed_requests(tiny_model, store, tmp_path_factory):  # noqa: F811
    chance = random.Random(SEED)
    with Server(tiny_model.name, store.home) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        requests = [malformed(chance, tiny_model.name) for _ in range(COUNT)]
        half_open = [socket.create_connection(address) for _ in range(20)]
        for number, connection in enumerate(half_open):
            connection.sendall(requests[number].data[: 10 * number])
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect(address)
        stream = bodies(tiny_model.name)["/v1/completions"] | {"max_tokens": 1000, "stream": True, "temperature": 1}
        body = json.dumps(stream | {"stop": None}).encode()
        headers = {
            "Authorization": f"Bearer {TOKEN}",
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
        }
        slow.sendall(request("POST", "/v1/completions", headers, body))
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda sent: reply_to(address, sent), requests))
        spent = time.monotonic() - began
        problems = {
            (sent.about, *wrong): sent.data[-200:]
            for sent, reply in zip(requests, replies)
            if (wrong := faults(sent, *reply, str(store.home)))
        }
        assert problems == {}, "\n".join(f"{about}\n    {data!r}" for about, data in problems.items())
        kinds = {sent.about.partition(":")[0] for sent in requests}
        assert len(kinds) == 9 and {200, 400, 401, 403, 404, 405, 413} <= {status for status, *_ in replies}
        body = {"model": tiny_model.name, "prompt": "The river", "max_tokens": 4}
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=authorized, timeout=60)
        assert answer.json()["choices"][0]["text"]
        assert spent < 150, f"{spent:.0f} s"
        for connection in (*half_open, slow):
            connection.close()


@contextmanager
def guarded(monkeypatch):
    """A server behind the guard that loses patience quickly: its address, and the paths whose replies were given up."""
    monkeypatch.setattr(guard, "STALLED_S", 2.0)
    given_up = []

    async def endless(path: str):
        try:
            while True:
                yield b"x" * 100_000
        finally:
            given_up.append(path)

    async def app(scope, receive, send):
        if scope["method"] == "GET":
            reply = guard.Events(endless(scope["path"]))
        else:
            reply = PlainTextResponse(await Request(scope, receive).body())
        await reply(scope, receive, send)

    routed = Starlette(routes=[Mount("/", app)], exception_handlers={HTTPException: _refused})
    server = uvicorn.Server(uvicorn.Config(guard.Guard(routed, "t", ("*",)), http=guard.Http, log_level="critical"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname(), given_up
    server.should_exit = server.force_exit = True
    thread.join(10)


def test_a_client_that_stops_sending_or_reading_is_given_up(monkeypatch):
    cut = request("POST", "/b", {"Authorization": "Bearer t", "Content-Length": "9"}, b"abc")
    with guarded(monkeypatch) as (address, given_up):

        def reply(data: bytes) -> bytes:
            with socket.create_connection(address, timeout=60) as connection:
                connection.sendall(data)
                return connection.recv(65536)[:13]

        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(reply, (b"", b"GET /a HTTP/1.1\r\nHo", cut)))
        assert replies == [b"", b"", b"HTTP/1.1 408 "]
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(request("GET", "/c", {"Authorization": "Bearer t"}, b""))
            assert connection.recv(10)
            wait_until(lambda: given_up)
            assert given_up == ["/c"]


@pytest.mark.parametrize(
    "host, is_known",
    [
        ("127.0.0.1:80", True),
        ("LOCALHOST", True),
        ("[::1]:8765", True),
        ("[[::1]]", False),
        ("::1", False),
        ("localhost:", False),
        ("localhost.", False),
        ("[localhost]", False),
        ("127.0.0.1, evil", False),
    ],
)
def test_only_a_well_formed_host_of_this_server_is_known(host, is_known):
    guarded = guard.Guard(None, "t", ("127.0.0.1", "localhost", "::1"))
    refusal = guarded._refusal({"headers": [(b"host", host.encode())], "path": "/"})
    assert (refusal is None) is is_known


def test_head_and_allow(client):  # noqa: F811
    for route in GETS[1:]:
        whole, head = client.get(route), client.head(route)
        assert head.status_code == whole.status_code == 200, route
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/v1/memories/000000000000").status_code == 404
    assert client.put("/v1/memories").headers["Allow"] == "GET, HEAD, POST"
    assert client.head("/v1/ask").headers["Allow"] == "POST"
