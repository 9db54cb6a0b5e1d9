"""The server: OpenAI's API, memories, jobs, who may ask; against a real store and a tiny model."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ask, wait_until, write_tiny_model
from starlette.testclient import TestClient
from test_answers import FAST, GATE, INDEX, store  # noqa: F401  (a fixture)

from selfedit import disk
from selfedit.answers.answerer import Answerer, Ask
from selfedit.cli import talk
from selfedit.config import LearnConfig
from selfedit.errors import SelfeditError
from selfedit.memory.store import MemoryStore
from selfedit.model.load import load_model
from selfedit.serve import jobs as jobs_module
from selfedit.serve.app import create_app
from selfedit.serve.engine import Engine, EngineError, Written
from selfedit.serve.guard import HEADERS
from selfedit.serve.jobs import Jobs, safe_name
from selfedit.serve.learner import JOBS, STOPPED, _passages, add_job, command
from selfedit.serve.service import Service
from selfedit.serve.token import stored_token
from selfedit.text import count_words
from selfedit.types import Question

TOKEN = "a-token-for-the-tests"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """One that can read the requests of the main job."""
    return load_model(str(write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)))


@contextmanager
def serving(model, home, **options):
    service = Service(model, home, **options)
    app = create_app(service, TOKEN, ("testserver",))
    with TestClient(app, headers=AUTHORIZED, raise_server_exceptions=False) as client:
        client.service = service
        yield client


@pytest.fixture
def client(tiny_model, store):  # noqa: F811
    with serving(tiny_model, store.home) as client:
        yield client


@pytest.fixture
def waiting_client(client, monkeypatch):
    """A client of a server whose jobs wait."""

    async def nothing(self, job):
        pass

    monkeypatch.setattr(Jobs, "_learn", nothing)
    return client


def chat(client, text="Which option of Quill was removed?", status=200, **fields):
    body = {"model": client.service.model.name, "messages": [{"role": "user", "content": text}], "max_tokens": 6}
    reply = client.post("/v1/chat/completions", json=body | fields)
    assert reply.status_code == status, reply.text
    return reply


def events(reply) -> list:
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# Answers


def test_a_chat_is_answered_as_ask_answers(client, tiny_model, store):  # noqa: F811
    expected = Answerer(tiny_model, store).answer([Ask(FAST, max_new_tokens=40, whole=False)])[0]
    body = chat(client, FAST.question, max_tokens=40).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": expected.answer}
    assert body["selfedit"] == {"from": expected.arm, "memory": expected.memory.id, "source": "/q.md"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert body["object"] == "chat.completion" and body["choices"][0]["finish_reason"] in ("stop", "length")
    cut = chat(client, FAST.question, model=f"{client.service.model.name}:text").json()  # a quotation of 6 tokens
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 6
    assert GATE.text.startswith(cut["choices"][0]["message"]["content"])


@pytest.mark.parametrize("part", ["weights", "text", "base"])
def test_the_name_of_the_model_may_choose_an_arm_and_a_stream_is_the_same_text(client, part):
    name = f"{client.service.model.name}:{part}"
    whole = chat(client, model=name).json()
    parts = events(chat(client, model=name, stream=True, stream_options={"include_usage": True}))
    text = "".join(p["choices"][0]["delta"].get("content", "") for p in parts if p["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant" and parts[-1]["usage"] == whole["usage"]
    assert whole["selfedit"]["from"] == part
    pieces = len([p for p in parts if p["choices"] and p["choices"][0]["delta"].get("content")])
    assert pieces == 1 if part == "text" else pieces > 1  # what is quoted comes whole


def test_a_memory_is_a_model(client, store):  # noqa: F811
    gate, index = store.active()
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert {f"{client.service.model.name}:{memory.id}" for memory in (gate, index)} < set(names)
    for memory, arm in ((gate, "weights"), (index, "text")):
        origin = chat(client, "Hello", model=f"{client.service.model.name}:{memory.id}").json()["selfedit"]
        assert (origin["from"], origin["memory"]) == (arm, memory.id)


def test_the_name_of_the_model_may_have_a_colon(tiny_model, store):  # noqa: F811
    with serving(replace(tiny_model, name="hub/tiny:q4"), store.home) as client:
        gate = store.active()[0].id
        assert chat(client, model="hub/tiny:q4").json()["selfedit"]["memory"] == gate
        for part, arm in ((":base", "base"), (":text", "text"), (f":{gate}", "weights")):
            assert chat(client, model=f"hub/tiny:q4{part}").json()["selfedit"]["from"] == arm
        for name in ("hub/tiny", "hub/tiny:q8", "hub/tiny:q4x"):
            assert f"no model {name!r}" in chat(client, model=name, status=404).json()["error"]["message"]


def test_many_at_once_are_answered_as_each_alone(client, tiny_model, store):  # noqa: F811
    questions = [FAST.question, "Who are you?", "What does an archive without an index raise?", "A river?"] * 4
    expected = [
        a.answer for a in ask(tiny_model, store, [Question(q, ()) for q in questions], arm="auto", max_new_tokens=60)
    ]

    async def together():
        engine = client.service.engine
        asks = [Ask(Question(q, ()), max_new_tokens=60) for q in questions]
        return await asyncio.gather(*(_last(engine.answer(store.home, one)) for one in asks))

    assert [written.text for written in asyncio.run(together())] == expected


async def _last(items):
    async for item in items:
        last = item
    assert isinstance(last, Written)
    return last


def test_a_drawn_answer_depends_on_its_seed_only(client):
    first, again, other = (
        chat(client, model=f"{client.service.model.name}:base", temperature=1.5, seed=seed).json()["choices"][0][
            "message"
        ]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_without_a_seed_every_draw_is_another(client):
    name = f"{client.service.model.name}:base"
    drawn = {
        chat(client, model=name, temperature=1.5, max_tokens=12).json()["choices"][0]["message"]["content"]
        for _ in range(3)
    }
    assert len(drawn) == 3


NEUTRAL = {
    "n": 1, "best_of": 1, "logprobs": False, "top_logprobs": 0, "echo": False, "suffix": "", "logit_bias": {},
    "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "tool_choice": "auto", "functions": [],
    "modalities": ["text"],
}  # fmt: skip
HARMFUL = {
    "n": 2, "best_of": 3, "logprobs": 0, "top_logprobs": 2, "echo": True, "suffix": "}", "logit_bias": {"50256": -100},
    "frequency_penalty": 0.5, "presence_penalty": -1, "tools": [{"type": "function"}], "tool_choice": "required",
    "functions": [{"name": "a"}], "modalities": ["text", "audio"],
}  # fmt: skip


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_fields_that_would_change_the_answer_are_refused_unless_they_are_neutral(client, route):
    body = {"model": client.service.model.name, "max_tokens": 2, "prompt": "The river"}
    body["messages"] = [{"role": "user", "content": "Who?"}]
    optional = ("temperature", "top_p", "seed", "stop", "stream", "stream_options", "user", "metadata")
    for fields in (NEUTRAL, dict.fromkeys([*NEUTRAL, *optional, "response_format", "max_completion_tokens"])):
        assert client.post(f"/v1/{route}", json=body | fields).status_code == 200, fields
    for name, value in (HARMFUL | {"logprobs": 1}).items():
        refused = client.post(f"/v1/{route}", json=body | {name: value})
        assert refused.status_code == 400, name
        assert refused.json()["error"]["message"] == f"{name} is not supported; leave it out"


def test_the_smallest_top_p_is_greedy_and_harms_nobody(client):
    name = f"{client.service.model.name}:base"
    greedy = chat(client, model=name).json()["choices"]
    assert chat(client, model=name, temperature=1, top_p=1e-320).json()["choices"] == greedy


def test_an_answer_ends_before_a_stop_text(client):
    name = f"{client.service.model.name}:base"
    whole = chat(client, "Who?", model=name, max_tokens=12).json()["choices"][0]["message"]["content"]
    stop = whole[4:6]
    for stream in (False, True):
        reply = chat(client, "Who?", model=name, max_tokens=12, stop=[stop, "never"], stream=stream)
        if stream:
            text = "".join(e["choices"][0]["delta"].get("content", "") for e in events(reply))
        else:
            text = reply.json()["choices"][0]["message"]["content"]
        assert text == whole[: whole.index(stop)]


def test_json_follows_the_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [3, 4]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    name = f"{client.service.model.name}:base"
    reply = chat(client, model=name, response_format=form, max_tokens=60).json()
    value = json.loads(reply["choices"][0]["message"]["content"])
    assert len(value["name"]) <= 5 and value["age"] in (3, 4) and len(value) == 2
    wrong = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    assert "schema" in chat(client, response_format=wrong, status=400).json()["error"]["message"]


def test_a_completion_continues_the_text(client, tiny_model):
    body = {"model": client.service.model.name, "prompt": "The river rises", "max_tokens": 5}
    whole = client.post("/v1/completions", json=body).json()
    parts = events(client.post("/v1/completions", json=body | {"stream": True}))
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["choices"][0]["text"] != ""
    assert whole["object"] == "text_completion"


def test_ask_says_why(client):
    record = client.post("/v1/ask", json={"question": FAST.question, "max_tokens": 6}).json()
    assert {"answer", "from", "memory", "source", "why", "candidates"} <= record.keys()
    assert [candidate["arm"] for candidate in record["candidates"]] == ["weights", "text", "both"]
    strict = client.post("/v1/ask", json={"question": "Who are you?", "strict": True, "max_tokens": 4}).json()
    assert (strict["from"], strict["answer"]) == ("", "I don't know.")


# Memories


def test_memories_are_listed_shown_taken_out_of_force_and_brought_back(client, store):  # noqa: F811
    gate, index = store.active()
    listed = client.get("/v1/memories").json()["memories"]
    assert [(m["id"], m["active"], bool(m["adapter_hash"])) for m in listed] == [
        (gate.id, True, True),
        (index.id, True, False),
    ]
    page = client.get(f"/v1/memories/{gate.id}").json()
    assert (page["passage"], page["same_source"], page["active"]) == (GATE.text, [index.id], True)
    assert client.post(f"/v1/memories/{gate.id}/disable").json()["active"] == [index.id]
    assert [m["active"] for m in client.get("/v1/memories?all=true").json()["memories"]].count(False) == 1
    assert client.post(f"/v1/memories/{gate.id}/approve").json()["action"] == "approve"
    client.post("/v1/rollback", json={"to": None})
    assert store.active_ids() == [index.id]
    assert client.delete(f"/v1/memories/{index.id}").json()["active"] == []
    assert [v["action"] for v in client.get("/v1/versions").json()["versions"]][-1] == "forget"
    assert client.get(f"/v1/memories/{index.id}").status_code == 404


def test_a_user_has_a_home_of_their_own(client, store):  # noqa: F811
    assert client.get("/v1/memories", headers={"X-Selfedit-User": "ada"}).json()["memories"] == []
    name = client.service.model.name
    assert chat(client, user="ada", model=name).json()["selfedit"]["from"] == "base"
    gate = store.active()[0].id
    assert (
        chat(client, user="ada", model=f"{name}:{gate}", status=404).json()["error"]["type"] == "invalid_request_error"
    )
    assert client.delete(f"/v1/memories/{gate}", headers={"X-Selfedit-User": "ada"}).status_code == 404
    homes = {client.service.home_of(user) for user in (None, "ada", "Ada", "../../etc", "ada/..", "ädä")}
    assert len(homes) == 6 and all(home.is_relative_to(store.home) for home in homes)


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_the_header_decides_whose_memories_answer(client, store, route):  # noqa: F811
    name, ada = client.service.model.name, {"X-Selfedit-User": "ada"}
    body = {"model": f"{name}:{store.active()[0].id}", "max_tokens": 2, "prompt": FAST.question}
    body["messages"] = [{"role": "user", "content": FAST.question}]

    def status(user=None, **headers):
        return client.post(f"/v1/{route}", json=body | {"user": user}, headers=headers)

    assert [status().status_code, status("ada").status_code, status("", **ada).status_code] == [200, 404, 404]
    assert status("ada", **ada).status_code == 404
    for header in ("ada", ""):
        refused = status("bob", **{"X-Selfedit-User": header})
        assert refused.status_code == 400 and "X-Selfedit-User" in refused.json()["error"]["message"]


@pytest.mark.parametrize("method, route", [("GET", "/v1/memories"), ("POST", "/v1/ask"), ("POST", "/mcp/")])
def test_two_users_or_a_very_long_one_in_the_header_are_refused(client, method, route):
    for names in (["ada", "bob"], ["a" * 201]):
        reply = client.request(method, route, headers=[("X-Selfedit-User", name) for name in names])
        assert reply.status_code == 400 and "X-Selfedit-User" in reply.json()["error"]["message"]


@pytest.fixture
def linked(tmp_path, monkeypatch) -> Path:
    """A working folder with a home and a link to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("b")
    return tmp_path


