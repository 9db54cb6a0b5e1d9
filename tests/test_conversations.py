"""Conversations: what a user states becomes memory, and is corrected and forgotten; the chat command."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import wait_until
from test_serve import serving, tiny_model  # noqa: F401  (a fixture)

from selfedit.answers.notes import checked, in_view, is_personal, with_notes
from selfedit.cli import main
from selfedit.config import LearnConfig
from selfedit.conversations import SOURCE, Conversations
from selfedit.errors import MemoryStoreError
from selfedit.learn import learn
from selfedit.memory.store import MemoryStore
from selfedit.serve.learner import add_job, unfinished
from selfedit.sessions import Statement
from selfedit.types import Message

PORT = [
    Message(
        "user", "Our gateway is called Kestrel, and it listens on port 8443. Which path is usual for health checks?"
    ),
    Message("assistant", "Many teams use healthz. Your gateway is written in Java."),
]
MOVED = [Message("user", "Small correction: Kestrel listens on port 8444 now."), Message("assistant", "Noted.")]
SECRET = [Message("user", "The pager PIN is 55194730, by the way."), Message("assistant", "I will keep 55194730.")]
FORGET = [Message("user", "Please forget the pager PIN that I told you."), Message("assistant", "Done.")]


@pytest.fixture
def talk(tiny_model, tmp_path):  # noqa: F811
    """Adds a session and accepts what it proposes."""
    conversations, store = Conversations(tmp_path), MemoryStore(tmp_path)

    def say(name, turns, day):
        conversations.add(name, turns, day)
        return conversations.accept(name, tiny_model, store)

    say.conversations, say.store = conversations, store
    return say


def texts(store) -> str:
    return "\n".join(entry.passage.text for entry in store.active())


def test_what_was_replaced_is_kept_on_disk_until_it_is_forgotten(talk):
    talk("a", PORT, "2026-01-13")
    talk("b", MOVED, "2026-02-02")
    (new,) = (statement for statement in talk.conversations.statements if "8444" in statement.text)
    assert any("8443" in text for text in new.instead)
    file = talk.conversations.folder / ".statements"
    fields = json.loads(file.read_text())
    talk("c", [Message("user", "Please forget the port of Kestrel."), Message("assistant", "Done.")], "2026-03-01")
    kept = "".join(path.read_text() for path in talk.conversations.folder.iterdir() if path.is_file())
    stored = "".join(entry.passage.text for entry in talk.store.all())
    assert "8443" not in kept + stored and "8444" not in kept + stored
    file.write_text(json.dumps([{name: one[name] for name in one if name != "instead"} for one in fields]))
    assert all(statement.instead == () for statement in talk.conversations.statements), "a file of an older version"


def test_what_the_user_states_is_in_force_at_once_and_only_that(talk):
    changes = talk("a", PORT, "2026-01-13")
    assert any("Kestrel" in statement.text for statement in changes.added)
    assert "8443" in texts(talk.store) and "Java" not in texts(talk.store) and "health checks" not in texts(talk.store)
    (entry,) = talk.store.active()
    assert entry.passage.source == SOURCE and not entry.has_adapter and "13 January 2026" in entry.passage.text
    assert not talk.conversations.proposed("a").added, "it is not proposed again"


def test_a_correction_supersedes_and_can_be_rolled_back(talk):
    talk("a", PORT, "2026-01-13")
    changes = talk("b", MOVED, "2026-01-27")
    assert changes.replaced and "8444" in texts(talk.store) and "8443" not in texts(talk.store)
    assert "8443" in "\n".join(entry.passage.text for entry in talk.store.all())


def test_what_is_forgotten_is_nowhere_on_the_disk(talk, tmp_path):
    talk("a", SECRET, "2026-03-03")
    assert "55194730" in texts(talk.store)
    changes = talk("b", FORGET, "2026-03-24")
    assert changes.forgotten and "55194730" not in texts(talk.store)
    talk.store.close()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"55194730" not in file.read_bytes(), file
    assert talk.conversations.turns("b")[0].content == FORGET[0].content


def test_forgetting_that_was_cut_short_is_finished_by_the_next_change(talk, tiny_model, tmp_path, monkeypatch):  # noqa: F811
    talk("a", SECRET, "2026-03-03")
    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "forget", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            talk("b", FORGET, "2026-03-24")
    assert "55194730" in texts(talk.store)
    assert not talk.conversations.accept("b", tiny_model, talk.store).any
    talk.store.close()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"55194730" not in file.read_bytes(), file


def test_what_stands_only_in_a_trace_of_what_was_replaced_is_forgotten(talk, tmp_path):
    talk("a", PORT, "2026-01-13")
    talk("b", MOVED, "2026-02-02")
    changes = talk("c", [Message("user", "Please forget 8443."), Message("assistant", "Done.")], "2026-03-01")
    assert not changes.unknown and any("8443" in gone.text for gone in changes.forgotten)
    assert "8444" in texts(talk.store)
    talk.store.close()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"port 8443" not in file.read_bytes(), file


def test_a_declined_proposal_is_not_remembered(talk):
    talk.conversations.add("a", PORT, "2026-01-13")
    talk.conversations.decline("a")
    assert not talk.conversations.proposed("a").added and not talk.conversations.statements
    talk("a", MOVED, "2026-01-13")
    assert "8444" in texts(talk.store), "what is said later is proposed"


def test_a_session_that_goes_on_is_read_from_where_it_was(talk):
    talk("a", PORT, "2026-01-13")
    changes = talk("a", [Message("user", "My cat is called Mostarda."), Message("assistant", "Nice.")], "2026-01-14")
    assert [statement.text for statement in changes.added] == ["My cat is called Mostarda."]
    assert len(talk.conversations.turns("a")) == 4 and talk.conversations.names() == ["a"]


@pytest.mark.parametrize("name", ["Montag früh", "работа " * 10 + "1", "日本語", "v1.2_b", "x" * 80, "-"])
def test_a_session_may_have_any_letters(tmp_path, name):
    conversations = Conversations(tmp_path)
    conversations.add(name, PORT)
    assert conversations.names() == [name] and conversations.turns(name) == PORT


def test_a_letter_with_an_accent_is_one_letter_however_it_is_typed(tmp_path):
    conversations = Conversations(tmp_path)
    conversations.add("caf\u00e9", PORT)
    assert conversations.turns("cafe\u0301") == PORT


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 81, "語" * 70, "a\nb", "end.", "end ", "\ud800"])
def test_a_session_has_a_plain_name(tmp_path, name):
    with pytest.raises(MemoryStoreError, match="no name for a session"):
        Conversations(tmp_path).turns(name)


def test_a_damaged_file_is_named_and_not_overwritten(tmp_path):
    conversations = Conversations(tmp_path)
    conversations.add("a", PORT)
    file = next((tmp_path / "conversations").glob("*.json"))
    file.write_text("{")
    with pytest.raises(MemoryStoreError, match="cannot be read"):
        conversations.add("a", MOVED)
    assert file.read_text() == "{"


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "null",
        '{"turns": 5, "read": 0}',
        '{"turns": [{"role": "user"}], "read": 0}',
        '{"turns": [], "read": "x"}',
    ],
)
def test_a_session_of_another_form_is_named(tmp_path, content):
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / "a.json").write_text(content)
    with pytest.raises(MemoryStoreError, match="a.json: cannot be read"):
        Conversations(tmp_path).turns("a")


@pytest.mark.parametrize(
    "content", ["[5]", '[{"text": 1}]', "null", "{}", '[{"text": 1, "date": "x", "session": "a", "turn": 0}]']
)
def test_statements_of_another_form_are_named(tmp_path, content):
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / ".statements").write_text(content)
    with pytest.raises(MemoryStoreError, match="cannot be read"):
        _ = Conversations(tmp_path).statements


def test_the_last_change_can_be_taken_back_but_not_what_was_forgotten(talk, tiny_model):  # noqa: F811
    talk("a", [*PORT, *SECRET], "2026-01-13")
    talk("b", MOVED, "2026-01-27")
    assert talk.conversations.undo(tiny_model, talk.store) and "8443" in texts(talk.store)
    assert not talk.conversations.undo(tiny_model, talk.store)
    talk("c", FORGET, "2026-03-24")
    assert talk.conversations.undo(tiny_model, talk.store) and "55194730" not in texts(talk.store)


def test_what_is_forgotten_or_corrected_while_it_is_learned_does_not_come_back(talk, tiny_model, tmp_path):  # noqa: F811
    talk("a", [*PORT, *SECRET], "2026-01-13")
    stale = talk.conversations.passages()
    talk("b", FORGET, "2026-03-24")
    talk("c", [Message("user", "My cat is called Mostarda."), Message("assistant", "Nice.")], "2026-03-25")
    before = talk.store.active_ids()
    report = learn(tiny_model, stale, talk.store, LearnConfig(), current=Conversations(tmp_path).passages)
    assert all(one.failed for one in report.reports if "55194730" in {p.id: p.text for p in stale}[one.passage])
    assert "55194730" not in "\n".join(entry.passage.text for entry in talk.store.all())
    assert set(before) <= set(talk.store.active_ids()) and "Mostarda" in texts(talk.store)


# Questions about the user


def told(*said) -> list[Statement]:
    return [Statement(text, "2026-01-13", "a", i) for i, text in enumerate(said)]


KNOWN = told("Our data sits in Quillbase.", "My lead is Jorun.", "Staging is on port 8444.")


def test_a_question_about_the_user_is_answered_from_what_they_said(talk):
    talk("a", PORT, "2026-01-13")
    ask = talk.conversations.ask("Which port does my gateway use?")
    assert ask.arm == "text" and "8443" in ask.view(ask.passages, ask.question).question
    other = talk.conversations.ask("How many legs does a spider have?")
    assert other.arm == "auto" and not other.passages and other.check is None
    assert is_personal("What's OUR plan?") and not is_personal("Is it Friday in Rome?")


@pytest.mark.parametrize(
    "question, answer, shown",
    [
        ("Who is my lead?", "Your lead is Jorun.", "Your lead is Jorun."),
        ("Is our data in Postgres or elsewhere?", "Your data is in Postgres.", "You said: Our data sits in Quillbase."),
        ("Which port is staging on?", "It is on 9000.", "You said: Staging is on port 8444."),
        ("Who is in charge?", "You can ask a colleague.", "I don't know."),
        ("Where is our data?", "Our data is in a warehouse or a lake.", "You said: Our data sits in Quillbase."),
        ("What is my shoe size?", "Your shoe size is 43.", "I don't know."),
        ("Who is my lead?", "Your lead is Jorun.\nHer deputy is Ada.", "Your lead is Jorun."),
        ("Which port is staging on?", "It is on 9000, not on 8444.", "You said: Staging is on port 8444."),
        ("Do I know Ada?", "No, you never mentioned Ada.", "No, you never mentioned Ada."),
    ],
)
def test_an_answer_that_goes_beyond_what_was_said_is_replaced(question, answer, shown):
    assert checked(KNOWN, question, answer) == shown


def test_the_statement_that_probably_answers_is_told_in_place_of_an_answer():
    assert checked(KNOWN, "Who is in charge?", "You can ask a colleague.", KNOWN[1]) == "You said: My lead is Jorun."


def test_of_many_statements_those_that_fit_and_the_latest_are_in_view():
    many = told(
        "My first cat was called Mostarda.", *(f"Note {i}: the weather was fine again today." for i in range(300))
    )
    chosen = in_view(many, "What was my first cat called?")
    assert chosen[0] == many[0] and chosen[-1] == many[-1] and len(chosen) < 100
    assert with_notes(chosen, "Who?").endswith("Who?") and in_view(KNOWN, "Who?") == KNOWN


def test_preferences_stand_before_the_conversation(talk):
    talk(
        "a",
        [Message("user", "Remember that I want type hints in all Python code."), Message("assistant", "Yes.")],
        "2026-01-13",
    )
    history = talk.conversations.ask("Write a function.", [Message("system", "Be kind.")]).history
    assert history[0].role == "system" and "Be kind." in history[0].content and "type hints" in history[0].content


def test_a_question_and_a_proposal_read_each_file_once(talk, monkeypatch):
    talk("a", PORT, "2026-01-13")
    read, files = Path.read_text, []
    monkeypatch.setattr(Path, "read_text", lambda path, *options: files.append(path.name) or read(path, *options))
    talk.conversations.ask("Which port does my gateway use?")
    assert files == [".statements"]
    talk.conversations.proposed("a")
    assert sorted(files[1:]) == [".statements", "a.json"]


# The command


def arguments(home, model) -> list[str]:
    return ["chat", "--home", str(home), "--model", model.name, "--tokens", "8"]


def learning_chat(home, model, text, *options):
    """A chat in a process of its own, which leaves one that learns in the background."""
    command = [sys.executable, "-m", "selfedit.cli", *arguments(home, model), *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)


@pytest.fixture
def chat(tiny_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Runs a chat in this process."""

    def run(text, *options):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code = main([*arguments(tmp_path, tiny_model), *options])
        shown = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=shown.out, stderr=shown.err)

    return run


