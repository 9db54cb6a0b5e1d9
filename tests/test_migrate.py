"""Homes of selfedit 0.1 become databases: once, whole or not at all, and what was damaged stays named."""

import contextlib
import itertools
import json
import os
import shutil

import pytest
from old_home import OldHome
from test_store import (
    EDITS,
    adapter,
    as_nobody,
    exit_code,
    flip_a_byte,
    ids,
    in_another_process,
    killed,
    read_only,
    view,
)

from selfedit.errors import MemoryStoreError
from selfedit.loop.journal import Journal
from selfedit.memory.adapters import ADAPTER_FILES, BEFORE_MIGRATION
from selfedit.memory.store import MemoryStore
from selfedit.types import Passage

assert as_nobody  # a fixture
SCORES = {"before": {"accuracy": 0.0}, "after": {"accuracy": 0.5}, "questions": []}


def passage(number: int, source: str | None = None) -> Passage:
    return Passage(f"Title {number}", f"Text {number}.", source or f"/docs/{number}.txt", f"{number:064x}", number)


def filled(home, format: int = 1):
    """Four memories: two in force, one of them from two sources; one disabled, one in quarantine."""
    old = OldHome(home, format)
    kept = [old.keep(passage(number), list(EDITS), SCORES, adapter(number)) for number in range(3)]
    if format:
        old.line("source", [kept[0].id], old.active, sources=["/docs/0.txt", "/copy.txt"], undo_to=2)
    old.line("disable", [kept[1].id], [kept[0].id, kept[2].id])
    if format:
        entry = old.keep(passage(3), list(EDITS), SCORES, adapter(3), action="quarantine", active=old.active, undo_to=4)
        kept.append(entry)
        old.share(adapter(9.0), [kept[0].id, kept[2].id])
    Journal(home / "runs/learn-x/trials.jsonl").add({"passage": kept[0].passage.id, "title": "Title 0"})
    return old, kept


