import errno
import itertools
import json
import os
import shutil
import signal
import sys
import traceback

import numpy
import pytest
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from selfedit import disk
from selfedit.errors import MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory.folders import ADAPTER_FILES, Folders
from selfedit.memory.store import MemoryStore, default_home
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


def add(store: MemoryStore, number: int, value: float = 1.0, model_hash: str = "m" * 64, write=None):
    """Keeps the memory of passage `number`; another value is another adapter, so another id."""
    return store.add(
        write or adapter(value),
        model="tiny",
        model_hash=model_hash,
        passage=passage(number),
        edits=EDITS,
        scores={"before": {"accuracy": 0.0, "gold_logprob": None}, "after": {"accuracy": 0.5}},
    )


def ids(entries) -> list[str]:
    return [entry.id for entry in entries]


def view(store: MemoryStore):
    """All that a user sees of the state, without times and version numbers."""
    return ids(store.active()), [(line["action"], line["memories"], line["active"]) for line in store.history()]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path) -> MemoryStore:
    return MemoryStore(tmp_path / "home", lock_timeout_s=2.0)


# What is kept comes back


def test_everything_that_is_kept_can_be_read_back(store):
    entry = add(store, 7)
    reopened = MemoryStore(store.home)
    assert reopened.get(entry.id) == entry and reopened.active() == reopened.all() == [entry]
    assert reopened.edits(entry.id) == list(EDITS)
    assert (entry.model, entry.model_hash, entry.passage) == ("tiny", "m" * 64, passage(7))
    assert entry.scores == {"before": {"accuracy": 0.0, "gold_logprob": None}, "after": {"accuracy": 0.5}}
    folder = reopened.adapter_path(entry.id)
    assert load_file(folder / "adapter_model.safetensors")["a"].tolist() == [1.0, 1.0, 1.0]
    assert entry.size_bytes == sum(p.stat().st_size for p in folder.iterdir() if p.name != "manifest.json")
    assert sorted(path.name for path in store.home.iterdir()) == [".lock", "HEAD", "ledger.jsonl", "memories"]
    assert (store.home / "HEAD").read_text() == "1\n"


def test_the_id_depends_on_adapter_passage_and_model_alone(store, tmp_path):
    entry = add(store, 1)
    assert len(entry.id) == 12 and add(MemoryStore(tmp_path / "other"), 1).id == entry.id
    others = [add(store, 2), add(store, 1, value=2.0), add(store, 1, model_hash="n" * 64)]
    assert len({entry.id, *ids(others)}) == 4


def test_a_missing_home_is_an_empty_store_and_stays_missing(store):
    assert store.active() == store.all() == store.history() == []
    with pytest.raises(MemoryStoreError, match="no memory in .* has an id, a source or a day 'abc'"):
        store.disable("abc")
    assert not store.home.exists()


def test_reading_never_writes(store):
    entry = add(store, 1)

    def read():
        reader = MemoryStore(store.home)
        reader.active(), reader.all(), reader.history()
        reader.get(entry.id), reader.edits(entry.id), reader.adapter_path(entry.id)

    assert not killed(read, at=1)


def test_the_home_is_that_of_the_environment_or_the_data_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("SELFEDIT_HOME")
    assert default_home().name == "selfedit"


def test_active_memories_can_be_asked_for_one_model(store):
    first, second = add(store, 1), add(store, 1, model_hash="n" * 64)
    assert store.active() == [first, second] and store.active("n" * 64) == [second]


# What changes


def test_adding_the_same_again_changes_nothing(store):
    entry = add(store, 1)
    before = (store.home / "ledger.jsonl").read_bytes()
    assert add(store, 1) == entry
    assert (store.home / "ledger.jsonl").read_bytes() == before


def test_adding_what_was_forgotten_makes_it_active_again(store):
    entry = add(store, 1)
    store.disable(entry.id)
    assert store.active() == [] and store.all() == [entry]
    assert add(store, 1) == entry and store.active() == [entry]