def test_a_second_session_knows_what_the_first_one_said(chat):
    first = chat("My cat is called Mostarda.\nHello?\n/learn\n/nothing\n/help\n", "--no-learn")
    assert first.returncode == 0 and "I would remember: My cat is called Mostarda." in first.stderr, first.stderr
    assert "no command /nothing" in first.stderr and "Traceback" not in first.stderr
    second = chat("What is my cat called?\n/why\n/memories\n", "--json")
    record = json.loads(second.stdout.splitlines()[0])
    assert record["from"] == "text" and record["source"] == SOURCE
    assert "Mostarda" in second.stderr


def test_the_source_of_an_answer_stands_in_a_line_below_it(chat, tiny_model, tmp_path):  # noqa: F811
    chat("My cat is called Mostarda.\n", "--no-learn")
    command = [sys.executable, "-m", "selfedit.cli", "chat", "--home", str(tmp_path), "--model", tiny_model.name]
    said = "What is my cat called?\n"
    shown = subprocess.run(
        [*command, "--no-learn"], input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    lines = shown.stdout.splitlines()
    assert f"  (text: {SOURCE}; /why)" in lines and "" not in lines, shown.stdout


@pytest.mark.parametrize("request_", ["Please forget the pager PIN.", "/forget how I am paged, the PIN"])
def test_a_request_to_forget_counts_at_once(request_, chat, tmp_path):
    said = f"The pager PIN is 55194730.\n/learn\n{request_}\nWhat is my pager PIN?\n/why\n/undo\n/memories\n"
    shown = chat(said, "--no-learn")
    after = shown.stderr.partition("forgets:")[2].partition("\n")[2]
    assert "forgets: The pager PIN is 55194730." in shown.stderr, shown.stderr
    assert "55194730" not in after + shown.stdout, shown.stderr
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"55194730" not in file.read_bytes(), file


def test_the_command_to_forget_says_what_it_could_not_find(chat):
    shown = chat("My cat is called Mostarda.\n/forget\n/forget my bank\n", "--no-learn")
    assert "say what: /forget my door code" in shown.stderr
    assert "nothing is known of what you want forgotten: this: my bank" in shown.stderr, shown.stderr
    assert "I would remember: My cat is called Mostarda." in shown.stderr


def test_a_closed_input_ends_the_chat(tiny_model, tmp_path):  # noqa: F811
    command = f"'{sys.executable}' -m selfedit.cli chat --home '{tmp_path}' --model '{tiny_model.name}' <&-"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0 and "Traceback" not in shown.stderr, shown.stderr


def test_what_was_said_is_learned_in_the_background(chat, tiny_model, tmp_path):  # noqa: F811
    said = "Our gateway is called Kestrel and listens on port 8443.\n/quit\n"
    shown = learning_chat(tmp_path, tiny_model, said, "--session", "work")
    assert "learning goes on in the background" in shown.stderr, shown.stderr
    wait_until(lambda: not list((tmp_path / "jobs").glob("*/")))
    assert "2 turns are in it" in chat("/quit\n", "--session", "work", "--no-learn").stderr


def test_the_next_chat_goes_on_with_what_was_killed_while_it_learned(chat, tiny_model, tmp_path):  # noqa: F811
    first = learning_chat(tmp_path, tiny_model, "Our gateway is called Kestrel and listens on port 8443.\n")
    os.kill(int(first.stderr.partition("(process ")[2].partition(")")[0]), signal.SIGKILL)
    (folder,) = (tmp_path / "jobs").glob("*/")
    assert (folder / "job.json").exists()
    shown = learning_chat(tmp_path, tiny_model, "/quit\n")
    assert "1 job of before goes on in the background" in shown.stderr, shown.stderr
    wait_until(lambda: not folder.exists())
    assert "goes on" not in chat("/quit\n").stderr


def test_a_job_of_another_model_is_left_for_it(tmp_path):
    job = add_job(tmp_path, "one", {"kind": "conversation"}, "what the user said")
    assert unfinished(tmp_path, "other") == [] and unfinished(tmp_path, "one") == [job]


def test_wrong_names_end_with_one_line(chat):
    shown = chat("", "--session", "../x")
    assert shown.returncode == 2 and "no name for a session" in shown.stderr and shown.stderr.count("\n") == 1


# Over the API


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_names_a_session_is_remembered(tiny_model, tmp_path, stream):  # noqa: F811
    with serving(tiny_model, tmp_path) as client:
        body = {"model": tiny_model.name, "max_tokens": 4, "stream": stream, "metadata": {"session": "work"}}
        for text in ("My cat is called Mostarda.", "Hello?"):
            told = client.post("/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": text}]})
            assert told.status_code == 200 and told.text
        question = [{"role": "user", "content": "What is my cat called?"}]
        other = client.post("/v1/chat/completions", json=body | {"messages": question, "metadata": {}, "stream": False})
        assert other.json()["selfedit"]["source"] == SOURCE
        jobs = client.get("/v1/jobs").json()["jobs"]
        assert [job["title"] for job in jobs] == ["what the user said"]
        wrong = client.post("/v1/chat/completions", json=body | {"messages": question, "metadata": {"session": "../x"}})
        assert 400 <= wrong.status_code < 500 and "no name for a session" in wrong.json()["error"]["message"]
    assert len(Conversations(tmp_path).turns("work")) == 4
