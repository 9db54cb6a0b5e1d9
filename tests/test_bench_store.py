import json

import pytest

from selfedit.bench import store
from selfedit.bench.store import shipped_tasks, varied
from selfedit.cli import main
from selfedit.memory.store import MemoryStore


def test_the_store_is_measured_at_each_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("selfedit.bench.store.SIZES", (3, 100))
    assert main(["bench", "store", "--memories", "5", "--json", "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["memories"] for row in result["rows"]] == [3, 5] and result["passages"] == len(shipped_tasks())
    assert all(value > 0 for row in result["rows"] for value in row.values())
    assert json.loads((tmp_path / "store.json").read_text()) == result and not (tmp_path / "home").exists()


@pytest.mark.parametrize("repetition", [1, 2])
def test_a_repeated_passage_has_other_names_and_numbers(repetition):
    passage = shipped_tasks()[0].passage
    other = varied(passage, repetition)
    assert varied(passage, 0) == passage and other == varied(passage, repetition)
    assert other.id != passage.id and "1731" not in other.text and "Harrowmere" not in other.title + other.text
    assert len(other.text.split()) == len(passage.text.split())


def test_the_memories_of_another_run_in_the_folder_stay(tmp_path):
    home = MemoryStore(tmp_path / "home")
    store._add(home, shipped_tasks(), 0)
    store.run(shipped_tasks(), 1, tmp_path, command="")
    assert len(home.active_ids()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "store.json", "store.md"]


def test_every_size_is_measured_with_as_many_memories_as_its_row_says(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SIZES", (1, 3))
    counts, page = [], MemoryStore.page
    monkeypatch.setattr(MemoryStore, "page", lambda self, *a: counts.append(len(self.active_ids())) or page(self, *a))
    forgotten, forget = [], MemoryStore.forget
    monkeypatch.setattr(
        MemoryStore, "forget", lambda self, id: forgotten.append(len(self.active_ids())) or forget(self, id)
    )
    store.run(shipped_tasks(), 5, tmp_path, command="")
    assert sorted(set(counts)) == [1, 3, 5] == forgotten
