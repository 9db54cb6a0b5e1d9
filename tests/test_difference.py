"""What a conversation left, and what differs between versions and memories: `memory list --session`, `memory diff`."""

import json
import random

import pytest
from test_answers import COLOUR, GATE, INDEX, store  # noqa: F401  (a fixture)
from test_conversations import MOVED, PORT, SECRET, talk  # noqa: F401  (a fixture)
from test_serve import client, tiny_model  # noqa: F401  (fixtures)

from selfedit.cli import main
from selfedit.conversations import SOURCE
from selfedit.errors import MemoryStoreError
from selfedit.memory.difference import between_memories, between_versions, side_by_side


def run(capsys, *arguments: str, code: int = 0) -> str:
    assert main(["memory", *arguments]) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


def test_the_memories_and_statements_of_a_session_are_listed(talk, capsys):  # noqa: F811
    home = str(talk.store.home)
    talk("work", PORT, "2026-01-13")
    talk("home", [*SECRET], "2026-01-14")
    found = json.loads(run(capsys, "list", "--session", "work", "--json", "--home", home))
    assert [(s["text"], s["turn"]) for s in found["statements"]] == [
        ("Our gateway is called Kestrel, and it listens on port 8443.", 0)
    ]
    (entry,) = [e for e in talk.store.active() if "8443" in e.passage.text]
    assert [m["id"] for m in found["memories"]] == [entry.id] and found["session"] == "work"
    shown = run(capsys, "list", "--session", "work", "--home", home)
    assert "2026-01-13  Our gateway is called Kestrel" in shown and entry.id in shown and "5519" not in shown


def test_what_a_later_session_replaced_is_of_the_earlier_session_and_not_in_force(talk, capsys):  # noqa: F811
    talk("a", PORT, "2026-01-13")
    (old,) = talk.store.active()
    talk("b", MOVED, "2026-01-27")
    lists = {
        option: json.loads(run(capsys, "list", "--session", "a", *option, "--json", "--home", str(talk.store.home)))
        for option in ((), ("--all",))
    }
    assert old.id not in [m["id"] for m in lists[()]["memories"]]
    assert {m["id"]: m["active"] for m in lists[("--all",)]["memories"]}[old.id] is False


def test_a_learned_memory_keeps_the_session_of_its_text(talk, tiny_model):  # noqa: F811
    talk("a", PORT, "2026-01-13")
    (text,) = talk.store.active()
    from selfedit.model.backend import LoraConfig
    from selfedit.model.packed.lora import LoraBatch

    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (2, 3)), 1)
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [], "scores": {}}
    learned = talk.store.add(lambda folder: stack.save(0, folder, "tiny"), passage=text.passage, **fields)
    assert talk.store.sources()[learned.id] == {SOURCE, "session:a"}
    assert between_versions(talk.store)["replaced"][0]["after"]["sessions"] == ["a"]


def test_an_unknown_session_is_one_line_that_names_the_known_ones(talk, capsys):  # noqa: F811
    talk("work", PORT, "2026-01-13")
    shown = run(capsys, "list", "--session", "play", "--home", str(talk.store.home), code=2)
    assert "no session 'play'" in shown and "work" in shown and shown.count("\n") == 1


def test_the_last_change_is_shown_with_source_session_and_date(talk, capsys):  # noqa: F811
    talk("a", PORT, "2026-01-13")
    (old,) = talk.store.active()
    before = talk.store.version
    talk("b", MOVED, "2026-01-27")
    (new,) = talk.store.active()
    difference = between_versions(talk.store, before, talk.store.version)
    (pair,) = difference["replaced"]
    assert (pair["before"]["id"], pair["after"]["id"]) == (old.id, new.id) and not difference["added"]
    assert pair["after"]["sessions"] == ["a", "b"] and pair["after"]["source"] == SOURCE
    assert between_versions(talk.store)["replaced"] == [pair], "the keeping and the superseding are one change"
    shown = run(capsys, "diff", f"v{before}", "--home", str(talk.store.home))
    assert f"{old.id} is replaced by {new.id}" in shown and "session b" in shown and new.created[:10] in shown
    assert json.loads(run(capsys, "diff", f"v{before}", "--json", "--home", str(talk.store.home))) == difference
    assert "v0 → v1" in run(capsys, "diff", "v0", "v1", "--home", str(talk.store.home))