@pytest.mark.parametrize("home", [".", "a/../b", "link"])
def test_a_relative_home_is_shown_to_no_client(tiny_model, linked, home):
    with serving(tiny_model, Path(home)) as client:
        service = client.service
        assert service.home == (linked if home == "." else linked / "b")
        assert service.without_paths("polars@2.0, e.g. 3 tokens/s") == "polars@2.0, e.g. 3 tokens/s"
        assert service.without_paths(f"{service.home}/memory.db: damaged") == "the memory home: damaged"


def test_a_job_that_fails_shows_no_relative_home(tiny_model, linked):
    with serving(tiny_model, Path("link")) as client:
        bad = client.post("/v1/memories", files={"file": ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0")})
        failed = finished(client, bad.json()["job"])
        assert failed["error"].startswith("picture.png: ") and str(linked) not in str(failed)


def test_the_commands_have_an_absolute_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFEDIT_HOME", "from/environment")
    assert talk._home(argparse.Namespace(home=Path("memories"))) == tmp_path / "memories"
    assert talk._home(argparse.Namespace(home=None)) == tmp_path / "from/environment"


# Learning


def finished(client, job: str) -> dict:
    """The job, once it has ended; its events are read meanwhile."""
    with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        lines = [line for line in stream.iter_lines() if line]
    return json.loads(lines[-1].removeprefix("data: "))


def test_a_text_is_learned_in_the_background_and_answers_then(client, store, tiny_model):  # noqa: F811
    text = "The harbour of Tolm closes at nine in winter. Its keeper is called Ysolde Marn."
    job = client.post("/v1/memories", json={"text": text, "title": "Tolm"})
    assert job.status_code == 202
    ended = finished(client, job.json()["job"])
    assert ended["status"] == "done", ended
    (entry,) = [entry for entry in store.all() if entry.passage.title == "Tolm"]
    assert entry.passage.text == text and entry.passage.source.startswith("text://")
    assert not list((store.home / "jobs").glob("*/")), "a job that has ended leaves no folder"
    assert ended["summary"]["passages"] == 1 and client.get("/v1/jobs").json()["jobs"][0]["status"] == "done"


def test_a_file_is_learned_and_keeps_its_name_and_what_cannot_be_read_fails_with_the_reason(client, store):  # noqa: F811
    good = client.post("/v1/memories", files={"file": ("../notes/Ports.md", b"# Ports\n\nThe proxy listens on 9901.")})
    bad = client.post("/v1/memories", files={"file": ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0")})
    assert finished(client, good.json()["job"])["status"] == "done"
    assert "upload://Ports.md" in {entry.passage.source for entry in store.all()}
    failed = finished(client, bad.json()["job"])
    assert failed["status"] == "failed" and "picture.png" in failed["error"] and str(store.home) not in str(failed)


def passages_of(client, reply) -> list:
    """The passages of a job that waits."""
    assert reply.status_code == 202, reply.text
    folder = client.service.home / "jobs" / reply.json()["job"]
    spec = json.loads((folder / "job.json").read_bytes())
    return _passages(client.service.home, folder, spec, LearnConfig.passage_words, count_words)[0]


def test_texts_without_a_title_and_files_without_a_name_do_not_replace_each_other(waiting_client):
    def sources(requests):
        passages = [passages_of(waiting_client, waiting_client.post("/v1/memories", **fields)) for fields in requests]
        return [passage.source for (passage,) in passages]

    texts = [{"text": text, "title": title} for title in ("", "  ") for text in ("Ulm is old.", "Brae is new.")]
    first, second, third, fourth = sources({"json": body} for body in texts)
    assert first == third != second == fourth
    named, again = sources({"json": {"text": text, "title": "Towns"}} for text in ("Ulm is old.", "Brae is new."))
    assert named == again, "a text of the same title is a newer version"
    files = [{"file": (name, data)} for name in ("-", "?") for data in (b"Ulm is old.", b"Brae is new.")]
    assert len({*sources({"files": file} for file in files)}) == 2


def test_an_upload_may_have_the_name_of_the_file_that_describes_its_job(waiting_client):
    data = b'{"harbour": "Tolm closes at nine."}'
    (passage,) = passages_of(waiting_client, waiting_client.post("/v1/memories", files={"file": ("job.json", data)}))
    assert "Tolm closes at nine." in passage.text and passage.source == "upload://job.json"


def test_a_job_of_an_earlier_version_is_read_or_fails_with_one_line(tmp_path):
    def written(name):
        spec = {"kind": "upload", "file": name, "title": name}
        folder = add_job(tmp_path, "tiny", spec, name).path
        return folder, spec

    folder, spec = written("Ports.md")
    (folder / "Ports.md").write_text("The proxy listens on 9901.")
    (passage,) = _passages(tmp_path, folder, spec, 110, count_words)[0]
    assert passage.text == "The proxy listens on 9901."
    folder, spec = written("job.json")
    with pytest.raises(SelfeditError, match="job.json: .*send it again"):
        _passages(tmp_path, folder, spec, 110, count_words)
    folder, spec = written("notes.md")
    (folder / "notes.md").write_text("Ulm is old.")
    (passage,) = _passages(tmp_path, folder, spec | {"kind": "text"}, 110, count_words)[0]
    assert passage.source.startswith("text://")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_not_lost_because_too_many_jobs_wait(waiting_client, monkeypatch, stream):
    monkeypatch.setattr("selfedit.serve.jobs.MOST_WAITING", 0)
    reply = chat(waiting_client, "My cat is called Mostarda.", stream=stream, metadata={"session": "work"})
    assert "Mostarda" in str(waiting_client.service.conversations(waiting_client.service.home).statements)
    assert len(waiting_client.service.conversations(waiting_client.service.home).turns("work")) == 2
    assert reply.text.endswith("[DONE]\n\n") if stream else reply.json()["choices"]
    titles = [job["title"] for job in waiting_client.get("/v1/jobs").json()["jobs"]]
    assert titles == ["what the user said"], "at most one such job waits, so that there is always a place for it"


def test_an_answer_is_not_lost_because_its_job_cannot_be_written(waiting_client, monkeypatch):
    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfedit.serve.jobs.add_job", full)
    assert chat(waiting_client, "My cat is called Mostarda.", metadata={"session": "work"}).json()["choices"]


def test_a_job_that_cannot_be_written_leaves_no_folder(waiting_client, monkeypatch):
    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selfedit.disk.replace", full)
    reply = waiting_client.post("/v1/memories", json={"text": "A fact.", "title": "T"})
    assert reply.status_code == 503 and "No space left" in reply.json()["error"]["message"]
    assert not list((waiting_client.service.home / "jobs").glob("*/"))


def test_a_long_name_in_any_script_is_kept_as_a_file(waiting_client):
    for name in ("漢" * 100 + ".md", "é" * 120 + ".md", "x" * 250 + ".md"):
        reply = waiting_client.post("/v1/memories", files={"file": (name, b"A fact.")})
        (passage,) = passages_of(waiting_client, reply)
        assert passage.source.startswith(f"upload://{name[:20]}")


def job_of_child(tmp_path, monkeypatch, program: str, **patches) -> tuple:
    """The job that a child process with this program has run, and the tasks that are left after it."""
    for name, value in patches.items():
        monkeypatch.setattr(Jobs, name, value)
    monkeypatch.setattr(jobs_module, "command", lambda *rest: [sys.executable, "-c", program])

    async def run():
        jobs = Jobs("tiny", "packed")
        job = jobs.add(tmp_path, {"kind": "text", "file": "text.md"}, "T", b"A fact.")
        await asyncio.wait_for(jobs._learn(job), 300)
        await asyncio.sleep(0)
        return job, asyncio.all_tasks() - {asyncio.current_task()}

    return asyncio.run(run())


NO_EVENTS = """1 {} [] null "summary" x {"stage":3} {"stage":"passage","done":"x"} {"stage":"passage"} {"error":{}}
{"message":[1]} {"summary":4} {"gone":false}""".split()


def test_lines_of_a_child_that_are_no_events_are_ignored(tmp_path, monkeypatch):
    program = f"""
import json, sys
print(*{NO_EVENTS!r}, "[" * 99_999, sep="\\n")
print("x" * 3_000_000)
print("y" * 3_000_000, file=sys.stderr)
print(json.dumps({{"message": "cannot read {tmp_path}/memory.db"}}))
print(json.dumps({{"stage": "passage", "done": 1, "total": 2}}))
print(json.dumps({{"summary": {{"failed": [{{"reason": "{tmp_path}/jobs/a: no"}}]}}}}))
"""
    job, tasks = job_of_child(tmp_path, monkeypatch, program)
    assert (job.status, job.error, job.done, job.total) == ("done", None, 1, 2) and not tasks
    assert job.messages == ["cannot read the memory home"]
    assert job.summary == {"failed": [{"reason": "the memory home: no"}]}


def test_what_a_child_says_last_is_told_without_paths(tmp_path, monkeypatch):
    program = f"import sys; sys.exit('cannot open {tmp_path}/memory.db')"
    job, _ = job_of_child(tmp_path, monkeypatch, program)
    assert (job.status, job.error) == (
        "failed",
        "cannot open the memory home; send it again, what was finished is kept",
    )


def test_a_fault_while_a_child_is_read_ends_the_child(tmp_path, monkeypatch):
    async def fault(*rest):
        raise ZeroDivisionError("division by zero")

    program = "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += f"print(os.getpid(), file=open('{tmp_path}/pid', 'w'), flush=True); "
    job, tasks = job_of_child(tmp_path, monkeypatch, program + "print('{}', flush=True); time.sleep(600)", _take=fault)
    assert job.status == "failed" and "division by zero" in job.error and not tasks
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_learner_that_a_shell_started_in_the_background_can_be_stopped(tmp_path):
    job = add_job(tmp_path, "a-model", {"kind": "text", "file": "text.txt"}, "A text", b"Words.")
    with disk.turn(tmp_path / JOBS / "learning", lambda process: None):
        learner = subprocess.Popen(
            command(tmp_path, "a-model", "packed", [job.path]),
            stdout=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        assert b"is learning; waiting for it" in learner.stdout.readline()
        learner.send_signal(signal.SIGINT)
        assert learner.wait(timeout=300) == STOPPED
    assert (job.path / "job.json").exists()


def test_a_job_can_be_stopped_before_it_begins_and_while_it_runs(client, store):  # noqa: F811
    texts = [{"text": f"Fact {i} about Ulm. It has {i} bridges.", "title": f"T{i}"} for i in range(2)]
    first, second = (client.post("/v1/memories", json=body).json()["job"] for body in texts)
    assert client.delete(f"/v1/jobs/{second}").json()["status"] == "stopped"
    wait_until(lambda: client.service.jobs._process)
    process = client.service.jobs._process
    listed = {job["id"]: job["status"] for job in client.get("/v1/jobs").json()["jobs"]}
    assert listed == {first: "running", second: "stopped"} and process.returncode is None
    assert client.delete(f"/v1/jobs/{first}").json()["status"] == "stopped"
    assert process.returncode is not None
    assert client.get("/v1/jobs/000/events").status_code == 404
    assert not list((store.home / "jobs").glob("*/"))


def test_a_form_that_is_cut_off_and_too_many_jobs_are_refused(client, monkeypatch):
    form = b'--a\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nabc'
    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    assert client.post("/v1/memories", content=form, headers=headers).status_code == 400
    monkeypatch.setattr("selfedit.serve.jobs.MOST_WAITING", 0)
    assert client.post("/v1/memories", json={"text": "A fact.", "title": "T"}).status_code == 429


def test_a_server_that_starts_again_continues_its_jobs(tiny_model, store):  # noqa: F811
    with serving(tiny_model, store.home) as client:

        def learn_and_forget():
            job = client.service.learn_text(store.home, "The mayor of Ulm is Ida Rask. She was elected in May.", "Ulm")
            client.service.jobs._jobs.clear()  # a server that was killed tells nobody
            return job

        job = client.portal.call(learn_and_forget)  # in the event loop of the server
        assert (job.folder / "job.json").exists()
    with serving(tiny_model, store.home) as client:
        (again,) = client.get("/v1/jobs").json()["jobs"]
        assert again["title"] == "Ulm" and finished(client, again["id"])["status"] == "done"
    assert "Ulm" in {entry.passage.title for entry in store.all()}


def test_a_job_that_another_process_has_done_is_done(client, store):  # noqa: F811
    folder = add_job(store.home, client.service.model.name, {"kind": "text", "file": "text.md"}, "Ulm", b"Ulm is old.")

    def find_and_remove():
        client.service.jobs.find_unfinished(store.home)
        shutil.rmtree(folder.path)

    client.portal.call(find_and_remove)  # in the event loop of the server
    ended = finished(client, folder.path.name)
    assert ended["status"] == "done" and ended["messages"] == ["another process has learned it"], ended


@pytest.mark.parametrize(
    "name, safe",
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\Notes.docx", "Notes.docx"),
        ("", ""),
        ("...", ""),
        ("-", ""),
        ("a\0b\n.md", "a_b_.md"),
        ("x" * 100 + ".md", "x" * 100 + ".md"),
        ("job.json/..", ""),
    ],
)
def test_an_upload_gets_a_safe_name(name, safe):
    assert safe_name(name) == safe


def test_a_name_is_cut_to_what_every_file_system_takes_and_stays_another_than_similar_ones():
    names = [f"{'漢' * 100}{number}.{'字' * 100}" for number in range(2)]
    first, second = map(safe_name, names)
    assert first != second and first[:30] == second[:30] == "漢" * 30
    assert all(len(name.encode()) <= 120 and name.isprintable() for name in (first, second))


# Who may ask


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_told(client, token):
    for method, route in (
        ("GET", "/v1/memories"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/metrics"),
        ("POST", "/mcp/"),
    ):
        reply = client.request(method, route, headers={"Authorization": token})
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"


def test_a_foreign_host_is_refused_and_every_reply_is_guarded(client):
    assert client.get("/v1/memories", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/health", headers={"Host": "evil.example:8765"}).status_code == 403
    for route in ("/health", "/", "/v1/memories", "/nothing"):
        reply = client.get(route)
        assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    assert client.get("/health", headers={"Authorization": ""}).json()["status"] == "ok"


def test_metrics_count(client):
    chat(client)
    text = client.get("/metrics").text
    assert "selfedit_requests_total 1" in text and "selfedit_waiting 0" in text


def test_more_questions_than_may_wait_are_refused(tiny_model, store):  # noqa: F811
    with serving(tiny_model, store.home, most_waiting=0) as client:
        reply = chat(client, status=429)
        assert reply.headers["Retry-After"] == "1" and reply.json()["error"]["type"] == "rate_limit_error"


NAME = "{name}"
NO_OBJECTS = [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 5000]
MALFORMED = (
    {},
    {"model": 3},
    {"model": NAME},
    {"model": NAME, "messages": []},
    {"model": NAME, "messages": "hello"},
    {"model": NAME, "messages": [{}]},
    {"model": NAME, "messages": [{"role": "user"}]},
    {"model": NAME, "messages": [{"role": "pirate", "content": "a"}]},
    {"model": NAME, "messages": [{"role": "assistant", "content": "a"}]},
    {"model": NAME, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"model": "gpt-4.1", "messages": [{"role": "user", "content": "a"}]},
    {"model": NAME + ":nobody", "messages": [{"role": "user", "content": "a"}]},
    {"model": NAME, "messages": [{"role": "user", "content": "word " * 2000}]},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": -1},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": 10**9},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": "many"},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "temperature": "NaN"},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "temperature": 99},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "n": 3},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "stop": ["a"] * 9},
    {"model": NAME, "messages": [{"role": "user", "content": "a"}], "response_format": {"type": "xml"}},
    {"model": NAME, "prompt": ""},
    {"question": ""},
    {"question": "a", "from": "nowhere"},
    {"question": "a", "memory": "zz"},
    {"text": ""},
    {"text": "   ", "title": "x" * 999},
    {"url": "file:///etc/passwd"},
    {"to": "v999"},
)
"""For every route; but to roll back, `to` alone counts, and without it the last change is undone."""


@pytest.mark.parametrize(
    "route", ["/v1/chat/completions", "/v1/completions", "/v1/ask", "/v1/memories", "/v1/rollback"]
)
def test_a_malformed_request_gets_one_clear_line(client, route):
    malformed = [body for body in MALFORMED if route != "/v1/rollback" or "to" in body]
    for body in (*NO_OBJECTS, *(json.dumps(body).encode() for body in malformed)):
        body = body.replace(NAME.encode(), json.dumps(client.service.model.name)[1:-1].encode())
        reply = client.post(route, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, (route, body[:80], reply.text)
        message = reply.json()["error"]["message"]
        assert message and "\n" not in message and "Traceback" not in message


def test_a_body_that_is_too_long_is_refused(client):
    assert client.post("/v1/ask", content=b"x" * 2_100_000).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(30))
    assert client.post("/v1/ask", content=chunks).status_code == 413
    assert client.get("/v1/memories/..%2f..%2fetc").status_code == 404
    assert client.get("/static/..%2f..%2fapp.py").status_code == 404


# The engine


def test_a_client_that_leaves_frees_its_place(tiny_model, store):  # noqa: F811
    engine = Engine(tiny_model)

    async def leave_early():
        items = engine.answer(store.home, Ask(Question("Who?", ()), "base", max_new_tokens=300))
        await anext(items)
        await items.aclose()
        return await _last(engine.answer(store.home, Ask(Question("Who?", ()), "base", max_new_tokens=4)))

    assert asyncio.run(leave_early()).completion_tokens <= 4
    wait_until(lambda: not engine._batch.running)
    assert engine.busy == 0
    engine.close()
    assert not engine.alive


def test_a_whole_answer_frees_its_place_before_it_is_returned(tiny_model, store):  # noqa: F811
    service = Service(tiny_model, store.home)

    async def busy_afterwards():
        await service.answered(store.home, Ask(FAST, "base", max_new_tokens=2))
        return service.engine.busy

    assert asyncio.run(busy_afterwards()) == 0
    service.engine.close()


def test_a_fault_of_one_step_is_told_and_the_next_question_is_answered(tiny_model, store):  # noqa: F811
    engine = Engine(tiny_model)

    async def both():
        await _last(engine.answer(store.home, Ask(FAST, "base", max_new_tokens=2)))
        engine._batch.step = lambda: 1 / 0
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            await _last(engine.answer(store.home, Ask(FAST, "base", max_new_tokens=2)))
        return await _last(engine.answer(store.home, Ask(FAST, "base", max_new_tokens=2)))

    assert asyncio.run(both()).text
    engine.close()


def test_what_is_learned_meanwhile_answers_the_next_question(client, store, tiny_model):  # noqa: F811
    gate = store.active()[0]
    assert chat(client).json()["selfedit"]["memory"] == gate.id
    MemoryStore(store.home).disable(gate.id)
    assert chat(client).json()["selfedit"]["memory"] != gate.id
    MemoryStore(store.home).rollback()
    assert chat(client).json()["selfedit"]["memory"] == gate.id
    assert INDEX.text


# The token


def test_the_token_is_made_once_and_only_the_user_can_read_it(tmp_path, monkeypatch):
    monkeypatch.delenv("SELFEDIT_TOKEN", raising=False)
    token = stored_token(tmp_path / "home", None)
    assert token == stored_token(tmp_path / "home", None) and len(token) >= 32
    assert (tmp_path / "home" / "token").stat().st_mode & 0o777 == 0o600
    assert stored_token(tmp_path, "x" * 20) == "x" * 20
    with pytest.raises(ValueError, match="16 to 200"):
        stored_token(tmp_path, "short")
