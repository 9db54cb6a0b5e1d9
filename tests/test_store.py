import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from selfedit import disk
from selfedit.errors import MemoryStoreError, SelfeditError
from selfedit.loop.journal import Journal
from selfedit.memory import adapters, database, entries, index, versions
from selfedit.memory.adapters import ADAPTER_FILES
from selfedit.memory.store import MemoryStore, default_home
from selfedit.memory.transactions import REPLIES, Transactions
from selfedit.types import Example, Passage, SelfEdit

EDITS = (
    SelfEdit("implications", "One.\u2028Two.\nThree.", (Example("One."), Example("Blue.", prompt="Which colour?"))),
    SelfEdit("rewrite", "Größe: 5 µm", ()),
)


def passage(number: int) -> Passage:
    return Passage(f"Title {number}", f"Text {number}.", f"/docs/{number}.txt", f"{number:064x}", index=number)


def adapter(value: float):
    def write(folder):
        (folder / "adapter_model.safetensors").write_bytes(save({"a": numpy.full(3, value, numpy.float32)}))
        (folder / "adapter_config.json").write_text('{"r": 1}')

    return write


def add(store: MemoryStore, number: int, value: float | None = None, model_hash: str = "m" * 64, write=None, **more):
    """Keeps the memory of passage `number`; another value is another adapter, so another id."""
    return store.add(
        write or adapter(number + 0.5 if value is None else value),
        model="tiny",
        model_hash=model_hash,
        passage=passage(number),
        edits=EDITS,
        scores={"before": {"accuracy": 0.0, "gold_logprob": None}, "after": {"accuracy": 0.5}},
        **more,
    )


def ids(entries) -> list[str]:
    return [entry.id for entry in entries]


def view(store: MemoryStore):
    """All that a user sees of the state, without times and version numbers."""
    return ids(store.active()), [(line["action"], line["memories"], line["active"]) for line in store.history()]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # a new file: an adapter of old homes may be linked to
    path.write_bytes(data)


def by_hand(store: MemoryStore, statement: str, *values) -> None:
    """Changes the database as somebody with another program could."""
    connection = sqlite3.connect(store.home / "memory.db")
    for table, event in itertools.product(("versions", "changes"), ("update", "delete")):
        connection.execute(f"DROP TRIGGER IF EXISTS {table}_never_{event}")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def folder_of(store: MemoryStore, id: str):
    """Of a memory's own adapter, whatever has become of it."""
    connection = sqlite3.connect(store.home / "memory.db")
    ((address,),) = connection.execute("SELECT adapter FROM memories WHERE id = ?", (id,)).fetchall()
    connection.close()
    return store.home / "adapters" / address


def index_pages(store: MemoryStore) -> list[tuple[str, int]]:
    """The tables of the retrieval index and the first page of each."""
    connection = sqlite3.connect(store.home / "memory.db")
    query = "SELECT name, rootpage FROM sqlite_master WHERE name GLOB 'index_*' AND rootpage > 0"
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def adapter_folders(store: MemoryStore) -> list[str]:
    return sorted(path.name for path in (store.home / "adapters").iterdir() if path.name != ".staging")


def is_clean(store: MemoryStore) -> bool:
    """Whether every adapter on disk is referred to, and no killed writer left anything."""
    connection = sqlite3.connect(store.home / "memory.db")
    known = connection.execute("SELECT adapter FROM memories UNION SELECT adapter FROM shared").fetchall()
    left = connection.execute("SELECT * FROM unfinished").fetchall()
    connection.close()
    staging = store.home / "adapters/.staging"
    return (
        {*adapter_folders(store)} <= {a for (a,) in known}
        and not left
        and not (staging.exists() and [*staging.iterdir()])
    )


@pytest.fixture
def store(tmp_path) -> MemoryStore:
    return MemoryStore(tmp_path / "home", lock_timeout_s=2.0)


# What is kept comes back


def test_everything_that_is_kept_can_be_read_back(store):
    entry = add(store, 7)
    store.close()
    reopened = MemoryStore(store.home)
    assert reopened.get(entry.id) == entry and reopened.active() == reopened.all() == [entry]
    assert reopened.edits(entry.id) == list(EDITS)
    assert (entry.model, entry.model_hash, entry.passage) == ("tiny", "m" * 64, passage(7))
    assert entry.scores == {"before": {"accuracy": 0.0, "gold_logprob": None}, "after": {"accuracy": 0.5}}
    folder = reopened.adapter_path(entry.id)
    assert load_file(folder / "adapter_model.safetensors")["a"].tolist() == [7.5] * 3
    assert sum(p.stat().st_size for p in folder.iterdir()) < entry.size_bytes < 2000
    reopened.close()
    assert sorted(path.name for path in folder.parents[1].iterdir()) == ["adapters", "memory.db"]


def test_the_id_depends_on_adapter_passage_and_model_alone(store, tmp_path):
    entry = add(store, 1)
    assert len(entry.id) == 12 and add(MemoryStore(tmp_path / "other"), 1).id == entry.id
    others = [add(store, 2), add(store, 1, value=2.0), add(store, 1, model_hash="n" * 64)]
    assert len({entry.id, *ids(others)}) == 4


def test_a_missing_home_is_an_empty_store_and_stays_missing(store):
    assert store.active() == store.all() == store.history() == []
    with pytest.raises(MemoryStoreError, match="no memory in .* has an id, a source, a day or a tag 'abc'"):
        store.disable("abc")
    assert not store.home.exists()


def test_reading_changes_nothing_on_the_disk(store):
    entry = add(store, 1)
    home, before = store.home, {path: path.read_bytes() for path in store.home.rglob("*") if path.is_file()}
    reader = MemoryStore(home)
    reader.active(), reader.all(), reader.history(), reader.router("m" * 64)
    reader.get(entry.id), reader.edits(entry.id), reader.adapter_path(entry.id)
    del reader
    shared_memory = home / "memory.db-shm"  # where readers say that they read
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert {k: v for k, v in before.items() if k != shared_memory} == {
        k: v for k, v in after.items() if k != shared_memory
    }


def test_the_home_is_that_of_the_environment_or_the_data_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("SELFEDIT_HOME")
    assert default_home().name == "selfedit"


def test_active_memories_can_be_asked_for_one_model(store):
    first, second = add(store, 1), add(store, 1, model_hash="n" * 64)
    assert store.active() == [first, second] and store.active("n" * 64) == [second]


def test_memories_are_read_page_by_page(store, monkeypatch):
    monkeypatch.setattr("selfedit.memory.store.PAGE", 3)
    entries = [add(store, number) for number in range(7)]
    store.disable(entries[0].id)
    assert [ids(store.page(number)[0]) for number in (1, 2, 3)] == [ids(entries[1:4]), ids(entries[4:]), []]
    assert store.page(3, everything=True) == (store.all()[6:], 7) and store.page(1)[1] == 6


# What changes


def test_adding_the_same_again_changes_nothing(store):
    entry = add(store, 1)
    before = store.history()
    assert add(store, 1) == entry
    assert store.history() == before


def test_adding_what_was_forgotten_makes_it_active_again(store):
    entry = add(store, 1)
    store.disable(entry.id)
    assert store.active() == [] and store.all() == [entry]
    assert add(store, 1) == entry and store.active() == [entry]


def test_adding_what_lies_there_corrupt_mends_it(store):
    entry = add(store, 1)
    flip_a_byte(folder_of(store, entry.id) / "adapter_model.safetensors")
    assert add(store, 1) == entry and store.adapter_path(entry.id)
    by_hand(store, "UPDATE memories SET record = x'00'")
    again = add(store, 1)
    assert again.id == entry.id and store.verify()["faults"] == [] and store.active() == [again]


def test_a_newer_memory_of_the_same_passage_takes_the_place_of_the_older(store):
    old, other = add(store, 1), add(store, 2)
    new = add(store, 1, value=2.0)
    assert store.active() == [new, other] and set(ids(store.all())) == {old.id, other.id, new.id}
    assert add(store, 1) == old and store.active() == [old, other]


def test_what_is_disabled_can_be_brought_back_by_undoing_or_by_approving_it(store):
    first, second = add(store, 1), add(store, 2)
    assert store.disable(first.id)["active"] == [second.id]
    with pytest.raises(MemoryStoreError, match=f"not in force already; `selfedit memory forget {first.id}` deletes it"):
        store.disable(first.id)
    assert store.rollback()["restored"] == 2 and store.active() == [first, second]
    store.disable(first.id)
    assert store.approve(first.id)["active"] == [second.id, first.id]
    with pytest.raises(MemoryStoreError, match="in force already"):
        store.approve(first.id)


