import json

import pytest

from selfedit.bench.store import shipped_tasks, varied
from selfedit.cli import main


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
