"""Sessions and load: what counts as right, the report, and what a stopped run repeats."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from conftest import write_tiny_model

from selfedit.bench import load, sessions
from selfedit.cli import main
from selfedit.errors import DocumentError, RunError, SelfeditError
from selfedit.tasks.sessions import SessionQuestion, load_users, refuses
from selfedit.types import text_hash

USER = {
    "id": "u1",
    "sessions": [
        {
            "date": "2026-01-13",
            "turns": [
                {"role": "user", "content": "My cat is called Mostarda, and our gateway listens on port 8443."},
                {"role": "assistant", "content": "Nice."},
            ],
        },
        {
            "date": "2026-02-13",
            "turns": [
                {"role": "user", "content": "Small correction: our gateway listens on port 8444 now."},
                {"role": "assistant", "content": "Noted."},
            ],
        },
    ],
    "questions": [
        {"after_session": 0, "question": "What is my cat called?", "answers": ["Mostarda"], "kind": "single"},
        {"after_session": 1, "question": "Which port?", "answers": ["8444"], "wrong": ["8443"], "kind": "updated"},
    ],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2048))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "users.jsonl"
    file.write_text(json.dumps(USER) + "\n" + json.dumps(USER | {"id": "u2"}) + "\n")
    return file


def test_the_users_that_are_carried_are_whole():
    users = load_users(Path(sessions.__file__).with_name("users.jsonl"))
    asked = [question for user in users for question in user.questions]
    assert (len(users), sum(len(user.sessions) for user in users), len(asked)) == (6, 36, 159)
    assert {question.kind for question in asked} >= {"single", "updated", "forgotten", "not-said", "two-facts", "date"}
    assert len({question.question for question in asked}) == len(asked)


def question(kind="single", answers=("December 1",), **more) -> SessionQuestion:
    return SessionQuestion(0, "When?", answers, kind, **more)


@pytest.mark.parametrize(
    "asked, reply, right, wrong",
    [
        (question(), "It is on December 1.", True, False),
        (question(), "It is on December 15.", False, False),
        (question(), "I think so.\nDecember 1", False, False),
        (question(answers=("8444",), wrong=("8443",)), "8444, it was 8443", False, True),
        (question("forgotten", ("I don't know",), wrong=("5519",)), "Blue.", True, False),
        (question("forgotten", ("I don't know",), wrong=("5519",)), "It is 5519.", False, True),
        (question("not-said", ("Quillbase",), wrong=("Postgres",)), "No idea", False, False),
        (question("preference-use", must_match=r"->", must_not_match="banana"), "def f() -> int: ...", True, False),
        (question("preference-use", must_match=r"->", must_not_match="banana"), "banana ->", False, False),
    ],
)
def test_a_reply_is_right_as_the_data_says(asked, reply, right, wrong):
    assert (asked.is_right(reply), asked.asserts_wrong(reply)) == (right, wrong)


def test_a_refusal_is_seen():
    assert (
        refuses("I don't know.") and refuses("You have not told me that.") and not refuses("It is not blue, it is 7.")
    )


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"sessions": []}, "is empty"),
        ({"sessions": [{"date": "soon", "turns": []}]}, "write a day"),
        ({"questions": [USER["questions"][0] | {"after_session": 2}]}, "counted from 0"),
        ({"questions": [USER["questions"][0] | {"must_match": "("}]}, "no pattern"),
        ({"questions": [{"after_session": 0}]}, "is missing"),
        ({"id": "u2"}, "two users have the id 'u2'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, reason):
    file = tmp_path / "users.jsonl"
    file.write_text(json.dumps(USER | {"id": "u2"}) + "\n" + json.dumps(USER | change))
    with pytest.raises(DocumentError, match=reason):
        load_users(file)


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, sessions.run(model, load_users(data), out, conditions=("base", "history", "retrieval", "remembered"))


def home(out: Path, user: str) -> Path:
    return out / "homes" / text_hash(user)[:16]


def test_a_run_reports_each_condition_and_kind(finished):
    out, result = finished
    assert [row["condition"] for row in result["rows"]] == ["base", "history", "retrieval", "remembered"]
    assert all(row["by_kind"]["updated"]["questions"] == 2 and row["questions"] == 4 for row in result["rows"])
    assert "Sessions" in (out / "results.md").read_text() and (out / "accuracy.png").stat().st_size > 1000
    known = json.loads((home(out, "u1") / "texts" / "conversations" / ".statements").read_text())
    texts = " ".join(one["text"] for one in known)
    assert "8444" in texts and "8443" not in texts and "8443" in str([one["instead"] for one in known])


def test_a_finished_run_asks_nothing_again_and_a_stopped_one_goes_on(finished, model, data, monkeypatch):
    out, result = finished
    lines = (out / "answers.jsonl").read_text()
    (out / "answers.jsonl").write_text(
        "".join(line + "\n" for line in lines.splitlines() if '"remembered"' not in line)
    )
    again = sessions.run(model, load_users(data), out, conditions=("base", "history", "retrieval", "remembered"))
    assert [row["by_kind"] for row in again["rows"]] == [row["by_kind"] for row in result["rows"]]
    monkeypatch.setattr(
        "selfedit.model.packed.backend.PackedBackend.generate", lambda *a, **k: pytest.fail("asked again")
    )
    sessions.run(model, load_users(data), out, conditions=("base", "remembered"))


def test_what_was_learned_is_asked_from_the_weights(model, data, tmp_path):
    conditions = ("memory", "memory-weights")
    result = sessions.run(model, load_users(data)[:1], tmp_path, conditions=conditions)
    costs = result["sessions_learned"]
    assert [cost["session"] for cost in costs] == [0, 1] and costs[0]["words"] > 5
    # A session that is learned a second time, as after a kill, reports the seconds of the first time.
    for file in home(tmp_path, "u1").glob("learned-01-*.json"):
        file.unlink()
    again = sessions.run(model, load_users(data)[:1], tmp_path, conditions=conditions)["sessions_learned"]
    assert again[1]["seconds"] == costs[1]["seconds"] > 0 and again[1]["peak_gb"] > 0


def test_an_id_that_is_a_path_leads_nowhere(model, data, tmp_path):
    outside = tmp_path / "texts" / "conversations"
    outside.mkdir(parents=True)
    (outside / "00.json").write_text("{}")
    user = replace(load_users(data)[0], id="../../..")
    sessions.run(model, [user], tmp_path / "a" / "run", conditions=("remembered",))
    assert [path.name for path in outside.iterdir()] == ["00.json"]
    assert {path.name for path in (tmp_path / "a" / "run" / "homes").iterdir()} == {text_hash("../../..")[:16]}


def test_a_question_is_asked_again_after_another_session_and_after_other_words(model, data, tmp_path):
    (user, _), asked = load_users(data), USER["questions"][1]["question"]
    early, late = (replace(user.questions[1], after_session=i) for i in (0, 1))
    user = replace(user, questions=(early, late))

    def answers(user) -> list[dict]:
        sessions.run(model, [user], tmp_path, conditions=("remembered",))
        lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["question"] == asked]

    assert len(answers(user)) == 2 == len(answers(user))
    first, last = user.sessions
    changed = replace(last, turns=(last.turns[0]._replace(content="Our gateway listens on port 9000 now."),))
    records = answers(replace(user, sessions=(first, changed)))
    assert len(records) == 3 and records[0]["depends"] != records[1]["depends"] != records[2]["depends"]
    known = (home(tmp_path, "u1") / "texts" / "conversations" / ".statements").read_text()
    assert "9000" in known and "8444" not in known


def test_an_unknown_condition_is_named(model, data, tmp_path):
    for wrong, message in ((("dreams",), "unknown condition 'dreams'"), ((), "give at least one condition of base,")):
        with pytest.raises(SelfeditError, match=message):
            sessions.run(model, load_users(data), tmp_path, conditions=wrong)
    assert main(["bench", "sessions", "--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2


def test_many_clients_get_answers_while_the_server_learns(model, tmp_path, monkeypatch):
    job = tmp_path / "load-home" / "jobs" / "left"  # by a run that was killed
    job.mkdir(parents=True)
    results, before, start = tmp_path / "results.json", [], load.Server.__enter__

    def watched(server):
        rows = json.loads(results.read_text())["rows"] if results.exists() else []
        before.append((job.exists(), len(rows)))
        return start(server)

    monkeypatch.setattr(load.Server, "__enter__", watched)
    result = load.run(model, (1, 3), 1, tmp_path)
    assert [(row["clients"], row["learns"]) for row in result["rows"]] == [(1, False), (3, False), (3, True)]
    assert all(row["errors"] == 0 and row["tokens"] > 0 and row["first_token_s"] > 0 for row in result["rows"])
    assert before == [(False, 0), (False, 1), (False, 2)]  # every row is written when it is done
    assert "jobs done" in (tmp_path / "results.md").read_text()
    (tmp_path / "settings.json").write_text(json.dumps({"model_hash": "another"}))
    with pytest.raises(RunError, match="holds a run with another"):
        load.run(model, (1,), 1, tmp_path)


def test_one_text_after_another_is_learned_until_the_row_ends(monkeypatch):
    texts, polls = [], []

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            texts.append(json.loads(request.content))
            return httpx.Response(202, json={"job": str(len(texts))})
        polls.append(len(texts))
        statuses = {str(i + 1): ("done", "failed")[i % 2] for i in range(len(texts))}
        statuses[str(len(texts))] = "running" if polls.count(len(texts)) == 1 else statuses[str(len(texts))]
        return httpx.Response(200, json={"jobs": [{"id": id, "status": status} for id, status in statuses.items()]})

    async def learn() -> dict:
        counts = {"errors": 0, "jobs_done": 0}
        async with httpx.AsyncClient(transport=httpx.MockTransport(reply), base_url="http://x") as client:
            await load._learn(client, time.monotonic() + 0.5, counts)
        return counts

    monkeypatch.setattr(load, "POLL_S", 0.01)
    counts = asyncio.run(learn())
    assert len(texts) > 3 and len({text["text"] for text in texts}) == len({text["title"] for text in texts}) == len(
        texts
    )
    assert abs(counts["jobs_done"] - len(texts) / 2) <= 1 and abs(counts["errors"] - len(texts) / 2) <= 1
