"""Memories of several versions of a library side by side: two versions never answer for each other."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import torch
from mcp import Client
from test_serve import chat, serving

from selfedit.answers.answerer import BASE, TEXT, WEIGHTS, Answerer, Ask
from selfedit.cli import main
from selfedit.config import ConsolidateConfig, LearnConfig
from selfedit.documents.package import library_of
from selfedit.errors import MemoryStoreError
from selfedit.learn import _disagreements, learn
from selfedit.libraries import Scope, Wanted
from selfedit.memory import database
from selfedit.memory.consolidate import consolidate
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import LoraConfig
from selfedit.model.packed.lora import LoraBatch
from selfedit.serve.learner import _passages
from selfedit.serve.mcp import mcp_server
from selfedit.serve.service import Service
from selfedit.text import count_words
from selfedit.types import Passage, Question, text_hash

OLD = Passage(
    "Polars › Grouping", "Rows are grouped by the method groupby of a frame.", "/up.md", "a" * 64, library="polars@1.0"
)
NEW = Passage(
    "Polars › Grouping", "Rows are grouped by the method group_by of a frame.", "/up.md", "b" * 64, library="polars@2.0"
)
PLAIN = Passage("Team › Coffee", "The coffee machine of the team stands on the third floor.", "/team.md", "c" * 64)
ABOUT_ROWS, ABOUT_COFFEE = "By which method are the rows of a frame grouped?", "Where does the coffee machine stand?"
V1, V2 = Wanted("polars", "1"), Wanted("polars", "2")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def add(store, model, passage, seed=0):
    stack = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3)), 1)
    stack.flat.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    fields = {"model": "tiny", "model_hash": model.fingerprint, "edits": [], "scores": {"questions": []}}
    return store.add(lambda folder: stack.save(0, folder, "tiny", small=True), passage=passage, **fields)


@pytest.fixture
def store(home, tiny_model) -> MemoryStore:
    """Old and new have adapters, and so has a text without a tag."""
    store = MemoryStore(home)
    for seed, passage in enumerate((OLD, NEW, PLAIN)):
        add(store, tiny_model, passage, seed)
    return store


def answered(model, store, question=ABOUT_ROWS, **options):
    (answer,) = Answerer(model, store).answer([Ask(Question(question, ()), max_new_tokens=4, **options)])
    return answer


# The store


def test_the_id_of_a_passage_without_a_tag_is_as_it_was():
    assert PLAIN.id == text_hash(PLAIN.title, PLAIN.text)[:16]
    assert len({replace(PLAIN, library=tag).id for tag in ("", "polars@1.0", "polars@2.0")}) == 3


def test_a_tag_is_stored_listed_and_exported(store, tmp_path):
    old, new, plain = store.active()
    assert [entry.passage.library for entry in (old, new, plain)] == ["polars@1.0", "polars@2.0", ""]
    assert [entry.record()["library"] for entry in (old, plain)] == ["polars@1.0", None]
    assert store.about(Wanted("polars")) == [old, new] and store.about(V2) == [new] and store.about(V1) == [old]
    assert store.about(Wanted("pandas")) == [] and store.verify()["faults"] == []
    store.export(new.id, tmp_path / "out")
    assert json.loads((tmp_path / "out/source.json").read_text())["library"] == "polars@2.0"


def test_a_store_of_the_version_before_is_read_and_its_memories_have_no_tag(home, tiny_model):
    store = MemoryStore(home)
    entry = add(store, tiny_model, PLAIN)
    connection = store._database.connection()
    connection.execute("DROP INDEX memories_by_library")
    connection.execute("ALTER TABLE memories DROP COLUMN library")
    connection.execute("PRAGMA user_version = 1")
    store.close()
    assert len(database.MIGRATIONS) == 2
    store = MemoryStore(home)
    assert store.active() == [entry] and store.libraries(tiny_model.fingerprint) == []
    assert store.router(tiny_model.fingerprint, Scope(V1)).route(ABOUT_COFFEE)[0] == entry.id
    add(store, tiny_model, NEW)
    assert [str(tag) for tag in store.libraries(tiny_model.fingerprint)] == ["polars@2.0"]
    assert store.verify()["faults"] == []


def test_the_router_never_returns_another_version_and_returns_what_it_returns_without_it(store, tiny_model, tmp_path):
    old, new, plain = store.active()
    for scope, hidden in ((Scope(V1), new), (Scope(V2), old), (Scope(), old), (Scope(Wanted("polars", "3")), new)):
        router = store.router(tiny_model.fingerprint, scope)
        assert hidden.id not in router.ids and plain.id in router.ids
        for question in (ABOUT_ROWS, ABOUT_COFFEE, "Polars grouping", "groupby", "group_by frame rows"):
            ranked = [id for id, _ in router.ranked(question)]
            assert hidden.id not in ranked and hidden.id not in [id for id, _ in router.best(question, 5)]
    assert store.router(tiny_model.fingerprint, Scope(V1)).route(ABOUT_ROWS)[0] == old.id
    assert store.router(tiny_model.fingerprint, Scope(V2)).route(ABOUT_ROWS)[0] == new.id
    assert {id for id, _ in store.router(tiny_model.fingerprint).ranked(ABOUT_ROWS)} == {old.id, new.id}


def test_a_newer_version_of_a_source_leaves_the_memories_of_the_other_version(home, tiny_model):
    store = MemoryStore(home)
    untagged = add(store, tiny_model, replace(OLD, library=""))
    old = add(store, tiny_model, OLD, 1)
    assert store.supersede([OLD], tiny_model.fingerprint) == [untagged.id]  # it is the same document, now with a tag
    new = add(store, tiny_model, NEW, 2)
    assert store.supersede([NEW], tiny_model.fingerprint) == [] and store.active() == [old, new]
    newer = add(store, tiny_model, replace(NEW, text="Rows are grouped by group."), 3)
    assert store.supersede([newer.passage], tiny_model.fingerprint) == [new.id]
    plain = add(store, tiny_model, replace(NEW, text="Rows.", library=""), 4)
    assert store.supersede([plain.passage], tiny_model.fingerprint) == [] and store.active() == [old, newer, plain]


def test_what_was_learned_without_a_tag_gets_one_without_being_learned_again(home, tiny_model):
    store = MemoryStore(home)
    before = add(store, tiny_model, replace(NEW, library=""))
    reports = []
    report = learn(tiny_model, [NEW], store, LearnConfig(), on_report=reports.append)
    (entry,) = store.active()
    assert report.superseded == [before.id] and report.summary()["memories"] == [entry.id]
    assert reports[0].reason == "learned before; now tagged polars@2.0" and reports[0].seconds == 0
    assert (entry.adapter_hash, entry.passage) == (before.adapter_hash, NEW) and entry.id != before.id
    assert learn(tiny_model, [NEW], store, LearnConfig()).summary()["memories"] == [entry.id]
    store.rollback("v1")
    assert store.active() == [before] and store.verify()["faults"] == []


def test_texts_of_several_versions_do_not_contradict_each_other(store, tiny_model):
    fact = "The default size of a chunk of Polars is {} rows."
    for size, tag in ((512, "polars@1.0"), (1024, "polars@2.0")):
        passage = Passage("Chunks", fact.format(size), f"/{tag}.md", tag, library=tag)
        add(store, tiny_model, passage, size)
    for tag, count in (("polars@3.0", 0), ("polars@2.1", 1), ("polars@1.5", 1), ("", 1)):
        passage = Passage("Chunks", fact.format(2048), "/new.md", "d" * 64, library=tag)
        assert len(_disagreements(tiny_model, passage, store)) == count


@pytest.mark.parametrize(
    ("source", "tag"),
    [
        ("package:polars@2.1.0/CHANGELOG.md", "polars@2.1"),
        ("package:polars@2.1.3/docs/a@b.md", "polars@2.1.3"),
        ("package:npm/react@19.0.0/README.md", "npm/react@19.0"),
        ("package:npm/@types/node@20.1.0/README.md", "npm/@types/node@20.1"),
        ("package:x@0.4.2rc1/README.md", "x@0.4.2"),
        ("/home/package:x@1/README.md", ""),
        ("https://example.org/x@2/README.md", ""),
    ],
)
def test_what_a_package_ships_is_tagged_with_its_version(source, tag):
    assert library_of(source) == tag


def test_memories_of_a_version_are_put_out_of_force_and_forgotten_by_their_tag(store):
    old, new, plain = store.active()
    assert store.find("Polars@1") == [old.id]
    store.disable("polars@1.0")
    assert store.active() == [new, plain]
    store.approve("polars@1.0")
    assert store.forget("polars@2.0") and store.all() == [old, plain]
    with pytest.raises(MemoryStoreError, match="a day or a tag 'polars@2.0'"):
        store.find("polars@2.0")


def test_one_adapter_never_answers_for_two_versions(store, tiny_model):
    old, new, _ = store.active()
    with pytest.raises(MemoryStoreError, match="at least two memories"):
        consolidate(tiny_model, store, [old, new], ConsolidateConfig())


# Answers


def test_each_version_answers_for_itself(store, tiny_model):
    old, new, plain = store.active()
    for options, expected in (
        ({"library": V1}, old),
        ({"library": V2}, new),
        ({"library": Wanted("polars")}, new),
        ({}, new),
        ({"project": {"polars": "1.30.0"}}, old),
        ({"project": {"polars": "1.30.0"}, "library": V2}, new),
        ({"question": f"In Polars 1.30: {ABOUT_ROWS}"}, old),
        ({"question": f"In Polars 1.30: {ABOUT_ROWS}", "library": V2}, new),
    ):
        answer = answered(tiny_model, store, arm=WEIGHTS, **options)
        assert (answer.memory.id, answer.note) == (expected.id, ""), options
        assert answer.record()["library"] == expected.passage.library
        assert answered(tiny_model, store, arm=TEXT, **options).memory.id == expected.id
    for library in (V1, V2, Wanted("polars", "7")):
        assert answered(tiny_model, store, ABOUT_COFFEE, arm=WEIGHTS, library=library).memory.id == plain.id


def test_no_passage_of_another_version_is_ever_in_view(store, tiny_model):
    answerer = Answerer(tiny_model, store)
    for library, other in ((V1, NEW), (V2, OLD)):
        plan, _ = answerer.plan(Ask(Question(ABOUT_ROWS, ()), library=library))
        assert plan.passages and other not in plan.passages and other not in plan.known(WEIGHTS)
        plan, _ = answerer.plan(Ask(Question(ABOUT_ROWS, ()), library=library, passages=(OLD, NEW)))
        assert other not in plan.passages and other not in plan.known(TEXT)


def test_passages_and_memories_that_are_named_are_of_any_version_unless_one_is_wanted(store, tiny_model):
    old, _, _ = store.active()
    assert answered(tiny_model, store, arm=WEIGHTS, memory=old.id).memory.id == old.id
    assert answered(tiny_model, store, arm=TEXT, passages=(OLD,)).memory.id == old.id
    with pytest.raises(MemoryStoreError, match="is about polars@1.0, not about polars@2"):
        answered(tiny_model, store, memory=old.id, library=V2)


def test_where_only_another_version_is_known_the_untouched_model_answers_and_the_answer_says_so(store, tiny_model):
    store.disable(store.active()[0].id)
    told = "only polars 2.0 is known; nothing is known of polars 1"
    for options in ({"library": V1}, {"question": f"With polars v1, {ABOUT_ROWS}"}):
        answer = answered(tiny_model, store, **options)
        assert (answer.arm, answer.memory) == (BASE, None) and answer.note.startswith(told)
        assert answer.record()["note"].startswith(told) and "library" not in answer.record()
    answer = answered(tiny_model, store, project={"polars": "1.30.0"})
    assert answer.arm == BASE and "about polars 2.0, the question about polars 1.30.0; --for polars@2.0" in answer.note
    assert answered(tiny_model, store, ABOUT_COFFEE, project={"polars": "1.30.0"}).note == ""
    assert answered(tiny_model, store, library=V1, arm=BASE).note == ""
    assert "nothing known is about pandas@2" in answered(tiny_model, store, library=Wanted("pandas", "2")).note


def test_another_version_never_disagrees_with_an_answer(store, tiny_model):
    fact = "The default size of a chunk of Polars is {} rows."
    for size, tag in ((512, "polars@1.0"), (1024, "polars@2.0"), (99, "")):
        add(store, tiny_model, Passage("Chunks", fact.format(size), f"/{tag}.md", tag or "x", library=tag), size)
    question = "What is the default size of a chunk of Polars?"
    for library, size, other in ((V1, "512", "1024"), (V2, "1024", "512")):
        answer = answered(tiny_model, store, question, arm=TEXT, library=library)
        told = {number for one in answer.disagrees for number in re.findall(r"\d+", one["here"] + one["there"])}
        assert told == {"99", size} and other not in told


# The command line


def shown(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_memories_are_listed_by_library_and_version(store, capsys):
    out, _ = shown(capsys, "memory", "list", "--for", "polars")
    assert "polars@1.0  /up.md" in out and "polars@2.0  /up.md" in out and "/team.md" not in out
    listed = json.loads(shown(capsys, "memory", "list", "--for", "polars@2", "--json").out)
    assert [memory["library"] for memory in listed] == ["polars@2.0"]
    assert "no memory is about polars@3" in shown(capsys, "memory", "list", "--for", "polars@3").out
    assert "about    polars@2.0" in shown(capsys, "memory", "show", store.active()[1].id).out
    assert shown(capsys, "memory", "list", "--for", "polars@2", "--page", "2", "--json").out


@pytest.mark.parametrize("command", [["ask", "x"], ["memory", "list"], ["learn", "x.md"]])
def test_a_version_that_is_none_is_one_line(command, capsys):
    err = shown(capsys, *command, "--for", "polars 2", code=2).err
    assert err.count("\n") == 1 and "--for: 'polars 2' is no library with a version; write polars, polars@2.0" in err


def test_a_dry_run_shows_the_tag(tmp_path, capsys):
    (tmp_path / "up.md").write_text("Rows are grouped by the method group_by of a frame.")
    arguments = ["learn", tmp_path / "up.md", "--for", "polars>=2,<3", "--dry-run"]
    assert "about polars@2.0" in shown(capsys, *arguments).out
    assert json.loads(shown(capsys, *arguments, "--json").out)["passages"][0]["library"] == "polars@2.0"


def test_ask_takes_the_version_from_the_option_else_from_a_lock_file(store, tiny_folder, tmp_path, capsys, monkeypatch):
    def library(*arguments, folder="empty"):
        monkeypatch.chdir(tmp_path / folder)
        out, err = shown(
            capsys, "ask", ABOUT_ROWS, "--model", tiny_folder, "--from", "weights", "--tokens", 2, *arguments, "--json"
        )
        notes.append(err)
        return json.loads(out)["library"]

    notes: list[str] = []
    (tmp_path / "project").mkdir()
    (tmp_path / "project/requirements.txt").write_text("polars==1.30.0\nnumpy==2.0\n")
    assert library() == "polars@2.0" and library("--for", "polars@1") == "polars@1.0"
    assert library("--project", tmp_path / "project") == "polars@1.0"
    assert library("--project", tmp_path / "project/requirements.txt", "--for", "polars@2") == "polars@2.0"
    assert library(folder="project") == "polars@1.0"
    assert library("--for", "polars@2", folder="project") == "polars@2.0"
    assert notes == [""] * 6
    assert "requirements.txt pins polars 1.30.0" in shown(capsys, "ask", ABOUT_ROWS, "--model", tiny_folder).err
    (tmp_path / "project/requirements.txt").write_text("polars==")
    assert library(folder="project") == "polars@2.0"  # nobody named the file
    err = shown(capsys, "ask", "x", "--model", tiny_folder, "--project", tmp_path / "project", code=2).err
    assert "requirements.txt, line 1: 'polars==' is no requirement" in err
    err = shown(capsys, "ask", "x", "--model", tiny_folder, "--project", tmp_path / "empty", code=2).err
    assert "has no lock file" in err


# Chat, server, MCP


def test_a_chat_asks_about_the_version_that_is_chosen(store, tiny_folder, capsys, monkeypatch):
    lines = ["/for polars@1", ABOUT_ROWS, "/for polars 2", "/for polars@2", ABOUT_ROWS, "/for", "/quit"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    arguments = ["chat", "--model", tiny_folder, "--tokens", 4, "--no-learn", "--json"]
    out, err = shown(capsys, *arguments)
    assert [json.loads(line)["library"] for line in out.splitlines()] == ["polars@1.0", "polars@2.0"]
    assert "you ask about polars@1\n" in err and "'polars 2' is no library with a version" in err
    assert "no certain version; known: polars@1.0, polars@2.0" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ABOUT_ROWS}\n"))
    assert json.loads(shown(capsys, *arguments, "--for", "polars@1").out)["library"] == "polars@1.0"


@pytest.fixture
def client(store, tiny_model):
    with serving(tiny_model, store.home) as client:
        yield client


def test_the_name_of_the_model_chooses_a_version(client):
    model = client.service.model.name
    names = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert {f"{model}:polars@1.0", f"{model}:polars@2.0"} < {*names}
    for name, library in (("polars@1", "polars@1.0"), ("polars@2.0", "polars@2.0"), ("polars==2.3.0", "polars@2.0")):
        assert chat(client, ABOUT_ROWS, model=f"{model}:{name}").json()["selfedit"]["library"] == library
    for name in names:
        if "@" in name:
            assert chat(client, ABOUT_ROWS, model=name).json()["selfedit"]["library"] == name.partition(":")[2]
    assert chat(client, ABOUT_ROWS).json()["selfedit"]["library"] == "polars@2.0"
    told = chat(client, ABOUT_ROWS, model=f"{model}:polars@3").json()["selfedit"]
    assert told["from"] == "base" and "nothing is known of polars 3" in told["note"]
    error = chat(client, ABOUT_ROWS, model=f"{model}:polars@", status=400).json()["error"]
    assert "names no version" in error["message"]


def test_what_is_asked_and_learned_over_http_may_have_a_version(client):
    reply = client.post("/v1/ask", json={"question": ABOUT_ROWS, "library": "polars@1"})
    assert reply.json()["library"] == "polars@1.0"
    assert client.post("/v1/ask", json={"question": ABOUT_ROWS, "library": "polars 1"}).status_code == 400
    assert client.post("/v1/memories", json={"text": "Text.", "library": "polars 1"}).status_code == 400
    job = client.post("/v1/memories", json={"text": "Frames are read lazily.", "library": "polars@1"}).json()["job"]
    (spec,) = [json.loads(file.read_bytes()) for file in client.service.home.glob(f"jobs/{job}/job.json")]
    passages, _ = _passages(client.service.home, client.service.home / "jobs" / job, spec, 110, count_words)
    assert [passage.library for passage in passages] == ["polars@1.0"]
    client.delete(f"/v1/jobs/{job}")


def test_an_agent_recalls_of_a_version(store, tiny_model):
    async def recalled():
        service = Service(tiny_model, store.home)
        async with service.running(), Client(mcp_server(service)) as client:
            replies = [
                await client.call_tool("recall", {"question": ABOUT_ROWS, "strict": False, "library": library})
                for library in ("polars@1", "polars@2", "polars@3", "polars 3")
            ]
        return replies

    first, second, third, wrong = anyio.run(recalled)
    assert first.structured_content["library"] == "polars@1.0" and second.structured_content["library"] == "polars@2.0"
    assert not third.structured_content["known"] and "nothing is known of polars 3" in third.structured_content["note"]
    assert wrong.is_error and "no library with a version" in str(wrong.content)