def test_adding_what_lies_there_corrupt_mends_it(store):
    entry = add(store, 1)
    flip_a_byte(store.home / "memories" / entry.id / "adapter_model.safetensors")
    assert add(store, 1).id == entry.id
    assert store.adapter_path(entry.id)


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
    assert [path.name for path in (store.home / "memories").iterdir()] == [second.id]
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
        store.add(adapter(1.0), model="tiny", model_hash="m" * 64, passage=p, edits=EDITS, scores={})
        for p in (one, other)
    ]
    stays = add(store, 3)
    run = Journal(store.home / "runs/learn-x/trials.jsonl")
    for p in (one, other, stays.passage):
        run.add({"passage": p.id, "title": p.title})
    store.disable(kept[0].id)
    assert store.forget("report.pdf")["memories"] == ids(kept)
    assert store.all() == store.active() == [stays]
    left = [path.read_bytes() for path in store.home.rglob("*") if path.is_file()]
    assert not any(b"Secret" in data or b"Part" in data or b"report.pdf" in data for data in left)
    assert [r["passage"] for r in Journal(run.file).records] == [stays.passage.id]


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
    assert [line["action"] for line in store.history()] == ["keep", "source"] and store.history()[-1]["sources"] == [
        a,
        b,
    ]
    new = keep(store, "New.", a, "6" * 64)
    assert store.supersede([new.passage], "m" * 64) == [] and store.active() == [both, new]  # b still says it
    assert store.supersede([Passage("A", "Other.", b, "7" * 64)], "m" * 64) == [both.id] and store.active() == [new]
    assert store.verify()["faults"] == []


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


def test_what_was_taken_out_of_force_meanwhile_is_not_superseded(store, monkeypatch):
    old = keep(store, "Old.")
    keep(store, "New.", source_hash="6" * 64)
    real = MemoryStore.active
    monkeypatch.setattr(
        MemoryStore,
        "active",
        lambda self, *given: (real(self, *given), old.id in self.active_ids() and self.disable(old.id))[0],
    )
    store.supersede([Passage("A", "New.", "/docs/a.txt", "6" * 64)], "m" * 64)
    assert store.history()[-1]["action"] == "disable"


def test_what_changes_while_hashes_are_checked_is_no_fault(store, monkeypatch):
    first, real = add(store, 0), Folders.load_all

    def meanwhile(folders, id):
        monkeypatch.setattr(Folders, "load_all", real)
        other = MemoryStore(store.home)
        other.forget(first.id)
        add(other, 1)
        return real(folders, id)

    monkeypatch.setattr(Folders, "load_all", meanwhile)
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
    with pytest.raises(MemoryStoreError, match="an id, a source or a day 'nothing.txt'"):
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
    assert all((store.adapter_path(entry.id) / name).read_bytes() == data for name, data in exported.items())
    assert json.loads(exported["source.json"])["source"] == "/docs/1.txt"


