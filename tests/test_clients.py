"""The official clients talk to the real server: what docs/server.md tells people to do."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from conftest import wait_until
from test_answers import FAST, store  # noqa: F401  (a fixture)
from test_serve import tiny_model  # noqa: F401  (a fixture)

from selfedit.bench.load import TOKEN, Server
from selfedit.cli import main


@pytest.fixture
def server(tiny_model, store):  # noqa: F811
    with Server(tiny_model.name, store.home) as server:
        yield server.url


def test_the_official_client_of_openai(server, tiny_model, store):  # noqa: F811
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    client = openai.OpenAI(base_url=f"{server}/v1", api_key=TOKEN, max_retries=0)
    messages = [{"role": "user", "content": FAST.question}]
    assert tiny_model.name in [model.id for model in client.models.list()]
    reply = client.chat.completions.create(model=tiny_model.name, messages=messages, max_tokens=8)
    assert reply.choices[0].message.content and reply.usage.completion_tokens > 0
    assert reply.selfedit["memory"] == store.active_ids()[0]
    pieces = client.chat.completions.create(
        model=f"{tiny_model.name}:base", messages=messages, max_tokens=8, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    again = client.chat.completions.create(model=f"{tiny_model.name}:base", messages=messages, max_tokens=8)
    assert text == again.choices[0].message.content
    whole = client.completions.create(model=tiny_model.name, prompt="The river", max_tokens=4)
    assert whole.choices[0].text
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4.1", messages=messages)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=tiny_model.name, messages=messages, n=2)


def test_the_llm_command(server, tiny_model, tmp_path):  # noqa: F811
    """https://llm.datasette.io, by its file of OpenAI-compatible models."""
    pytest.importorskip("llm", reason="the package llm is not installed")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: memory\n  model_name: {json.dumps(tiny_model.name)}\n  api_base: {server}/v1\n"
        "  api_key_name: selfedit\n"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    run = lambda *arguments: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "llm", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run("keys", "set", "selfedit", "--value", TOKEN).returncode == 0
    told = run("-m", "memory", "-o", "max_tokens", "8", FAST.question)
    assert told.returncode == 0 and told.stdout.strip(), told.stderr


def test_a_server_that_is_killed_while_it_answers_and_learns_loses_nothing(tiny_model, store):  # noqa: F811
    headers = {"Authorization": f"Bearer {TOKEN}"}
    before = {entry.id for entry in store.all()}
    texts = [
        {"text": f"The gate {i} of Ulm is guarded by Ida{i} Rask. It opens at {i}.", "title": f"Gate {i}"}
        for i in range(2)  # one is learned, and one waits
    ]
    body = {"model": f"{tiny_model.name}:base", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 800}
    with Server(tiny_model.name, store.home) as server:
        for text in texts:
            reply = httpx.post(f"{server.url}/v1/memories", json=text, headers=headers, timeout=60)
            assert reply.status_code == 202
        with pytest.raises(httpx.TransportError):  # noqa: PT012
            with httpx.stream(
                "POST", f"{server.url}/v1/chat/completions", json=body | {"stream": True}, headers=headers, timeout=60
            ) as stream:
                for number, _ in enumerate(stream.iter_lines()):
                    if number == 4:
                        server.process.send_signal(signal.SIGKILL)
    with Server(tiny_model.name, store.home) as server:

        def are_done() -> bool:
            jobs = httpx.get(f"{server.url}/v1/jobs", headers=headers, timeout=60).json()["jobs"]
            return bool(jobs) and all(job["status"] == "done" for job in jobs)

        wait_until(are_done, pause_s=0.2)
    titles = {entry.passage.title for entry in store.all()}
    assert {text["title"] for text in texts} <= titles and before <= {entry.id for entry in store.all()}
    assert store.verify()["faults"] == []


def test_another_host_needs_tls_or_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("selfedit.cli.talk.open_model", None)  # it ends before a model is loaded
    command = ["serve", "--home", str(tmp_path), "--model", "smollm2-135m", "--port", "0"]
    for options, says in (
        (["--host", "0.0.0.0"], "--insecure"),
        (["--certificate", "nothing.pem"], "both --certificate and --key"),
        (["--certificate", "nothing.pem", "--key", "nothing.pem"], "no usable certificate"),
        (["--host", "256.1.1.1", "--insecure"], "cannot listen"),
        (["--token", "short"], "16 to 200"),
    ):
        code, shown = main([*command, *options]), capsys.readouterr()
        assert code == 2 and says in shown.err and shown.err.count("\n") == 1 and not shown.out, shown