def tree(home) -> dict:
    return {p.relative_to(home): p.read_bytes() for p in home.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("format", [0, 1])
def test_an_old_home_goes_on_as_it_was(tmp_path, format):
    home = tmp_path / "home"
    old, kept = filled(home, format)
    store = MemoryStore(home)
    assert store.active() == [kept[0], kept[2]] and store.all() == kept
    assert [store.edits(entry.id) for entry in kept] == [list(EDITS)] * len(kept)
    lines = store.history()
    assert [line["active"] for line in lines] == [line["active"] for line in old.lines]
    assert [(line["version"], line["time"]) for line in lines] == [
        (line["version"], line["time"]) for line in old.lines
    ]
    actions = ["keep"] * 3 + (["source", "disable", "quarantine", "consolidate"] if format else ["disable"])
    assert [line["action"] for line in lines] == actions
    assert store.router("m" * 64).best("Text 2", 1)[0][0] == kept[2].id
    for entry, number in zip(kept, range(4)):
        (tmp_path / "written").mkdir()
        adapter(number)(tmp_path / "written")
        for name in ADAPTER_FILES:
            assert (store.adapter_path(entry.id) / name).read_bytes() == (tmp_path / "written" / name).read_bytes()
        shutil.rmtree(tmp_path / "written")
    if format:
        assert store.find("/copy.txt") == store.find("0.txt") == [kept[0].id]
        shared = old.lines[-1]["shared"]
        assert [store.shared_adapter(id) for id in store.active_ids()] == [shared, shared]
        assert lines[-1]["adapters"] == old.lines[-1]["adapters"]
    assert store.rollback("v2")["active"] == [kept[0].id, kept[1].id]
    assert store.rollback()["active"] == [kept[0].id, kept[2].id]
    assert store.approve(kept[1].id)["active"] == [kept[0].id, kept[2].id, kept[1].id]


def test_the_old_files_stay_aside_until_every_hash_was_right(tmp_path):
    home = tmp_path / "home"
    filled(home)
    before = {path: data for path, data in tree(home).items() if path.parts[0] != "runs"}
    store = MemoryStore(home)
    store.active()
    assert {p: d for p, d in tree(home / BEFORE_MIGRATION).items()} == before
    assert not any((home / name).exists() for name in ("ledger.jsonl", "HEAD", "memories", "shared", ".lock"))
    file = store.adapter_path(store.active_ids()[0]) / ADAPTER_FILES[0]
    flip_a_byte(file)
    assert len(store.verify()["faults"]) == 1 and (home / BEFORE_MIGRATION).exists()
    flip_a_byte(file)
    assert store.verify() == {"memories": 4, "versions": 7, "faults": []}
    assert not (home / BEFORE_MIGRATION).exists() and len(store.active()) == 2
    assert all(store.adapter_path(entry.id) for entry in store.all())


def test_forgetting_takes_the_old_files_with_it(tmp_path):
    home = tmp_path / "home"
    _, kept = filled(home)
    store = MemoryStore(home)
    store.forget("/copy.txt")
    store.close()
    left = tree(home)
    assert not any(
        word in data for data in left.values() for word in (b"Text 0", b"Title 0", b"/copy.txt", b"/docs/0.txt")
    )
    assert not (home / BEFORE_MIGRATION).exists() and Journal(home / "runs/learn-x/trials.jsonl").records == []
    assert ids(MemoryStore(home).all()) == ids(kept[1:])


def test_killed_at_any_write_the_migration_is_done_again_or_was_done(tmp_path):
    filled(tmp_path / "start")
    expected = MemoryStore(shutil.copytree(tmp_path / "start", tmp_path / "expected"))
    expected, states = view(expected), set()
    for at in itertools.count(1):
        home = shutil.copytree(tmp_path / "start", tmp_path / f"home-{at}")
        if not killed(lambda: MemoryStore(home).active(), at):  # noqa: B023
            break
        states.add(((home / "memory.db").exists(), (home / "ledger.jsonl").exists()))
        store = MemoryStore(home)
        assert view(store) == expected and store.verify()["faults"] == []
        store.close()
        assert sorted(path.name for path in home.iterdir()) == ["adapters", "memory.db", "runs"]
        shutil.rmtree(home)
    assert at > 30 and states == {(False, True), (True, True), (True, False)}


def test_all_that_was_written_is_on_the_disk_before_the_database_gets_its_name(tmp_path, monkeypatch):
    home = tmp_path / "home"
    filled(home)
    before, after = [], []
    sync = lambda path: (after if (home / "memory.db").exists() else before).append(path)  # noqa: E731
    monkeypatch.setattr("selfedit.disk.sync", sync)
    MemoryStore(home).active()
    adapters = home / "adapters"
    assert {*before} == {home / "memory.db.new", adapters, *adapters.rglob("*")} and len(before) > 10
    assert after == [home]


def test_two_processes_migrate_a_home_once(tmp_path):
    home = tmp_path / "home"
    _, kept = filled(home)

    def reads():
        assert ids(MemoryStore(home, lock_timeout_s=120).active()) == [kept[0].id, kept[2].id]

    children = [in_another_process(reads) for _ in range(4)]
    assert [exit_code(child) for child in children] == [0] * 4
    assert MemoryStore(home).verify()["faults"] == []


def test_a_read_only_old_home_is_one_clear_line(tmp_path, as_nobody):
    home = tmp_path / "home"
    filled(home)
    read_only(home)

    def reads():
        for use in (MemoryStore(home).active, MemoryStore(home).history):
            with pytest.raises(MemoryStoreError, match="written by an earlier selfedit .* read-only; make it writable"):
                use()

    before = tree(home)
    assert as_nobody(reads) and tree(home) == before


@pytest.mark.parametrize("file", ["source.json", "scores.json", "edits.jsonl", "manifest.json", "all"])
def test_a_memory_that_was_damaged_stays_named_and_can_be_forgotten(tmp_path, file):
    home = tmp_path / "home"
    _, kept = filled(home)
    folder = home / "memories" / kept[2].id
    shutil.rmtree(folder) if file == "all" else (folder / file).write_bytes(b'{"a": ' + b"9" * 5000 + b"}")
    store = MemoryStore(home)
    with pytest.raises(MemoryStoreError, match=f"memory {kept[2].id} is corrupt: .*memory forget {kept[2].id}`"):
        store.active()
    assert any(kept[2].id in fault for fault in store.verify()["faults"]) and (home / BEFORE_MIGRATION).exists()
    store.forget(kept[2].id)
    assert store.active() == [kept[0]] and store.verify()["faults"] == []


@pytest.mark.parametrize("name", ADAPTER_FILES)
@pytest.mark.parametrize("damage", ["changed", "gone", "link"])
def test_an_adapter_that_was_damaged_stays_named(tmp_path, name, damage):
    home = tmp_path / "home"
    _, kept = filled(home)
    file = home / "memories" / kept[2].id / name
    if damage == "changed":
        flip_a_byte(file)
    else:
        file.rename(tmp_path / "mine")
        if damage == "link":
            file.symlink_to(tmp_path / "mine")
    store = MemoryStore(home)
    assert len(store.active()) == 2
    with pytest.raises(MemoryStoreError, match=f"memory {kept[2].id} is corrupt"):
        store.adapter_path(kept[2].id)
    assert len(store.verify()["faults"]) == 1
    store.forget(kept[2].id)
    assert damage == "changed" or (tmp_path / "mine").exists()


def test_a_ledger_that_was_changed_by_hand_stays_a_fault(tmp_path):
    home = tmp_path / "home"
    old, kept = filled(home)
    old.lines[4]["time"] = "1999"
    old.write()
    store = MemoryStore(home)
    assert len(store.active()) == 2
    (fault,) = store.verify()["faults"]
    assert "version 5 or one before it has been changed" in fault


def test_a_memory_that_was_changed_with_its_hashes_stays_a_fault(tmp_path):
    home = tmp_path / "home"
    old, kept = filled(home)
    manifest = home / "memories" / kept[2].id / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created": "2026-02-02"}))
    assert MemoryStore(home).verify()["faults"] == [f"memory {kept[2].id}: its record is not the one it was kept with"]


@pytest.mark.parametrize("head", [None, "", "two", "99", "9" * 5000])
def test_a_lost_or_garbled_head_is_an_error_that_says_how_to_mend_it(tmp_path, head):
    home = tmp_path / "home"
    _, kept = filled(home)
    path = home / "HEAD"
    path.unlink() if head is None else path.write_text(head)
    for use in (MemoryStore(home).active, MemoryStore(home).history, MemoryStore(home).rollback):
        with pytest.raises(MemoryStoreError, match=r"HEAD (is missing|says).* write a version into HEAD: 0 .* to 7 "):
            use()
    path.write_text("7")
    assert MemoryStore(home).active() == [kept[0], kept[2]]


@pytest.mark.parametrize(
    "field, value",
    [
        ("active", "abc"),
        ("active", [1]),
        ("active", ["/somewhere"]),
        ("active", ["../../mine"]),
        ("memories", None),
        ("memories", ["../mine"]),
        ("adapters", []),
        ("adapters", {"a" * 12: "/x"}),
        ("previous", "1"),
        ("check", 5),
        ("version", 9),
        ("time", "5000 digits"),
    ],
)
def test_a_line_that_is_none_is_one_clear_line_and_deletes_nothing(tmp_path, field, value):
    home = tmp_path / "home"
    old, _ = filled(home)
    (tmp_path / "mine").mkdir()
    old.lines[-1][field] = value
    old.write(head=7)
    ledger = home / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"5000 digits"', "9" * 5000))
    before = tree(home)
    for use in (MemoryStore(home).active, MemoryStore(home).verify, MemoryStore(home).check_writable):
        with pytest.raises(MemoryStoreError, match="restore HEAD and ledger.jsonl from a backup"):
            use()
    assert tree(home) == before and (tmp_path / "mine").exists()


@pytest.mark.parametrize("torn", ['{"version": 8, "ti', "\xff", ""])
def test_a_torn_last_line_is_as_if_it_had_never_been(tmp_path, torn):
    home = tmp_path / "home"
    _, kept = filled(home)
    with (home / "ledger.jsonl").open("a", encoding="latin-1") as ledger:
        ledger.write(torn)
    store = MemoryStore(home)
    assert store.active() == [kept[0], kept[2]] and store.verify()["faults"] == []


def test_a_gap_in_the_ledger_is_an_error(tmp_path):
    home = tmp_path / "home"
    old, _ = filled(home)
    del old.lines[2]
    old.write()
    with pytest.raises(MemoryStoreError, match="has lost version 3"):
        MemoryStore(home).active()


def test_a_line_that_no_head_ever_named_is_no_version(tmp_path):
    home = tmp_path / "home"
    old, kept = filled(home)
    old.write(head=3)  # as if killed between ledger and HEAD
    store = MemoryStore(home)
    assert ids(store.active()) == ids(kept[:3]) and [line["version"] for line in store.history()] == [1, 2, 3]
    with pytest.raises(MemoryStoreError, match="no version 5"):
        store.rollback("5")


def test_what_was_to_be_forgotten_when_the_old_program_was_killed_is_forgotten(tmp_path):
    home = tmp_path / "home"
    old, kept = filled(home)
    old.line("forget", [kept[0].id], [kept[2].id], adapters={})
    store = MemoryStore(home)
    assert ids(store.all()) == ids(kept[1:])
    store.disable(kept[2].id)
    store.close()
    assert not any(b"Text 0" in data for data in tree(home).values())


def test_a_ledger_of_a_newer_program_is_refused_in_one_line(tmp_path):
    home = tmp_path / "home"
    old, _ = filled(home)
    old.lines[-1]["format"] = 2
    old.write()
    with pytest.raises(
        MemoryStoreError, match="written by a newer selfedit .format 2, this one knows 1.; update selfedit"
    ):
        MemoryStore(home).active()


def test_an_old_home_that_was_used_again_after_its_migration_is_one_clear_line(tmp_path):
    home = tmp_path / "home"
    filled(home)
    store = MemoryStore(home)
    store.active()
    (home / "HEAD").write_text("0\n")
    with pytest.raises(MemoryStoreError, match="HEAD is of an older selfedit, but was migrated before; move it away"):
        MemoryStore(home).active()
    os.remove(home / "HEAD")
    with contextlib.closing(MemoryStore(home)) as again:
        assert len(again.active()) == 2