def test_versions_differ_by_what_was_added_removed_and_forgotten(store, capsys):  # noqa: F811
    gate, index = store.active_ids()
    kept = store.version
    store.disable(index)
    assert [record["id"] for record in between_versions(store)["removed"]] == [index]
    assert [record["id"] for record in between_versions(store, store.version, kept)["added"]] == [index]
    store.forget(gate)
    assert between_versions(store)["removed"] == [{"id": gate, "forgotten": True}]
    assert f"- {gate}  forgotten" in run(capsys, "diff", "--home", str(store.home))
    nothing = run(capsys, "diff", "v1", "v1", "--home", str(store.home))
    assert nothing == "v1 → v1\nthe same memories are in force\n"


def test_versions_are_known_by_their_numbers(store, monkeypatch):  # noqa: F811
    """An old ledger may lack some."""
    expected, lines = between_versions(store), store.history()
    monkeypatch.setattr(store, "history", lambda: [line | {"version": 10 * line["version"]} for line in lines])
    found = between_versions(store)
    assert found["added"] == expected["added"] and found["to"] == 10 * expected["to"]
    with pytest.raises(MemoryStoreError, match="no version 2;"):
        between_versions(store, 2)


def test_two_memories_are_shown_side_by_side_as_on_the_page(store, client, capsys):  # noqa: F811
    gate, index = store.active_ids()
    value = between_memories(store, gate, index)
    assert client.get(f"/v1/memories/{gate}/difference/{index}").json() == json.loads(json.dumps(value))
    assert "".join(part["text"] for part in value["passage"][0][1]) == INDEX.text
    shown = run(capsys, "diff", gate, index, "--home", str(store.home))
    assert "|" in shown and "MissingIndexError" in shown and "--fast" in shown and "/q.md" in shown


@pytest.mark.parametrize(
    "which, says",
    [
        (["v99"], "no version 99"),
        (["v1", "nothing"], "two versions"),
        (["v1", "v2", "v3"], "two versions"),
        (["abcd", "nothing"], "abcd"),
        (["/q.md", "/q.md"], "fits 2 memories"),
    ],
)
def test_what_cannot_be_compared_is_one_line(store, capsys, which, says):  # noqa: F811
    shown = run(capsys, "diff", *which, "--home", str(store.home), code=2)
    assert says in shown and shown.count("\n") == 1


def test_side_by_side_has_both_texts_and_equal_parts_that_did_not_change():
    chance = random.Random(0)
    for _ in range(200):
        texts = [
            "\n".join(" ".join(chance.choices("abc", k=chance.randrange(5))) for _ in range(chance.randrange(4)))
            for _ in range(2)
        ]
        rows = side_by_side(*texts)
        for side in (0, 1):
            lines = ["".join(part["text"] for part in row[side]) for row in rows]
            assert [line for line in lines if line] == [line for line in texts[side].splitlines() if line]
        for left, right in rows:
            same = ["".join(part["text"] for part in side if not part["changed"]) for side in (left, right)]
            assert same[0] == same[1]
    assert side_by_side("port 8443.", "port 8444.") == [
        (
            [{"text": "port ", "changed": False}, {"text": "8443.", "changed": True}],
            [{"text": "port ", "changed": False}, {"text": "8444.", "changed": True}],
        )
    ]
    assert side_by_side(COLOUR.text, COLOUR.text) == [([{"text": COLOUR.text, "changed": False}],) * 2]
    assert GATE.text in side_by_side("", GATE.text)[0][1][0]["text"]
