"""Sessions and load: what counts as right, the report, and what a stopped run repeats."""

import json
from pathlib import Path

import pytest
from conftest import write_tiny_model

from selfedit.bench import load, sessions
from selfedit.cli import main
from selfedit.errors import DocumentError, SelfeditError
from selfedit.tasks.sessions import SessionQuestion, load_users, refuses

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
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, reason):
    file = tmp_path / "users.jsonl"
    file.write_text(json.dumps(USER | change))
    with pytest.raises(DocumentError, match=reason):
        load_users(file)


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, sessions.run(model, load_users(data), out, conditions=("base", "history", "retrieval", "remembered"))


def test_a_run_reports_each_condition_and_kind(finished):
    out, result = finished
    assert [row["condition"] for row in result["rows"]] == ["base", "history", "retrieval", "remembered"]
    assert all(row["by_kind"]["updated"]["questions"] == 2 and row["questions"] == 4 for row in result["rows"])
    assert "Sessions" in (out / "results.md").read_text() and (out / "accuracy.png").stat().st_size > 1000
    known = json.loads((out / "homes" / "u1" / "texts" / "conversations" / ".statements").read_text())
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
    result = sessions.run(model, load_users(data)[:1], tmp_path, conditions=("memory", "memory-weights"))
    assert [cost["session"] for cost in result["sessions_learned"]] == [0, 1]
    assert result["sessions_learned"][0]["words"] > 5


def test_an_unknown_condition_is_named(model, data, tmp_path):
    with pytest.raises(SelfeditError, match="unknown condition 'dreams'"):
        sessions.run(model, load_users(data), tmp_path, conditions=("dreams",))
    assert main(["bench", "sessions", "--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2


def test_many_clients_get_answers_while_the_server_learns(model, tmp_path):
    result = load.run(model, (1, 3), 1, tmp_path)
    assert [(row["clients"], row["learns"]) for row in result["rows"]] == [(1, False), (3, False), (3, True)]
    assert all(row["errors"] == 0 and row["tokens"] > 0 and row["first_token_s"] > 0 for row in result["rows"])