def test_an_export_overwrites_nothing(store, tmp_path):
    entry = add(store, 1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MemoryStoreError, match="is not empty"):
        store.export(entry.id, tmp_path)
    with pytest.raises(MemoryStoreError, match="cannot export to .*file: Not a directory"):
        store.export(entry.id, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_memory_is_found_by_the_start_of_its_id_if_that_is_unique(store):
    entries = [add(store, number) for number in range(20)]  # 20 ids, 16 first characters
    assert all(store.get(entry.id[:11]) == entry for entry in entries)
    shared = next(c for c in "0123456789abcdef" if sum(entry.id.startswith(c) for entry in entries) > 1)
    with pytest.raises(MemoryStoreError, match="fits .* memories .*; give more characters"):
        store.get(shared)
    for unknown in ("", "x", "../" + entries[0].id):
        with pytest.raises(MemoryStoreError, match="no memory"):
            store.get(unknown)


# What is damaged is named


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_corrupt_adapter_is_never_handed_out(store, name):
    entry, other = add(store, 1), add(store, 2)
    assert store.adapter_path(entry.id)
    flip_a_byte(store.home / "memories" / entry.id / name)
    for use in (store.adapter_path, lambda id: store.export(id, store.home / "exported")):
        with pytest.raises(MemoryStoreError, match=f"{entry.id} is corrupt: {name} .*memory forget {entry.id}`"):
            use(entry.id)
    store.forget(entry.id)
    assert store.active() == [other]


@pytest.mark.parametrize("name", ["manifest.json", "source.json", "scores.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "garbled", "edited"])
def test_a_corrupt_memory_is_named_and_can_be_forgotten(store, name, damage):
    entry, other = add(store, 1), add(store, 2)
    path = store.home / "memories" / entry.id / name
    if damage == "gone":
        path.unlink()
    elif damage == "edited":
        path.write_text(path.read_text().replace("m" * 64, "n" * 64).replace("Text", "Test").replace("0.5", "0.9"))
    else:
        path.write_bytes(b"" if damage == "empty" else b"[1, {}]\xff")
    for read in (store.active, store.all, lambda: store.get(entry.id)):
        with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt: .*memory forget {entry.id}`"):
            read()
    store.forget(entry.id)
    assert store.active() == store.all() == [other]


def test_a_memory_whose_folder_is_lost_can_still_be_forgotten(store):
    entry = add(store, 1)
    shutil.rmtree(store.home / "memories" / entry.id)
    with pytest.raises(MemoryStoreError, match=f"memory {entry.id} is corrupt"):
        store.active()
    store.forget(entry.id)
    assert store.active() == []


@pytest.mark.parametrize("head", [None, "", "two", "99"])
def test_a_lost_or_garbled_head_is_an_error_that_says_how_to_mend_it(store, head):
    first, second = add(store, 1), add(store, 2)
    path = store.home / "HEAD"
    path.unlink() if head is None else path.write_text(head)
    for use in (store.active, store.history, store.rollback, lambda: add(store, 3)):
        with pytest.raises(MemoryStoreError, match=r"HEAD (is missing|says).* write a version into HEAD: 0 .* to 2 "):
            use()
    path.write_text("2")
    assert store.active() == [first, second]


def test_a_lost_ledger_is_an_error_and_the_memories_survive_it(store):
    entry = add(store, 1)
    (store.home / "ledger.jsonl").unlink()
    with pytest.raises(MemoryStoreError, match="HEAD says b'1.*no version in ledger.jsonl"):
        store.active()
    (store.home / "HEAD").write_text("0")
    assert store.active() == [] and store.all() == [entry]
    assert add(store, 1) == entry and store.active() == [entry]
    (store.home / "ledger.jsonl").unlink()
    (store.home / "HEAD").unlink()
    with pytest.raises(MemoryStoreError, match="HEAD is missing"):
        store.active()


def test_a_gap_in_the_ledger_is_an_error_where_the_history_is_needed(store):
    first, second, _ = (add(store, number) for number in (1, 2, 3))
    lines = (store.home / "ledger.jsonl").read_text().splitlines(keepends=True)
    (store.home / "ledger.jsonl").write_text(lines[0] + "garbage\n[]\n{}\n" + lines[2])
    assert len(store.active()) == 3
    with pytest.raises(MemoryStoreError, match="has lost version 2"):
        store.rollback()


@pytest.mark.parametrize(
    "field, value",
    [
        ("active", "abc"),
        ("active", [1]),
        ("memories", None),
        ("adapters", []),
        ("previous", "1"),
        ("check", 5),
        ("version", 7),
    ],
)
def test_a_line_whose_fields_are_of_another_kind_is_no_version(store, field, value):
    add(store, 1)
    path = store.home / "ledger.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}) + "\n")
    for use in (store.active, store.verify, lambda: add(store, 2)):
        with pytest.raises(MemoryStoreError, match="restore HEAD and ledger.jsonl from a backup"):
            use()


@pytest.mark.parametrize("torn", ['{"version": 2, "ti', "\xff", ""])
def test_a_torn_last_ledger_line_is_tolerated_and_the_next_starts_afresh(store, torn):
    first = add(store, 1)
    with (store.home / "ledger.jsonl").open("a", encoding="latin-1") as ledger:
        ledger.write(torn)
    assert store.active() == [first]
    second = add(store, 2)
    assert store.active() == [first, second] and store.rollback()["active"] == [first.id]


def test_a_line_that_no_head_ever_named_is_no_version(store):
    first, second = add(store, 1), add(store, 2)
    (store.home / "HEAD").write_text("1\n")  # as if killed between ledger and HEAD
    with pytest.raises(MemoryStoreError, match="no version 2"):
        store.rollback("2")
    with pytest.raises(MemoryStoreError, match="was never active"):
        store.rollback(second.id)
    third = add(store, 3)
    assert [line["version"] for line in store.history()] == [1, 3]
    assert store.active() == [first, third] and store.rollback()["active"] == [first.id]


# One adapter for several memories


def share(store: MemoryStore, *entries) -> str:
    return store.share(adapter(9.0), entries, {"general_change": 0.1})


def answering(store: MemoryStore) -> list[str]:
    """The folder that answers for each memory in force: `own` or the shared adapter's id."""
    return [
        "own" if store.answering_path(id).parent.name == "memories" else store.answering_path(id).name
        for id in store.active_ids()
    ]


def test_memories_that_share_an_adapter_answer_from_it_and_keep_their_own(store):
    first, second, third = (add(store, number) for number in (1, 2, 3))
    shared = share(store, first, third)
    assert answering(store) == [shared, "own", shared] and store.verify()["faults"] == []
    assert load_file(store.answering_path(first.id) / ADAPTER_FILES[0])["a"].tolist() == [9.0] * 3
    assert load_file(store.adapter_path(first.id) / ADAPTER_FILES[0])["a"].tolist() == [1.0] * 3
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
    assert (store.home / "shared" / shared).exists() == (change != "forget")
    if change != "forget":
        store.rollback()
        assert answering(store) == [shared, shared, "own"]


def test_a_shared_adapter_that_was_trained_on_what_is_forgotten_is_deleted_whoever_answers_from_it(store):
    first, second, rehearsed = (add(store, number) for number in (1, 2, 3))
    shared = store.share(adapter(9.0), [first, second], {}, [first, second, rehearsed])
    assert answering(store) == [shared, shared, "own"]
    assert store.forget(rehearsed.id)["apart"] == ids([first, second])
    assert answering(store) == ["own", "own"] and not [*(store.home / "shared").iterdir()]
    store.rollback("v4")
    assert answering(store) == ["own", "own"] and store.verify()["faults"] == []


def test_a_shared_adapter_of_a_memory_that_is_gone_meanwhile_is_refused(store):
    first, second = add(store, 1), add(store, 2)
    store.disable(second.id)
    with pytest.raises(MemoryStoreError, match=f"memory {second.id} was taken out of force meanwhile"):
        share(store, first, second)
    assert not (store.home / "shared").exists()


@pytest.mark.parametrize("name", [ADAPTER_FILES[0], "manifest.json"])
def test_a_shared_adapter_that_was_changed_never_answers(store, name):
    first, second = add(store, 1), add(store, 2)
    file = store.home / "shared" / share(store, first, second) / name
    file.write_bytes(b"{}")
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


@pytest.mark.parametrize("name", [*ADAPTER_FILES, "edits.jsonl", "source.json", "scores.json"])
def test_a_changed_file_is_a_fault(store, name):
    entry, _ = add(store, 1), add(store, 2)
    flip_a_byte(store.home / "memories" / entry.id / name)
    (fault,) = store.verify()["faults"]
    assert f"memory {entry.id} is corrupt: {name} has changed" in fault


def test_edits_that_were_changed_together_with_their_hash_are_a_fault(store):
    entry = add(store, 1)
    folder = store.home / "memories" / entry.id
    (folder / "edits.jsonl").write_bytes(b"")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["edits.jsonl"] = disk.file_hash(folder / "edits.jsonl")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert store.verify()["faults"] == [f"memory {entry.id}: manifest.json is not the one it was kept with"]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_changed_line_of_the_ledger_is_a_fault(store, version):
    first, _ = add(store, 1), add(store, 2)
    store.disable(first.id)
    path = store.home / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[version - 1] = lines[version - 1].replace('"time": "20', '"time": "19')
    path.write_text("".join(lines))
    (fault,) = store.verify()["faults"]
    assert f"version {version} or one before it has been changed" in fault


def test_a_memory_in_force_that_is_lost_is_a_fault(store):
    entry = add(store, 1)
    shutil.rmtree(store.home / "memories" / entry.id)
    assert store.verify()["faults"] == [
        f"memory {entry.id} is not on disk, and nobody forgot it; `selfedit memory forget {entry.id}` ends that"
    ]


@pytest.mark.parametrize("out_of_force", ["disabled", "replaced", "quarantined"])
def test_a_memory_out_of_force_that_is_lost_is_a_fault_too_until_it_is_forgotten(store, out_of_force):
    if out_of_force == "quarantined":
        entry = store.add(
            adapter(1.0), model="tiny", model_hash="m" * 64, passage=passage(1), edits=EDITS, scores={}, quarantine=True
        )
    else:
        entry = add(store, 1)
        store.disable(entry.id) if out_of_force == "disabled" else add(store, 1, value=2.0)
    shutil.rmtree(store.home / "memories" / entry.id)
    assert store.verify()["faults"] == [
        f"memory {entry.id} is not on disk, and nobody forgot it; `selfedit memory forget {entry.id}` ends that"
    ]
    store.forget(entry.id)
    assert store.verify()["faults"] == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_line_that_claims_to_be_of_the_time_before_there_were_checks_is_a_fault(store, version):
    _, second = add(store, 1), add(store, 2)
    path = store.home / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[version - 1] |= {"format": 0, "active": [second.id]}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(store.verify()["faults"]) == 1


def test_memories_that_were_forgotten_meanwhile_remain_away(store):
    first, second = add(store, 1), add(store, 2)
    store.forget(first.id)
    assert store.remaining([first.id, second.id]) == [second]
    flip_a_byte(store.home / "memories" / second.id / "source.json")
    with pytest.raises(MemoryStoreError, match="corrupt"):
        store.remaining([second.id])


def test_a_store_of_a_newer_program_is_refused_in_one_line(store):
    add(store, 1)
    path = store.home / "ledger.jsonl"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    for use in (store.active, store.rollback, lambda: add(store, 2)):
        with pytest.raises(
            MemoryStoreError, match="written by a newer selfedit .format 2, this one knows 1.; update selfedit"
        ):
            use()


def test_a_store_of_an_older_program_goes_on(store):
    first, second = add(store, 1), add(store, 2)
    old = [
        {
            "version": 1,
            "time": "t",
            "action": "keep",
            "memory": first.id,
            "active": [first.id],
            "previous": 0,
            "undo_to": 0,
        },
        {
            "version": 2,
            "time": "t",
            "action": "keep",
            "memory": second.id,
            "active": [first.id, second.id],
            "previous": 1,
            "undo_to": 1,
        },
        {
            "version": 3,
            "time": "t",
            "action": "forget",
            "memory": first.id,
            "active": [second.id],
            "previous": 2,
            "undo_to": 2,
        },
    ]
    (store.home / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    (store.home / "HEAD").write_text("3\n")
    assert store.active() == [second] and [line["action"] for line in store.history()] == ["keep", "keep", "disable"]
    assert store.rollback()["active"] == [first.id, second.id] and ids(store.all()) == [first.id, second.id]
    assert store.verify()["faults"] == []


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
    assert list((store.home / "memories").iterdir()) == [] and store.active() == []


def test_a_disk_that_is_full_at_any_write_leaves_the_old_state(store, monkeypatch):
    first = add(store, 1)
    before, write, failures = view(store), disk.write, 0
    while True:
        countdown = iter(range(failures, -1, -1))

        def fails(path, data, mode="wb"):
            if next(countdown, None) == 0:
                write(path, data[: len(data) // 2], mode)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(path, data, mode)

        monkeypatch.setattr(disk, "write", fails)
        try:
            second = add(store, 2)
            break
        except MemoryStoreError:
            assert view(store) == before and not list(store.home.glob("memories/.staging-*"))
            failures += 1
    assert failures == 6  # edits, source, scores, manifest, ledger, HEAD
    assert store.active() == [first, second]


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


def killed(act, at: int, amid: bool = False) -> bool:
    """Whether a process doing `act` came to its `at`-th write and died there: before it, or amid its bytes.

    Before: every opening for writing, renaming, making and deleting counts. Amid: every `disk.write`.
    """
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return count == at

    def before_events(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")) and step():
            os._exit(99)

    def amid_bytes(path, data, mode="wb"):
        with path.open(mode) as file:
            file.write(data[: len(data) // 4] if step() else data)
        if count == at:
            os._exit(99)

    def dying():
        if amid:
            disk.write = amid_bytes
        else:
            sys.addaudithook(before_events)
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


@pytest.mark.parametrize("amid", [False, True], ids=["before a write", "amid a write"])
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_any_write_the_state_is_the_old_or_the_new_and_the_next_add_works(tmp_path, change, amid):
    numbers, act = CHANGES[change]
    start = MemoryStore(tmp_path / "start")
    for number in numbers:
        add(start, number)
    if change in SHARED:
        share(start, *start.active())
    home = tmp_path / "home"

    def fresh() -> MemoryStore:
        shutil.rmtree(home, ignore_errors=True)
        if numbers:
            shutil.copytree(start.home, home)
        return MemoryStore(home)

    store = fresh()
    old = view(store)
    act(store)
    new = view(store)
    seen = []
    for at in itertools.count(1):
        store = fresh()
        if not killed(lambda: act(store), at, amid):
            break
        found = view(store)
        assert found in (old, new)
        seen.append(found)
        forgotten = {entry.id for entry in start.active()} - {*ids(store.all())}

        entry = add(store, 9)
        assert view(store) == (found[0] + [entry.id], found[1] + [("keep", [entry.id], found[0] + [entry.id])])
        assert all(store.adapter_path(id) for id in ids(store.all()))
        assert not [*home.glob("memories/.staging-*"), *home.glob("shared/.staging-*")]
        assert not [id for id in forgotten if (home / "memories" / id).exists()]
        assert not forgotten or not [*home.glob("shared/[!.]*")]
    assert view(store) == new and len(seen) >= 2 and old in seen
    assert seen == sorted(seen, key=lambda state: state == new), "once new, always new"


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


def test_a_reader_beside_a_busy_writer_sees_whole_states_only(store):
    def writes():
        for number in range(15):
            entry = add(store, number)
            if number % 2:
                store.forget(entry.id)

    child = in_another_process(writes)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        titles = [entry.passage.title for entry in store.active()]
        assert titles == [f"Title {2 * number}" for number in range(len(titles))] or titles[-1][-1] in "13579"
        store.all(), store.history()
    assert len(store.active()) == 8


def test_a_lock_that_another_process_holds_is_one_clear_line(store):
    add(store, 1)
    reading, writing = os.pipe()

    def holds():
        with FileLock(store.home / ".lock"):
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