def test_repeated_undoing_goes_back_to_the_beginning(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    assert [store.rollback()["active"] for _ in range(3)] == [[first.id, second.id], [first.id], []]
    with pytest.raises(MemoryStoreError, match="no change left to undo"):
        store.rollback()
    assert store.history()[-1]["restored"] == 0
    assert store.rollback("v3")["active"] == [first.id, second.id, third.id]


def test_undoing_after_a_change_made_after_an_undo_follows_what_the_user_saw(store):
    first, _ = add(store, 1), add(store, 2)
    store.rollback()
    add(store, 3)
    assert [store.rollback()["active"] for _ in range(2)] == [[first.id], []]


def test_going_to_a_version_is_a_change_that_can_be_undone(store):
    first, second = add(store, 1), add(store, 2)
    assert store.rollback("1")["active"] == [first.id]
    assert store.rollback()["active"] == [first.id, second.id]
    assert store.rollback()["active"] == [first.id]


def test_going_to_a_memory_is_going_to_when_it_was_last_kept(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    assert store.rollback(second.id[:8])["active"] == [first.id, second.id]
    store.disable(first.id)
    add(store, 1)
    assert store.rollback(first.id)["active"] == [second.id, first.id]


def test_digits_that_begin_an_id_and_are_no_version_are_the_memory(store):
    number = next(n for n in range(100) if add(store, n).id[:4].isdigit())
    id = add(store, number).id
    store.disable(id)
    store.rollback(id[:4])
    assert id in store.active_ids()


def test_a_lost_database_is_a_fault_if_adapters_are_there(store):
    add(store, 1)
    store.close()
    for file in store.home.glob("memory.db*"):
        file.unlink()
    (fault,) = MemoryStore(store.home).verify()["faults"]
    assert "memory.db is missing or empty" in fault and "has 1 adapters" in fault


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("was_killed", [False, True])
def test_a_home_that_lost_its_database_keeps_its_adapters(store, was_killed, is_empty):
    entry = add(store, 1)
    store.close()
    path = store.home / "memory.db"
    content = path.read_bytes()
    path.write_bytes(b"") if is_empty else path.unlink()
    if was_killed:
        (store.home / "adapters" / ".staging" / "0123456789abcdef").mkdir(parents=True)
    for change in (store.rollback, *(partial(use, entry.id) for use in (store.forget, store.disable, store.approve))):
        with pytest.raises(MemoryStoreError):
            change()
    with pytest.raises(MemoryStoreError, match="has adapters but no memory.db: restore it from a backup"):
        add(store, 2)
    path.write_bytes(content)
    assert not store.verify()["faults"] and ids(store.active()) == [entry.id]


def test_a_home_that_another_process_creates_meanwhile_has_lost_nothing(store, monkeypatch):
    addresses = adapters.AdapterFolders.addresses

    def written_meanwhile(folders):
        monkeypatch.undo()
        add(MemoryStore(store.home), 1)
        return addresses(folders)

    monkeypatch.setattr(adapters.AdapterFolders, "addresses", written_meanwhile)
    assert add(store, 2) in store.active() and len(store.active()) == 2
    shutil.rmtree(store.home)
    monkeypatch.setattr(adapters.AdapterFolders, "addresses", written_meanwhile)
    assert not store.verify()["faults"]


def test_going_to_an_unknown_version_says_which_there_are(store):
    add(store, 1)
    for unknown in ("v9", "9"):
        with pytest.raises(MemoryStoreError, match="no version 9; those to go back to are 0 to 1"):
            store.rollback(unknown)
    assert store.rollback("v0")["active"] == []


def test_what_is_quarantined_is_in_force_only_once_it_is_approved(store):
    first = add(store, 1)
    entry = store.add(
        adapter(2.0), model="tiny", model_hash="m" * 64, passage=passage(1), edits=EDITS, scores={}, quarantine=True
    )
    assert store.active() == [first] and set(ids(store.all())) == {first.id, entry.id}
    assert store.history()[-1]["action"] == "quarantine" and store.router("m" * 64).ids == [first.id]
    assert store.approve(entry.id)["active"] == [entry.id]  # in the place of the other one of that passage
    assert store.rollback()["active"] == [first.id] and store.verify()["faults"] == []


def test_forgetting_deletes_from_disk_and_rolling_back_says_what_stays_away(store):
    first, second = add(store, 1), add(store, 2)
    assert store.forget(first.id[:9])["action"] == "forget"
    assert store.all() == store.active() == [second]
    assert adapter_folders(store) == [folder_of(store, second.id).name]
    line = store.rollback("v2")
    assert line["active"] == [second.id] and line["note"] == f"left out, as forgotten for good: {first.id}"
    assert add(store, 1).id == first.id and ids(store.active()) == [second.id, first.id]


def test_what_is_not_in_force_can_be_forgotten(store):
    entry = add(store, 1)
    store.disable(entry.id)
    store.forget(entry.id)
    assert store.all() == []


def test_a_source_is_forgotten_with_everything_that_came_from_it_and_nothing_else(store):
    one, other = (Passage(f"Part {i}", f"Secret {i}.", "/docs/report.pdf", "5" * 64, i) for i in range(2))
    kept = [
        store.add(adapter(1.0 + p.index), model="tiny", model_hash="m" * 64, passage=p, edits=EDITS, scores={})
        for p in (one, other)
    ]
    stays = add(store, 3)
    run = Journal(store.home / "runs/learn-x/trials.jsonl")
    for p in (one, other, stays.passage):
        run.add({"passage": p.id, "title": p.title})
        with disk.turn(run.file.with_name(p.id), pytest.fail):
            pass
    store.disable(kept[0].id)
    assert store.forget("report.pdf")["memories"] == ids(kept)
    assert store.all() == store.active() == [stays]
    left = [path.read_bytes() for path in store.home.rglob("*") if path.is_file()]
    assert not any(b"Secret" in data or b"Part" in data or b"report.pdf" in data for data in left)
    assert [r["passage"] for r in Journal(run.file).records] == [stays.passage.id]
    names = {path.name.split(".")[1] for path in run.file.parent.glob(".*")}
    assert stays.passage.id in names and names.isdisjoint([one.id, other.id])  # the hash of a text tells of it


def keep(store: MemoryStore, text: str, source="/docs/a.txt", source_hash="5" * 64, model_hash="m" * 64):
    passage = Passage("A", text, source, source_hash)
    return store.add(adapter(1.0), model="tiny", model_hash=model_hash, passage=passage, edits=EDITS, scores={})


def test_a_newer_version_of_a_document_supersedes_what_it_has_no_more(store):
    gone, stays, elsewhere = keep(store, "Old."), keep(store, "Same."), keep(store, "B.", "/docs/b.txt")
    other_model = keep(store, "Old.", model_hash="n" * 64)
    new = keep(store, "New.", source_hash="6" * 64)
    now = [Passage("A", text, "/docs/a.txt", "6" * 64) for text in ("Same.", "New.")]
    assert store.supersede(now, "m" * 64) == [gone.id]
    assert store.active() == [stays, elsewhere, other_model, new] and store.history()[-1]["action"] == "supersede"
    assert store.supersede(now, "m" * 64) == []


def test_undoing_a_newer_version_brings_the_older_back_alone(store):
    old, elsewhere = keep(store, "Old."), keep(store, "B.", "/docs/b.txt")
    keep(store, "New.", source_hash="6" * 64), keep(store, "Newer.", source_hash="6" * 64)
    store.supersede([Passage("A", text, "/docs/a.txt", "6" * 64) for text in ("New.", "Newer.")], "m" * 64)
    assert store.rollback()["active"] == ids([old, elsewhere])
    assert store.rollback()["active"] == [old.id]


def test_undoing_a_document_that_was_split_otherwise_brings_back_what_was_there_before(store):
    """The same file in other passages: what it had before is older, though its hash is the same."""
    other, whole = keep(store, "Elsewhere.", source="/docs/x.txt"), keep(store, "Both. Halves.")
    halves = [keep(store, "Both."), keep(store, "Halves.")]
    assert store.supersede([half.passage for half in halves], "m" * 64) == [whole.id]
    assert store.rollback()["active"] == [other.id, whole.id]


def test_what_another_document_has_too_stays_until_that_has_it_no_more(store, tmp_path):
    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    (tmp_path / "a.txt").touch(), (tmp_path / "b.txt").touch()
    both = keep(store, "Both.", a)
    for source in (b, b, a):
        store.add_sources({both.id: {source}})
    assert [line["action"] for line in store.history()] == ["keep"] and store.find(a) == store.find(b) == [both.id]
    new = keep(store, "New.", a, "6" * 64)
    assert store.supersede([new.passage], "m" * 64) == [] and store.active() == [both, new]  # b still says it
    assert store.supersede([Passage("A", "Other.", b, "7" * 64)], "m" * 64) == [both.id] and store.active() == [new]
    assert store.verify()["faults"] == []


@pytest.mark.parametrize("source", ["https://example.org/a", "package:gate@2.0/docs/changes.md"])
def test_what_an_address_or_a_package_has_too_stays(store, source):
    both = keep(store, "Both.", "/docs/a.txt")
    store.add_sources({both.id: {source}})
    assert store.supersede([Passage("A", "New.", "/docs/a.txt", "6" * 64)], "m" * 64) == []


def test_a_file_that_was_moved_supersedes_what_it_was(store):
    kept = keep(store, "Both.", "/docs/gone.txt")
    store.add_sources({kept.id: {"/docs/here.txt"}})
    assert store.supersede([Passage("A", "New.", "/docs/here.txt", "6" * 64)], "m" * 64) == [kept.id]


def test_a_memory_is_found_and_learned_again_by_every_source_that_has_it(store, tmp_path):
    kept = keep(store, "Both.", "/docs/a.txt")
    store.add_sources({kept.id: {"/docs/b.txt"}})
    assert store.find("a.txt") == store.find("/docs/b.txt") == [kept.id]
    again = store.add(adapter(3.0), model="tiny", model_hash="m" * 64, passage=kept.passage, edits=EDITS, scores={})
    assert again.id != kept.id and store.find("b.txt") == [kept.id, again.id]
    store.forget("b.txt")
    assert store.all() == [] and store.rollback()["active"] == []


def test_where_else_a_passage_stands_is_nothing_to_undo(store):
    first, _ = keep(store, "One.", "/docs/a.txt"), keep(store, "Two.", "/docs/c.txt")
    store.add_sources({first.id: {"/docs/b.txt"}})
    assert store.rollback()["active"] == [first.id]


def test_where_a_forgotten_memory_stands_is_not_noted(store):
    first, second = keep(store, "One.", "/docs/a.txt"), keep(store, "Two.", "/docs/c.txt")
    store.forget(first.id)
    store.add_sources({first.id: {"/docs/b.txt"}})
    assert store.history()[-1]["action"] == "forget" and store.active() == [second]


def test_what_was_put_in_quarantine_is_nothing_to_undo(store):
    first = keep(store, "One.", "/docs/a.txt")
    store.add(
        adapter(2.0),
        model="tiny",
        model_hash="m" * 64,
        passage=Passage("B", "Two.", "/docs/b.txt", "6" * 64),
        edits=EDITS,
        scores={},
        quarantine=True,
    )
    assert store.active() == [first] and store.rollback()["active"] == []


def test_a_newer_version_is_undone_as_a_whole_though_something_was_put_in_quarantine_meanwhile(store):
    old, new = keep(store, "Old."), keep(store, "New.", source_hash="6" * 64)
    store.add(
        adapter(2.0),
        model="tiny",
        model_hash="m" * 64,
        passage=Passage("B", "Two.", "/docs/b.txt", "6" * 64),
        edits=EDITS,
        scores={},
        quarantine=True,
    )
    assert store.supersede([Passage("A", "New.", "/docs/a.txt", "6" * 64)], "m" * 64) == [
        old.id
    ] and store.active() == [new]
    assert store.rollback()["active"] == [old.id]


def test_a_source_does_not_put_a_memory_in_the_place_of_a_newer_one(store):
    old, new = (
        keep(store, "One."),
        store.add(
            adapter(2.0),
            model="tiny",
            model_hash="m" * 64,
            passage=Passage("A", "One.", "/docs/a.txt", "5" * 64),
            edits=EDITS,
            scores={},
        ),
    )
    waiting = store.add(
        adapter(3.0),
        model="tiny",
        model_hash="m" * 64,
        passage=Passage("A", "Two.", "/docs/a.txt", "5" * 64),
        edits=EDITS,
        scores={},
        quarantine=True,
    )
    with pytest.raises(MemoryStoreError, match="a.txt: there are several versions"):
        store.approve("a.txt")
    assert store.active() == [new] and store.approve(waiting.id)["active"] == [new.id, waiting.id] and old.id != new.id


def test_what_changes_while_hashes_are_checked_is_no_fault(store, monkeypatch):
    first, real = add(store, 0), adapters.AdapterFolders.check

    def meanwhile(folders, address, weights_hash):
        monkeypatch.setattr(adapters.AdapterFolders, "check", real)
        other = MemoryStore(store.home)
        other.forget(first.id)
        add(other, 1)
        return real(folders, address, weights_hash)

    monkeypatch.setattr(adapters.AdapterFolders, "check", meanwhile)
    assert store.verify() == {"memories": 1, "versions": 3, "faults": []}


def test_of_several_versions_a_person_has_to_name_the_one(store):
    old, new = keep(store, "Old."), keep(store, "New.", source_hash="6" * 64)
    store.supersede([Passage("A", "New.", "/docs/a.txt", "6" * 64)], "m" * 64)
    with pytest.raises(
        MemoryStoreError, match="a.txt: there are several versions; give ids from `selfedit memory list --all`"
    ):
        store.approve("a.txt")
    assert store.active() == [new] and store.approve(old.id)["active"] == [new.id, old.id]


def test_memories_are_found_by_source_path_name_or_day(store):
    first, second = add(store, 1), add(store, 2)
    assert store.find("/docs/1.txt") == store.find("1.txt") == [first.id]
    assert store.find(first.created[:10]) == ids([first, second])
    elsewhere = Passage("Other", "Other text.", "/archive/1.txt", "6" * 64)
    store.add(adapter(1.0), model="tiny", model_hash="m" * 64, passage=elsewhere, edits=EDITS, scores={})
    with pytest.raises(
        MemoryStoreError, match=r"'1.txt' fits 2 sources \(/archive/1.txt, /docs/1.txt\); give the whole path"
    ):
        store.forget("1.txt")
    with pytest.raises(MemoryStoreError, match="an id, a source, a day or a tag 'nothing.txt'"):
        store.forget("nothing.txt")


def test_history_tells_every_change_in_order(store):
    first, second = add(store, 1), add(store, 2)
    store.disable(second.id)
    store.rollback()
    told = [(line["version"], line["action"], line["memories"], line["active"]) for line in store.history()]
    assert told == [
        (1, "keep", [first.id], [first.id]),
        (2, "keep", [second.id], [first.id, second.id]),
        (3, "disable", [second.id], [first.id]),
        (4, "rollback", [], [first.id, second.id]),
    ]
    assert all(line["time"].endswith("+00:00") for line in store.history())


def test_an_export_is_the_adapter_with_its_source_and_scores(store, tmp_path):
    entry = add(store, 1)
    store.export(entry.id[:6], tmp_path / "new" / "folder")
    exported = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(exported) == {*ADAPTER_FILES, "source.json", "scores.json"}
    weights, config = ADAPTER_FILES
    assert (store.adapter_path(entry.id) / config).read_bytes() == exported[config]
    kept, plain = (
        load_file(folder / weights)["a"] for folder in (store.adapter_path(entry.id), tmp_path / "new/folder")
    )
    assert plain.dtype == numpy.float16 and plain.tolist() == kept.tolist()
    assert json.loads(exported["source.json"])["source"] == "/docs/1.txt"
    assert json.loads(exported["scores.json"]) == entry.scores


# Memories without an adapter


def add_text(store: MemoryStore, number: int):
    return store.add(None, model="tiny", model_hash="m" * 64, passage=passage(number), edits=[], scores={})


def test_a_text_is_a_memory_until_its_passage_is_learned_and_again_after_an_undo(store):
    text = add_text(store, 1)
    assert not text.has_adapter and store.active() == [text] and add_text(store, 1) == text and store.version == 1
    assert store.router("m" * 64).route("Title 1 Text 1.")[0] == text.id
    with pytest.raises(MemoryStoreError, match=f"memory {text.id} has no adapter: it answers from its text"):
        store.answering_path(text.id)
    assert store.verify() == {"memories": 1, "versions": 1, "faults": []}
    learned = add(store, 1)
    assert store.active() == [learned] and add_text(store, 1) == learned and store.version == 2
    store.rollback()
    assert store.active() == [text]
    store.approve(learned.id)
    store.disable(learned.id)
    store.approve(text.id)
    assert store.active() == [text] and store.verify()["faults"] == []


def test_what_is_forgotten_is_forgotten_as_a_text_too(store):
    texts = [add_text(store, number) for number in (1, 2)]
    learned = add(store, 1)
    assert store.forget(learned.id)["memories"] == [learned.id, texts[0].id]
    assert store.all() == [texts[1]] and b"Text 1." not in b"".join(
        path.read_bytes() for path in store.home.rglob("*") if path.is_file()
    )
    assert store.verify()["faults"] == []


def test_a_text_cannot_be_exported_and_a_changed_one_is_found(store, tmp_path):
    text = add_text(store, 1)
    with pytest.raises(MemoryStoreError, match="it answers from its text"):
        store.export(text.id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    by_hand(store, f"UPDATE memories SET created = '2001-01-01' WHERE id = '{text.id}'")
    assert "its record has changed" in store.verify()["faults"][0]


def test_the_router_can_leave_a_passage_out(store):
    one, two = add(store, 1), add_text(store, 2)
    router = store.router("m" * 64, without_passage=passage(2).id)
    assert router.best("Title 2 Text 2.", 5) == [
        pair for pair in router.best("Title 2 Text 2.", 5) if pair[0] == one.id
    ]
    assert store.router("m" * 64).best("Title 2 Text 2.", 1)[0][0] == two.id
    assert router.with_text("new", "Title 2 Text 2.").route("Title 2 Text 2.")[0] == "new"


def test_an_export_overwrites_nothing(store, tmp_path):
    entry = add(store, 1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MemoryStoreError, match="is not empty"):
        store.export(entry.id, tmp_path)
    with pytest.raises(MemoryStoreError, match="cannot export to .*file: Not a directory"):
        store.export(entry.id, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_memory_is_found_by_the_start_of_its_id_if_that_is_long_enough_and_unique(store):
    entries = [add(store, number) for number in range(20)]
    assert all(store.get(entry.id[:length]) == entry for entry in entries for length in (6, 11, 12))
    for unknown in ("", "x", entries[0].id[:3], "../" + entries[0].id):
        with pytest.raises(MemoryStoreError, match="no memory"):
            store.get(unknown)
        with pytest.raises(MemoryStoreError, match="no memory"):
            store.forget(unknown)


def test_an_id_that_fits_several_memories_is_refused(store):
    """Two ids that begin alike: as many memories as it takes."""
    seen, number = {}, 0
    while True:
        entry = add(store, number)
        if other := seen.get(entry.id[:4]):
            break
        seen[entry.id[:4]], number = entry, number + 1
        if len(seen) == 60:  # rather than 2 ** 8 memories: the same ids, made by hand
            alike = entry.id[:4] + "f" * 8
            other = MemoryStore(store.home).get(entry.id)
            by_hand(
                store,
                "INSERT INTO memories SELECT ?, passage_id, model, model_hash, adapter, adapter_hash, created, "
                "size_bytes, record, edits, seal, library FROM memories WHERE id = ?",
                alike,
                entry.id,
            )
            break
    for use in (store.get, store.find, store.forget):
        with pytest.raises(
            MemoryStoreError, match=f"{entry.id[:4]}' fits 2 memories .*{other.id}.*; give more characters"
        ):
            use(entry.id[:4])


def test_what_is_both_an_id_and_the_name_of_a_source_is_refused(store):
    entry = add(store, 1)
    named = keep(store, "Other.", f"/docs/{entry.id[:5]}")
    for use in (store.find, store.forget, store.disable):
        with pytest.raises(
            MemoryStoreError, match=f"{entry.id}.*/docs/{entry.id[:5]}.*give the whole id or the whole path"
        ):
            use(entry.id[:5])
    assert store.find(entry.id) == [entry.id] and store.find(f"/docs/{entry.id[:5]}") == [named.id]
    assert len(store.active()) == 2


def test_the_name_of_a_source_of_one_character_is_no_id(store):
    entries = [add(store, number) for number in range(20)]
    first = entries[0].id[0]
    named = keep(store, "Other.", f"/docs/{first}")
    assert store.find(first) == [named.id]


# What is damaged is named


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_corrupt_adapter_is_never_handed_out(store, name):
    entry, other = add(store, 1), add(store, 2)
    assert store.adapter_path(entry.id)
    flip_a_byte(folder_of(store, entry.id) / name)
    for use in (store.adapter_path, lambda id: store.export(id, store.home / "exported")):
        with pytest.raises(MemoryStoreError, match=f"{entry.id} is corrupt: {name} .*memory forget {entry.id}`"):
            use(entry.id)
    store.forget(entry.id)
    assert store.active() == [other]


def test_the_bytes_of_an_adapter_are_hashed_once_as_long_as_nobody_writes_to_them(store, monkeypatch):
    entry, hashed, real = add(store, 1), [], disk.file_hash
    monkeypatch.setattr(disk, "file_hash", lambda path: (hashed.append(path.name), real(path))[1])
    for reader in (store, MemoryStore(store.home), MemoryStore(store.home)):
        assert reader.adapter_path(entry.id) == reader.answering_path(entry.id)
    assert hashed == []  # they were hashed when they were written
    os.utime(folder_of(store, entry.id) / ADAPTER_FILES[0])
    for _ in range(3):
        store.adapter_path(entry.id)
    assert sorted(hashed) == sorted(ADAPTER_FILES)
    store.verify()
    hashed.clear()
    MemoryStore(store.home).adapter_path(entry.id)
    assert hashed == []


@pytest.mark.parametrize(
    "change",
    [
        "record = x'00'",
        "record = zeroblob(50)",
        "model_hash = replace(model_hash, 'm', 'n')",
        "passage_id = 'x'",
        "created = 5",
        "adapter = 'a'",
        "adapter_hash = ''",
        "size_bytes = 'many'",
        "seal = ''",
    ],
)
def test_a_corrupt_memory_is_named_and_can_be_forgotten(store, change):
    entry, other = add(store, 1), add(store, 2)
    by_hand(store, f"UPDATE memories SET {change} WHERE id = ?", entry.id)
    for read in (store.active, store.all, lambda: store.get(entry.id), lambda: store.edits(entry.id)):
        with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt: .*memory forget {entry.id}`"):
            read()
    assert any(entry.id in fault for fault in store.verify()["faults"])
    add(store, 3)  # nothing else is held up
    store.forget(entry.id)
    assert len(store.active()) == len(store.all()) == 2 and other in store.active() and store.verify()["faults"] == []


def test_edits_that_were_changed_are_never_handed_out(store):
    entry = add(store, 1)
    by_hand(store, "UPDATE memories SET edits = ?", entries.pack([]))
    with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt: its edits have changed"):
        store.edits(entry.id)
    store.forget(entry.id)
    assert store.all() == []


def test_a_number_of_5000_digits_is_damage_like_any_other(store):
    entry, _ = add(store, 1), add(store, 2)
    huge = "9" * 5000
    record = entries.zlib.compress(f'{{"passage": {{"index": {huge}}}}}'.encode())
    row = [
        *sqlite3.connect(store.home / "memory.db")
        .execute("SELECT * FROM memories WHERE id = ?", (entry.id,))
        .fetchone()
    ]
    fields = (*row[:8], record)
    by_hand(store, "UPDATE memories SET record = ?, seal = ? WHERE id = ?", record, entries.seal(*fields), entry.id)
    with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt"):
        store.active()
    with pytest.raises(MemoryStoreError, match="no memory"):
        store.rollback(huge)
    store.forget(entry.id)
    assert len(store.active()) == 1
    by_hand(store, "UPDATE memories SET size_bytes = ?", huge)
    with pytest.raises(MemoryStoreError, match="is corrupt"):
        store.active()
    by_hand(store, "UPDATE versions SET extra = ? WHERE version = 1", f'{{"a": {huge}}}')
    for use in (store.history, store.verify, store.rollback):
        with pytest.raises(MemoryStoreError, match="version 1 of the store is damaged"):
            use()


@pytest.mark.parametrize("table, column", [("versions", "memories"), ("changes", "memory_id"), ("active", "memory_id")])
@pytest.mark.parametrize("id", ["/somewhere", "../..", "0123456789abc", ""])
def test_an_id_that_is_none_is_one_clear_line_and_deletes_nothing(store, tmp_path, table, column, id):
    entry, other = add(store, 1), add(store, 2)
    (tmp_path / "mine").mkdir()
    id = str(tmp_path / "mine") if id == "/somewhere" else id
    value = json.dumps([id]) if column == "memories" else id
    by_hand(store, f"UPDATE {table} SET {column} = ? WHERE {column} LIKE ?", value, f"%{entry.id}%")
    for use in (store.verify, store.history, store.rollback, lambda: store.forget(other.id)):
        with contextlib.suppress(MemoryStoreError):
            use()
    with pytest.raises(MemoryStoreError, match="where the id of a memory belongs|version 1 of the store is damaged"):
        store.verify()
    assert (tmp_path / "mine").exists() and folder_of(store, entry.id).exists()


@pytest.mark.parametrize("what", ["memory", "shared"])
def test_an_address_that_leads_elsewhere_is_one_clear_line_and_deletes_nothing(store, tmp_path, what):
    entry, other = add(store, 1), add(store, 2)
    share(store, entry, other)
    shutil.copytree(folder_of(store, entry.id), tmp_path / "mine")
    by_hand(store, f"UPDATE {'memories' if what == 'memory' else 'shared'} SET adapter = ?", str(tmp_path / "mine"))
    with pytest.raises(MemoryStoreError, match="is corrupt"):
        store.adapter_path(entry.id) if what == "memory" else store.answering_path(entry.id)
    assert store.verify()["faults"]
    store.forget(entry.id)
    assert [*(tmp_path / "mine").iterdir()]


def test_a_symbolic_link_in_the_store_is_not_followed_to_read_or_to_delete(store, tmp_path):
    entry, other = add(store, 1), add(store, 2)
    folder, mine = folder_of(store, entry.id), tmp_path / "mine"
    shutil.move(folder, mine)
    folder.symlink_to(mine)
    with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt: .* symbolic link"):
        store.adapter_path(entry.id)
    assert len(store.verify()["faults"]) == 1
    store.forget(entry.id)
    assert not folder.is_symlink() and len([*mine.iterdir()]) == 2 and store.active() == [other]
    file = folder_of(store, other.id) / ADAPTER_FILES[0]
    shutil.move(file, tmp_path / "weights")
    file.symlink_to(tmp_path / "weights")
    with pytest.raises(MemoryStoreError, match=f"memory {other.id} is corrupt: .* symbolic link"):
        store.adapter_path(other.id)
    store.forget(other.id)
    assert (tmp_path / "weights").exists() and store.all() == []


def test_behind_a_linked_adapters_folder_nothing_is_deleted(store, tmp_path):
    entry = add(store, 1)
    shutil.move(store.home / "adapters", tmp_path / "mine")
    (store.home / "adapters").symlink_to(tmp_path / "mine")
    with pytest.raises(MemoryStoreError, match="lies behind a symbolic link"):
        store.forget(entry.id)
    assert len([path for path in (tmp_path / "mine").iterdir() if len(path.name) == 64]) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "adapters", "../mine", "adapters/../../mine", "adapters/..", "runs", "memory.db"]
)
def test_only_folders_that_the_store_makes_can_be_deleted(store, tmp_path, name):
    add(store, 1)
    (tmp_path / "mine").mkdir()
    before = sorted(store.home.rglob("*"))
    with pytest.raises(MemoryStoreError, match="is not deleted"):
        adapters.AdapterFolders(store.home).delete(name)
    assert sorted(store.home.rglob("*")) == before and (tmp_path / "mine").exists()


def test_runs_behind_a_symbolic_link_are_left_alone(store, tmp_path):
    entry = add(store, 1)
    Journal(tmp_path / "mine/trials.jsonl").add({"passage": entry.passage.id})
    (store.home / "runs").mkdir()
    (store.home / "runs/learn-x").symlink_to(tmp_path / "mine")
    store.forget(entry.id)
    assert len(Journal(tmp_path / "mine/trials.jsonl").records) == 1


def test_a_memory_whose_folder_is_lost_can_still_be_forgotten(store):
    entry = add(store, 1)
    shutil.rmtree(folder_of(store, entry.id))
    with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt"):
        store.adapter_path(entry.id)
    store.forget(entry.id)
    assert store.active() == []


@pytest.mark.parametrize("damage", [b"garbage " * 1000, "half", "other"])
def test_a_database_that_is_none_is_one_clear_line(store, damage):
    add(store, 1)
    path = store.home / "memory.db"
    store.close()
    if damage == "other":
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE mine(x)")
        other.close()
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "half" else damage)
    before = path.read_bytes()
    for use in (store.active, store.history, store.verify, lambda: add(store, 2), lambda: store.forget("0123")):
        with pytest.raises(MemoryStoreError, match="is damaged|not a database of selfedit"):
            use()
    assert path.read_bytes() == before


def test_a_flipped_bit_anywhere_in_the_database_is_found_or_harmless_and_never_a_traceback(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    share(store, first, second)
    store.disable(third.id)
    home = store.home
    expected = view(store), store.all()
    path = home / "memory.db"
    store.close()
    good, found = path.read_bytes(), 0
    for offset in range(0, len(good), 911):
        data = bytearray(good)
        data[offset] ^= 1 << offset % 8
        path.write_bytes(data)
        damaged = MemoryStore(home)
        try:
            faults = damaged.verify()["faults"]
            if not faults:
                assert (view(damaged), damaged.all()) == expected
            found += bool(faults)
        except MemoryStoreError as error:
            assert "\n" not in str(error)
            found += 1
        for use in (
            damaged.active,
            damaged.history,
            lambda damaged=damaged: damaged.router("m" * 64).route("Text 1"),
            lambda damaged=damaged: add(damaged, 4),
            lambda damaged=damaged: damaged.forget(first.id),
        ):
            with contextlib.suppress(MemoryStoreError):
                use()
        damaged.close()
        for left in home.glob("memory.db-*"):
            left.unlink()
    assert found > 10


# The retrieval index


def test_the_router_knows_what_is_in_force_after_every_change(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    other = add(store, 7, model_hash="n" * 64)
    for change in (
        lambda: store.disable(first.id),
        lambda: add(store, 2, value=2.0),
        lambda: store.rollback(),
        lambda: store.approve(first.id),
        lambda: store.forget(third.id),
        lambda: store.rollback("v3"),
    ):
        change()
        router = store.router("m" * 64)
        assert {id for id, _ in router.best("Text 1 2 3 7", 9)} == {*ids(store.active("m" * 64))}
        assert (
            {id for id, _ in store.router("n" * 64).best("Text 7", 9)} == {*ids(store.active("n" * 64))} <= {other.id}
        )
        assert store.verify()["faults"] == []


def test_the_index_is_that_of_a_store_that_was_filled_at_once(store, tmp_path):
    first, second = add(store, 1), add(store, 2)
    store.disable(first.id), add(store, 2, value=2.0), store.rollback(), store.rollback(), store.forget(second.id)
    add(store, 3), store.rollback("v1"), share(store, add(store, 4), add(store, 5)), add(store, 1, value=3.0)
    with store._database.reading() as connection:
        assert index.content_hash(connection) == index.content_hash(index.expected(connection))


@pytest.mark.parametrize("readonly", [False, True])
def test_a_damaged_index_is_rebuilt_and_never_fatal(store, monkeypatch, readonly):
    entries_ = [add(store, number) for number in range(8)]
    store.close()
    good = (store.home / "memory.db").read_bytes()
    pages = index_pages(store)
    if readonly:
        monkeypatch.setattr(Transactions, "is_writable", lambda self: False)
    assert len(pages) >= 5
    for name, page in pages:
        (store.home / "memory.db").write_bytes(good[: (page - 1) * 4096] + b"\xa5" * 4096 + good[page * 4096 :])
        damaged = MemoryStore(store.home)
        assert damaged.router("m" * 64).best("Text 3", 1)[0][0] == entries_[3].id, name
        faults = damaged.verify()["faults"]
        assert not faults or readonly or "index" in faults[0], (name, faults)
        if not readonly:
            assert damaged.verify()["faults"] == [], name
        damaged.close()
        for left in store.home.glob("memory.db-*"):
            left.unlink()


def test_the_index_of_an_older_selfedit_is_not_used_in_a_home_that_cannot_be_written(store, monkeypatch):
    entries_ = [add(store, number) for number in range(3)]
    by_hand(store, "UPDATE meta SET value = '0' WHERE key = 'index_format'")
    by_hand(store, "DELETE FROM index_memories")
    monkeypatch.setattr(Transactions, "is_writable", lambda self: False)
    assert MemoryStore(store.home).router("m" * 64).best("Text 2", 1)[0][0] == entries_[2].id


@pytest.mark.parametrize("change", ["add", "forget", "disable"])
def test_a_damaged_index_holds_up_no_change(store, change):
    first, _ = add(store, 1), add(store, 2)
    store.close()
    good = (store.home / "memory.db").read_bytes()
    for name, page in index_pages(store):
        (store.home / "memory.db").write_bytes(good[: (page - 1) * 4096] + b"\xa5" * 4096 + good[page * 4096 :])
        damaged = MemoryStore(store.home)
        add(damaged, 3) if change == "add" else getattr(damaged, change)(first.id)
        assert len(damaged.active()) == (3 if change == "add" else 1), name
        damaged.verify()
        assert damaged.verify()["faults"] == [], name
        damaged.close()
        for left in store.home.glob("memory.db-*"):
            left.unlink()


def test_an_index_that_says_something_else_is_a_fault_and_rebuilt(store):
    add(store, 1), add(store, 2)
    by_hand(store, "UPDATE index_memories SET words = substr(words, 8)")
    (fault,) = store.verify()["faults"]
    assert "the retrieval index was damaged and has been rebuilt" in fault and store.verify()["faults"] == []


def test_an_index_of_another_format_is_rebuilt(store, monkeypatch):
    add(store, 1)
    monkeypatch.setattr("selfedit.memory.route.FORMAT", 99)
    again = MemoryStore(store.home)
    assert again.router("m" * 64).best("Text 1", 1) and again.verify()["faults"] == []
    assert again._database.connection().execute("SELECT value FROM meta").fetchall() == [("99",)]


# One adapter for several memories


def share(store: MemoryStore, *entries) -> str:
    return store.share(adapter(9.0), entries, {"general_change": 0.1})


def answering(store: MemoryStore) -> list[str]:
    """What answers for each memory in force: `own` or the shared adapter's id."""
    for id in store.active_ids():
        assert (store.answering_path(id) == store.adapter_path(id)) == (store.shared_adapter(id) is None)
    return [store.shared_adapter(id) or "own" for id in store.active_ids()]


def test_memories_that_share_an_adapter_answer_from_it_and_keep_their_own(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    shared = share(store, first, third)
    assert answering(store) == [shared, "own", shared] and store.verify()["faults"] == []
    assert load_file(store.answering_path(first.id) / ADAPTER_FILES[0])["a"].tolist() == [9.0] * 3
    assert load_file(store.adapter_path(first.id) / ADAPTER_FILES[0])["a"].tolist() == [1.5] * 3
    assert store.rollback()["active"] == ids([first, second, third]) and answering(store) == ["own"] * 3
    assert store.rollback("v4")["adapters"] == {first.id: shared, third.id: shared}
    again = share(store, second, third)
    assert answering(store) == ["own", again, again]  # nobody answers from two


@pytest.mark.parametrize("change", ["disable", "forget", "replace"])
def test_without_one_of_them_all_answer_from_their_own_again(store, change):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    shared = share(store, first, second)
    add(store, 2, value=5.0) if change == "replace" else getattr(store, change)(second.id)
    assert set(answering(store)) == {"own"} and store.history()[-1]["apart"] == [first.id]
    assert len(adapter_folders(store)) == {"disable": 4, "forget": 2, "replace": 5}[change]
    if change != "forget":
        store.rollback()
        assert answering(store) == [shared, shared, "own"]


def test_a_shared_adapter_that_was_trained_on_what_is_forgotten_is_deleted_whoever_answers_from_it(store):
    first, second, rehearsed = (add(store, number) for number in (1, 2, 3))
    shared = store.share(adapter(9.0), [first, second], {}, [first, second, rehearsed])
    assert answering(store) == [shared, shared, "own"]
    assert store.forget(rehearsed.id)["apart"] == ids([first, second])
    assert answering(store) == ["own", "own"] and len(adapter_folders(store)) == 2
    store.rollback("v4")
    assert answering(store) == ["own", "own"] and store.verify()["faults"] == []


def test_a_shared_adapter_of_a_memory_that_is_gone_meanwhile_is_refused(store):
    first, second = add(store, 1), add(store, 2)
    store.disable(second.id)
    with pytest.raises(MemoryStoreError, match=f"memory {second.id} is no longer active"):
        share(store, first, second)
    assert len(adapter_folders(store)) == 2 and is_clean(store)


@pytest.mark.parametrize("name", [*ADAPTER_FILES, "record"])
def test_a_shared_adapter_that_was_changed_never_answers(store, name):
    first, second = add(store, 1), add(store, 2)
    share(store, first, second)
    if name == "record":
        by_hand(store, "UPDATE shared SET record = x'00'")
    else:
        (store.answering_path(first.id) / name).write_bytes(b"{}")
    with pytest.raises(MemoryStoreError, match="shared adapter .* is corrupt: .*memory consolidate` makes it anew"):
        store.answering_path(first.id)
    assert len(store.verify()["faults"]) == 1
    share(store, first, second)
    assert store.verify()["faults"] == [] and store.answering_path(first.id)


# Every hash again


def test_a_store_as_it_was_kept_has_no_faults(store):
    first, _ = add(store, 1), add(store, 2)
    store.disable(first.id)
    store.rollback()
    store.forget(first.id)
    assert store.verify() == {"memories": 1, "versions": 5, "faults": []}


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_changed_file_is_a_fault(store, name):
    entry, _ = add(store, 1), add(store, 2)
    flip_a_byte(folder_of(store, entry.id) / name)
    (fault,) = store.verify()["faults"]
    assert f"memory {entry.id} is corrupt: {name} has changed" in fault


def test_a_file_that_was_changed_behind_the_back_of_its_times_is_a_fault(store):
    entry = add(store, 1)
    file = folder_of(store, entry.id) / ADAPTER_FILES[0]
    flip_a_byte(file)
    by_hand(store, "UPDATE verified SET stamp = ?", adapters.stamp(file.parent))
    assert len(store.verify()["faults"]) == 1


COLUMNS = {
    "memories": "id passage_id model model_hash adapter adapter_hash created size_bytes record edits seal "
    "library".split(),
    "sources": "memory_id source seal".split(),
    "shared": "id adapter adapter_hash created record seal".split(),
    "active": "memory_id position shared".split(),
    "versions": "time action memories previous undo_to extra seal".split(),
    "changes": "version memory_id position_before position_after shared_before shared_after".split(),
}


@pytest.mark.parametrize("table, column", [(table, column) for table in COLUMNS for column in COLUMNS[table]])
@pytest.mark.parametrize("value", ["0123456789ab", 7])
def test_every_changed_value_is_a_fault(store, table, column, value):
    first, second = add(store, 1), add(store, 2)
    share(store, first, second)
    by_hand(
        store,
        f"UPDATE {table} SET {column} = ? WHERE rowid = 1"
        if table not in ("sources", "active", "changes")
        else f"UPDATE {table} SET {column} = ? WHERE memory_id = (SELECT memory_id FROM sources) "
        f"AND {'version = 1' if table == 'changes' else 1}",
        value,
    )
    try:
        assert store.verify()["faults"]
    except MemoryStoreError as error:
        assert "\n" not in str(error)


def test_a_memory_that_was_changed_together_with_its_hash_is_a_fault(store):
    entry = add(store, 1)
    connection = store._database.connection()
    packed, record = entries.packed(entry.passage, [], entry.scores)
    row = connection.execute("SELECT * FROM memories").fetchone()
    entries.insert(connection, (*row[:8], record), packed, entries.seal(*row[:8], record))
    assert store.edits(entry.id) == []
    assert f"memory {entry.id}: its record is not the one it was kept with" in store.verify()["faults"]


def test_a_state_that_was_changed_by_hand_is_a_fault(store):
    _, second = add(store, 1), add(store, 2)
    by_hand(store, "DELETE FROM active WHERE memory_id = ?", second.id)
    (fault,) = store.verify()["faults"]
    assert "the active memories are not those that the last version led to" in fault


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_changed_version_is_a_fault(store, version):
    first, _ = add(store, 1), add(store, 2)
    store.disable(first.id)
    by_hand(store, "UPDATE versions SET time = '1999' WHERE version = ?", version)
    (fault,) = store.verify()["faults"]
    assert f"version {version} or one before it has been changed" in fault


def test_versions_are_immutable(store):
    add(store, 1)
    for statement in (
        "DELETE FROM versions",
        "UPDATE versions SET time = ''",
        "DELETE FROM changes",
        "UPDATE changes SET version = 2",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            store._database.connection().execute(statement)


def test_a_version_keeps_only_what_it_changed(store):
    """Hence a memory more costs the same with ten memories as with a thousand."""
    for number in range(10):
        add(store, number)
    counts = store._database.connection().execute("SELECT count(*) FROM changes GROUP BY version").fetchall()
    assert counts == [(1,)] * 10


def test_a_former_state_is_the_same_whichever_way_it_is_computed(store):
    entries = [add(store, number) for number in range(4)]
    share(store, *entries[:2])
    add(store, 1, value=9.0), store.disable(entries[3].id), store.rollback("v2"), store.rollback()
    store.approve(entries[3].id), add(store, 7), store.forget(entries[2].id), store.rollback("v5")
    history, connection = store.history(), store._database.connection()
    for line in history:
        state = versions.former(connection, line["version"])
        assert versions.ordered(state) == line["active"]
        assert {id: place.shared for id, place in state.items() if place.shared} == line["adapters"]
    assert versions.former(connection, 0) == {} and store.active_ids() == history[-1]["active"]


def test_a_memory_in_force_that_is_lost_is_a_fault(store):
    entry = add(store, 1)
    shutil.rmtree(folder_of(store, entry.id))
    assert store.verify()["faults"] == [
        f"memory {entry.id} is not on disk, and nobody forgot it; `selfedit memory forget {entry.id}` ends that"
    ]


@pytest.mark.parametrize("out_of_force", ["disabled", "replaced", "quarantined"])
@pytest.mark.parametrize("lost", ["folder", "record"])
def test_a_memory_out_of_force_that_is_lost_is_a_fault_too_until_it_is_forgotten(store, out_of_force, lost):
    entry = add(store, 1, quarantine=out_of_force == "quarantined")
    if out_of_force != "quarantined":
        store.disable(entry.id) if out_of_force == "disabled" else add(store, 1, value=2.0)
    if lost == "folder":
        shutil.rmtree(folder_of(store, entry.id))
    else:
        by_hand(store, "DELETE FROM memories WHERE id = ?", entry.id)
        by_hand_left = store._database.connection().execute("DELETE FROM sources WHERE memory_id = ?", (entry.id,))
        assert by_hand_left.rowcount == 1
    lost_memory = (
        f"memory {entry.id} is not on disk, and nobody forgot it; `selfedit memory forget {entry.id}` ends that"
    )
    assert store.verify()["faults"][0] == lost_memory and store.verify()["faults"] == [lost_memory]
    store.forget(entry.id)
    assert store.verify()["faults"] == []


def test_memories_that_were_forgotten_meanwhile_remain_away(store):
    first, second = add(store, 1), add(store, 2)
    store.forget(first.id)
    assert store.remaining([first.id, second.id]) == [second]
    by_hand(store, "UPDATE memories SET record = x'00'")
    with pytest.raises(MemoryStoreError, match="corrupt"):
        store.remaining([second.id])


def test_a_store_of_a_newer_program_is_refused_in_one_line(store):
    add(store, 1)
    by_hand(store, f"PRAGMA user_version = {len(database.MIGRATIONS) + 1}")
    store = MemoryStore(store.home)
    for use in (store.active, store.rollback, lambda: add(store, 2)):
        with pytest.raises(
            MemoryStoreError, match="written by a newer selfedit .format 3, this one knows 2.; update selfedit"
        ):
            use()


def test_an_older_database_is_upgraded_once_and_whole(store, monkeypatch):
    first = add(store, 1)

    def fails(connection):
        connection.execute("CREATE TABLE more(x)")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, fails])
    with pytest.raises(MemoryStoreError, match="No space left"):
        MemoryStore(store.home).active()
    monkeypatch.setattr(
        database, "MIGRATIONS", [*database.MIGRATIONS[:-1], lambda c: c.execute("CREATE TABLE more(x)")]
    )
    for _ in range(2):
        assert MemoryStore(store.home).active() == [first]
    assert store._database.connection().execute("PRAGMA user_version").fetchone() == (3,)


# What fails leaves everything as it was


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
        (SafetensorError("I/O error: No space left on device"), "I/O error: No space left on device"),
    ],
)
def test_an_adapter_that_cannot_be_written_is_one_clear_line(store, error, reason):
    add(store, 1)
    before = sorted(store.home.rglob("*")), view(store)

    def fails(folder):
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise error

    with pytest.raises(MemoryStoreError, match=f"cannot write to .*: {reason}; correct that") as caught:
        add(store, 2, write=fails)
    assert str(store.home) in str(caught.value) and "\n" not in str(caught.value)
    assert (sorted(store.home.rglob("*")), view(store)) == before


def test_any_other_failure_passes_and_leaves_no_staging_folder(store):
    def interrupted(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(store, 1, write=interrupted)
    assert adapter_folders(store) == [] and is_clean(store) and store.active() == []


def test_a_full_disk_leaves_the_old_state(store):
    """SQLite's own limit stands for the end of the disk."""
    first = add(store, 1)
    before, folders = view(store), adapter_folders(store)
    connection = store._database.connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    noise = numpy.random.default_rng(0).bytes(20_000).hex()
    with pytest.raises(MemoryStoreError, match="cannot write to .*: database or disk is full; correct that"):
        store.add(
            adapter(5.0), model="t", model_hash="m" * 64, passage=Passage("", noise, "/a", ""), edits=(), scores={}
        )
    assert view(store) == before and adapter_folders(store) == folders and is_clean(store)
    connection.execute("PRAGMA max_page_count = 1000000")
    second = add(store, 2)
    assert store.active() == [first, second]


@pytest.fixture
def as_nobody(tmp_path):
    """Runs a function in a child process without the rights of the administrator; true if that raised nothing."""
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() == "root" and not folder.stat().st_mode & 1:
                os.chmod(folder, folder.stat().st_mode | 0o711)

    def run(act) -> bool:
        def child():
            if os.geteuid() == 0:
                os.setgid(65534), os.setuid(65534)
            act()

        return exit_code(in_another_process(child)) == 0

    return run


def read_only(home) -> None:
    for path in (home, *home.rglob("*")):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)


def test_a_read_only_home_is_read_and_refuses_writes_before_the_work(store, as_nobody):
    entry = add(store, 1)
    home = store.home
    store.close()
    read_only(home)

    def reads():
        reader = MemoryStore(home)
        assert reader.active() == [entry] and reader.get(entry.id[:6]) == entry and len(reader.history()) == 1
        assert reader.adapter_path(entry.id) and reader.router("m" * 64).route("Text 1")[0] == entry.id
        assert reader.verify()["faults"] == []
        for use in (reader.check_writable, lambda: add(reader, 2), reader.rollback, lambda: reader.forget(entry.id)):
            with pytest.raises(SelfeditError, match="cannot write to .*home.*(read-only|readonly|Permission)"):
                use()

    assert as_nobody(reads)


def test_a_home_that_cannot_be_made_is_noticed_before_the_work(tmp_path, as_nobody):
    read_only(tmp_path)

    def checks():
        with pytest.raises(SelfeditError, match="cannot write to .*home.*: Permission denied"):
            MemoryStore(tmp_path / "home").check_writable()

    assert as_nobody(checks)
    os.chmod(tmp_path, 0o755)


def test_a_home_that_can_be_written_passes_the_check(store):
    store.check_writable()
    assert store.active() == [] and store.verify() == {"memories": 0, "versions": 0, "faults": []}


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_a_home_that_is_a_file_or_below_one_is_one_clear_line(tmp_path, home):
    (tmp_path / "file").write_text("mine")
    store = MemoryStore(tmp_path / home)
    for use in (store.active, store.all, store.history, lambda: add(store, 1)):
        with pytest.raises(MemoryStoreError, match="cannot (read|write to) .*file.*: Not a directory"):
            use()
    assert (tmp_path / "file").read_text() == "mine"


# Other processes, and dying ones


def in_another_process(act) -> int:
    """The process id of a child that does `act` and exits with 0, or with 1 if that raises."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "VACUUM", "CREATE", "PRAGMA wal_checkpoint", "PRAGMA user_version")


def killed(act, at: int) -> bool:
    """Whether a process doing `act` came to its `at`-th write and died before it.

    Every statement that writes to a database counts, and every opening for writing, renaming, making and deleting.
    """
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == at:
            os._exit(99)

    def events(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"):
            step()

    def dying():
        real = sqlite3.connect

        def connect(*arguments, **options):
            connection = real(*arguments, **options)
            connection.set_trace_callback(lambda text: step() if text.startswith(WRITES) else None)
            return connection

        sqlite3.connect = connect
        sys.addaudithook(events)
        act()

    code = exit_code(in_another_process(dying))
    assert code in (0, 99)
    return code == 99


CHANGES = {
    "the first memory": ([], lambda store: add(store, 1)),
    "one more": ([1, 2], lambda store: add(store, 3)),
    "a newer one": ([1, 2], lambda store: add(store, 1, value=2.0)),
    "disabling": ([1, 2], lambda store: store.disable(store.active()[0].id)),
    "forgetting": ([1, 2], lambda store: store.forget(store.active()[0].id)),
    "undoing": ([1, 2], lambda store: store.rollback()),
    "consolidating": ([1, 2], lambda store: share(store, *store.active())),
    "consolidating again": ([1, 2], lambda store: store.share(adapter(7.0), store.active(), {})),
    "forgetting one that shares": ([1, 2], lambda store: store.forget(store.active()[0].id)),
}
SHARED = ("consolidating again", "forgetting one that shares")


def copied(source, target) -> MemoryStore:
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target)
    return MemoryStore(target)


def started(change: str, home):
    """A store on which the change can be made, closed."""
    store = MemoryStore(home)
    for number in CHANGES[change][0]:
        add(store, number)
    if change in SHARED:
        share(store, *store.active())
    store.close()


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_any_write_the_state_is_the_old_or_the_new_and_the_next_add_works(tmp_path, change):
    act = CHANGES[change][1]
    started(change, tmp_path / "start")
    store = copied(tmp_path / "start", tmp_path / "home")
    old, before = view(store), {*ids(store.all())}
    act(store)
    new = view(store)
    seen = []
    for at in itertools.count(1):
        home = tmp_path / f"home-{at}"
        store = copied(tmp_path / "start", home)
        if not killed(lambda: act(store), at):  # noqa: B023
            break
        found = view(store)
        assert found in (old, new)
        seen.append(found)
        forgotten = before - {*ids(store.all())}
        entry = add(store, 9)
        assert view(store) == (found[0] + [entry.id], found[1] + [("keep", [entry.id], found[0] + [entry.id])])
        assert all(store.adapter_path(id) for id in ids(store.all()))
        assert is_clean(store) and store.verify()["faults"] == []
        assert not forgotten or len(adapter_folders(store)) == len(store.all())
        shutil.rmtree(home)
    assert view(store) == new and len(seen) >= 3 and old in seen
    assert seen == sorted(seen, key=lambda state: state == new), "once new, always new"


def test_whatever_part_of_the_log_reached_the_disk_the_state_is_the_old_or_the_new(tmp_path):
    """Killed amid the bytes of a commit: SQLite's log is cut at every page and within pages."""
    started("one more", tmp_path / "start")
    store = copied(tmp_path / "start", tmp_path / "home")
    old = view(store)

    def dies_after():
        add(store, 3)
        os._exit(0)

    assert exit_code(in_another_process(dies_after)) == 0
    shutil.copytree(tmp_path / "home", tmp_path / "killed")
    new, log = view(store), (tmp_path / "killed/memory.db-wal").read_bytes()
    assert new != old and len(log) > 8000
    states = []
    for length in [*range(0, len(log), 1500), len(log)]:
        cut = copied(tmp_path / "killed", tmp_path / "cut")
        (tmp_path / "cut/memory.db-wal").write_bytes(log[:length])
        (tmp_path / "cut/memory.db-shm").unlink()
        states.append(view(cut))
        assert states[-1] in (old, new)
        add(cut, 9)
        assert cut.verify()["faults"] == []
        cut.close()
    assert states[0] == old and states[-1] == new


def test_two_processes_adding_at_once_both_land(store):
    def adds(numbers):
        return lambda: [add(MemoryStore(store.home, lock_timeout_s=120), number) for number in numbers]

    children = [in_another_process(adds(range(start, start + 5))) for start in (0, 5)]
    assert [exit_code(child) for child in children] == [0, 0]
    assert {entry.passage.title for entry in store.active()} == {f"Title {number}" for number in range(10)}
    assert [line["version"] for line in store.history()] == list(range(1, 11))


def test_a_journal_that_has_nothing_to_drop_is_not_touched(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "trials.jsonl")
    journal.add({"number": 1})
    monkeypatch.setattr(disk, "file_lock", None)  # as on a disk that cannot be written
    journal.drop(lambda record: record["number"] > 1)
    assert journal.records == [{"number": 1}]


def test_what_is_added_to_a_journal_while_others_drop_from_it_is_kept(tmp_path):
    file = tmp_path / "trials.jsonl"

    def drops():
        for _ in range(200):
            Journal(file).drop(lambda record: record["even"])

    child, own = in_another_process(drops), Journal(file)
    for number in range(200):
        own.add({"number": number, "even": number % 2 == 0})
    assert exit_code(child) == 0
    Journal(file).drop(lambda record: record["even"])
    assert [record["number"] for record in Journal(file).records] == list(range(1, 200, 2))


def test_a_reader_beside_a_busy_writer_sees_whole_states_only(tmp_path):
    store = MemoryStore(tmp_path / "home", lock_timeout_s=120)
    kept: list[str] = []
    states = [[]]
    for number in range(15):
        states.append([*kept, f"Title {number}"])
        if number % 2 == 0:
            kept.append(f"Title {number}")

    def writes():
        for number in range(15):
            entry = add(store, number)
            if number % 2:
                store.forget(entry.id)

    child = in_another_process(writes)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert [entry.passage.title for entry in store.active()] in states
        store.all(), store.history()
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert [entry.passage.title for entry in store.active()] == kept and len(kept) == 8


def test_a_lock_that_another_process_holds_is_one_clear_line(store):
    add(store, 1)
    reading, writing = os.pipe()

    def holds():
        connection = sqlite3.connect(store.home / "memory.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        os.write(writing, b"locked")
        signal.pause()

    child = in_another_process(holds)
    assert os.read(reading, 6) == b"locked"
    try:
        impatient = MemoryStore(store.home, lock_timeout_s=0.1)
        with pytest.raises(MemoryStoreError, match="another selfedit process is writing to .*; wait or end it"):
            add(impatient, 2)
        assert len(impatient.active()) == 1  # readers need no lock
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len([add(store, 2), *store.active()]) == 3  # the lock died with its holder


def test_threads_of_one_process_write_to_one_store(tmp_path):
    store = MemoryStore(tmp_path / "home", lock_timeout_s=120)

    def adds(numbers):
        for number in numbers:
            add(store, number)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(adds, (range(4), range(4, 8))))
    assert len(store.active()) == 8 and is_clean(store)


def test_two_processes_create_one_database(tmp_path, monkeypatch):
    path, opens = tmp_path / "memory.db", database._open

    def version(connection) -> int:
        with contextlib.closing(connection):
            return connection.execute("PRAGMA user_version").fetchone()[0]

    def interrupted(at, seen, outcomes, *arguments):
        """A connection that another process is faster than, before its `at`-th statement."""
        connection = opens(*arguments)

        def trace(statement):
            """SQLite ignores what this raises."""
            if statement.startswith("--"):  # a part of a statement
                return
            if len(seen) < at:
                seen.append(statement)
                return
            connection.set_trace_callback(None)
            monkeypatch.setattr(database, "_open", opens)
            try:
                outcomes.append(version(database.connect(path, timeout_s=0.1)))
            except Exception as error:
                outcomes.append(error)

        connection.set_trace_callback(trace)
        return connection

    places = []
    for at in range(9):
        seen, outcomes = [], []
        monkeypatch.setattr(database, "_open", partial(interrupted, at, seen, outcomes))
        assert version(database.connect(path)) == len(database.MIGRATIONS)
        (outcome,) = outcomes
        places.append("BEGIN IMMEDIATE" in seen)
        assert isinstance(outcome, sqlite3.OperationalError) if places[-1] else outcome == len(database.MIGRATIONS)
        for file in tmp_path.iterdir():
            file.unlink()
    assert places.count(False) > 4 and places.count(True) > 1


def test_the_first_writers_of_a_home_wait_for_each_other(tmp_path):
    path = tmp_path / "memory.db"
    database.connect(path).close()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE")  # as SQLite creates it
    other.execute("BEGIN IMMEDIATE")
    ends = threading.Timer(0.3, other.close)
    ends.start()
    with contextlib.closing(database.connect(path, timeout_s=10)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ends.join()


def test_a_child_process_uses_a_connection_of_its_own(store):
    first = add(store, 1)

    def uses():
        assert store.active() == [first]
        add(store, 2)

    assert exit_code(in_another_process(uses)) == 0
    assert len(store.active()) == 2 and len([add(store, 3), *store.active()]) == 4


# What is forgotten leaves no trace


def traces(home, secrets) -> list:
    """Where 12 bytes of any of the secrets are, in any file of the home."""
    windows = {bytes(secret[low : low + 12]) for secret in secrets for low in range(0, max(1, len(secret) - 11), 97)}
    return [
        (path.name, window)
        for path in home.rglob("*")
        if path.is_file()
        for data in [path.read_bytes()]
        for window in windows
        if window in data
    ]


def noisy(generator, number: int) -> tuple[Passage, list[SelfEdit], dict]:
    """A passage of words that nothing else has."""
    words = lambda count: " ".join(f"w{generator.bytes(6).hex()}" for _ in range(count))  # noqa: E731
    size = int(generator.integers(60, 400))  # fewer would be coded like others of their length
    passage = Passage(words(2), words(size), f"/secret-{generator.bytes(8).hex()}/{number}.txt", "")
    return passage, [SelfEdit("rewrite", words(size), (Example(words(size)),))], {"questions": [{"question": words(9)}]}


@pytest.mark.parametrize("seed", range(2))
def test_no_byte_of_what_was_forgotten_is_left_in_any_file(store, seed):
    """Not in a free page, not in the log, not in the index: also while other connections are open."""
    generator, secrets, kept = numpy.random.default_rng(seed), [], {}
    reader = MemoryStore(store.home)
    for number in range(36):
        passage, edits, scores = noisy(generator, number)
        entry = store.add(
            adapter(generator.random()),
            model="tiny",
            model_hash="m" * 64,
            passage=passage,
            edits=edits,
            scores=scores,
            quarantine=number % 7 == 0,
        )
        store.add_sources({entry.id: {f"/copy-{generator.bytes(8).hex()}"}})
        Journal(store.home / "runs/learn-x/trials.jsonl").add({"passage": passage.id, "title": passage.title})
        disk.add_line(store.home / REPLIES, disk.json_line({"key": "k", "text": passage.text}))
        sources = [
            source.encode()
            for (source,) in store._database.connection().execute(
                "SELECT source FROM sources WHERE memory_id = ?", (entry.id,)
            )
        ]
        blobs = (
            store._database.connection()
            .execute("SELECT record, edits FROM memories WHERE id = ?", (entry.id,))
            .fetchone()
        )
        words = [word.encode() for text in (passage.title, passage.text, edits[0].text) for word in text.split()[::9]]
        weights = (store.adapter_path(entry.id) / ADAPTER_FILES[0]).read_bytes()[-12:]
        kept[entry.id] = [*words, *sources, *(blob[100:] for blob in blobs), weights]
        reader.active_ids()
        if number % 5 == 4:
            share(store, *store.active()[:2])
        if number % 3 == 2:
            id = [*kept][int(generator.integers(len(kept)))]
            secrets = kept.pop(id)
            store.forget(id)
            assert traces(store.home, secrets) == []
    assert traces(store.home, [secret for own in kept.values() for secret in own])  # the search finds what is there
    for id in [*kept]:
        store.forget(id)
    assert traces(store.home, [secret for own in kept.values() for secret in own]) == [] and store.all() == []
    assert store.verify()["faults"] == []


def test_while_another_process_reads_forgetting_says_what_is_left_and_the_next_change_ends_it(store):
    entry = add(store, 1)
    secret = store._database.connection().execute("SELECT record FROM memories").fetchone()[0][-24:]
    impatient = MemoryStore(store.home, lock_timeout_s=0.1)
    reader = sqlite3.connect(store.home / "memory.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM active").fetchall()
    line = impatient.forget(entry.id)
    assert "the next change" in line["note"] and traces(store.home, [secret])
    reader.execute("ROLLBACK")
    add(impatient, 2)
    assert traces(store.home, [secret]) == [] and is_clean(store)
