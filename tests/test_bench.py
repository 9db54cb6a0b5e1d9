import json
import math
from pathlib import Path

import numpy as np
import pytest

from selfedit.bench import decode, inner_loop
from selfedit.bench.intervals import divide, mean_ratio, paired_interval, percentiles, rank_correlation
from selfedit.bench.measure import train_flops
from selfedit.edits.recitation import recite
from selfedit.errors import SelfeditError
from selfedit.judge.evaluate import read
from selfedit.judge.grading import is_correct
from selfedit.loop.journal import software
from selfedit.model.backend import LoraConfig
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.shape import Shape

ENTRIES = [
    {
        "title": f"River {name}",
        "context": f"The river {name} rises in the hills of {hills}.",
        "questions": [{"question": f"Where does the river {name} rise?", "answer": hills}],
        "edit": [f"The hills of {hills} feed the river {name}."],
    }
    for name, hills in (("Sefte", "Marl"), ("Imber", "Ash"))
]


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    """A run on two passages, the arguments it had and its folder."""
    out = tmp_path_factory.mktemp("bench")
    data = out / "passages.jsonl"
    data.write_text("\n".join(map(json.dumps, ENTRIES)))
    settings = dict(passages=2, published_steps=1, threads=2, adapters=1, data=data, out=out)
    return inner_loop.run(str(tiny_folder), **settings), settings, out


def test_the_packaged_passages_hold_their_answers_and_the_edits_convey_them():
    entries = inner_loop.read_entries(inner_loop.PASSAGES, 12)
    assert len({entry.title for entry in entries}) == 12
    for entry in entries:
        assert len(entry.questions) == 8 and len(entry.edit) == 10
        assert not any(line.endswith("?") for line in entry.edit)
        for question in entry.questions:
            assert question.answers[0] in entry.context
            assert is_correct(question.answers[0], question.answers, question.question)
            assert any(is_correct(line, question.answers, question.question) for line in entry.edit), question


def test_a_run_compares_the_three_ways_on_the_same_sequences(finished):
    result, _, out = finished
    published, fair, ours = result["published"], result["fair"], result["ours"]
    assert published["tokens"] == fair["tokens"] == ours["tokens"] * 10 // result["train_config"]["epochs"]
    assert published["accuracy"] is None and published["steps_timed"] == 1 and published["padded_to"] == 512
    assert published["edits_per_hour"] == pytest.approx(2 * 3600 / published["seconds"])
    assert result["speedup_vs_fair"] == pytest.approx(ours["edits_per_hour"] / fair["edits_per_hour"])
    assert result["speedup_vs_published"] == pytest.approx(ours["edits_per_hour"] / published["edits_per_hour"])
    assert result["questions"] == 2 and result["threads"] == 2
    for side in ("fair", "ours"):
        assert result[side]["gold_logprob"] > result["untouched"]["gold_logprob"]  # both learned something
    assert result["gold_logprob_difference"][0] == pytest.approx(ours["gold_logprob"] - fair["gold_logprob"])
    assert 0 < result["matmul_share"] < 1
    assert len(result["stages"]) == 5 and all(row["tokens_per_s"] > 0 for row in result["stages"])
    assert result["command"].startswith("selfedit bench inner-loop --model")
    assert json.loads((out / "inner-loop.json").read_text()) == result
    assert result["software"] == software() and software() in (out / "inner-loop.md").read_text()
    assert "self-edits per hour" in (out / "inner-loop.md").read_text()


def test_what_learn_does_is_timed_and_answers_from_what_it_recites(finished, tiny_folder):
    result, settings, out = finished
    row, model = result["recites"], load_model(str(tiny_folder))
    assert result["recites_speedup_vs_fair"] == pytest.approx(row["edits_per_hour"] / result["fair"]["edits_per_hour"])
    entries = inner_loop.read_entries(settings["data"], 2)
    adapters = model.backend.load([out / "parts" / f"recites-{i}" for i in range(2)])
    said = recite(model, [entry.passage for entry in entries], [0, 1], adapters)
    correct = read(model, [(entry.questions[0], text) for entry, text in zip(entries, said)])
    assert row["accuracy"] == sum(correct) / 2 and row["seconds_to_answer"] > 0
    assert (
        f"**{result['recites_speedup_vs_fair']:.1f}** times as fast as fair; accuracy"
        in (out / "inner-loop.md").read_text()
    )


def test_a_resumed_run_does_only_what_is_missing(finished, tiny_folder):
    result, settings, out = finished
    done = []
    assert inner_loop.run(str(tiny_folder), **settings, on_progress=done.append) == result
    assert done == []
    (out / "parts" / "fair-1.json").unlink()
    again = inner_loop.run(str(tiny_folder), **settings, on_progress=done.append)
    assert done == ["fair-1"] and again["ours"] == result["ours"]


def test_a_folder_with_another_run_is_refused(finished, tiny_folder):
    _, settings, _ = finished
    with pytest.raises(SelfeditError, match="another published_steps"):
        inner_loop.run(str(tiny_folder), **settings | {"published_steps": 2})


def test_asking_for_more_passages_than_there_are_fails(tmp_path):
    with pytest.raises(SelfeditError, match="has 12 passages, but 13 were requested"):
        inner_loop.read_entries(inner_loop.PASSAGES, 13)
    with pytest.raises(SelfeditError, match="no such file"):
        inner_loop.read_entries(Path(tmp_path / "none.jsonl"), 1)
    silent = tmp_path / "silent.jsonl"
    silent.write_text(json.dumps({"title": "Gate", "context": "It is red.\u2028It is big.", "edit": []}))
    with pytest.raises(SelfeditError, match="line 1: 'questions' is missing"):
        inner_loop.read_entries(silent, 1)
    silent.write_text(json.dumps({"title": "Gate", "context": "It is red.", "questions": [], "edit": []}))
    with pytest.raises(SelfeditError, match="'Gate' has no questions"):
        inner_loop.read_entries(silent, 1)
    with pytest.raises(SelfeditError, match="threads is 0; it must be at least 1"):
        inner_loop.run("none", threads=0)


def test_decoding_says_the_same_as_transformers(tiny_folder):
    result = decode.run(str(tiny_folder), rows=(1, 3), new_tokens=8)
    assert [row["rows"] for row in result["rows"]] == [1, 3]
    for row in result["rows"]:
        assert row["same_text"] == [True] * row["rows"]
        assert row["ratio"] == pytest.approx(row["ours_tokens_per_s"] / row["transformers_tokens_per_s"])


def test_the_paired_interval_is_that_of_the_differences():
    assert paired_interval([0.75, 0.5, 1.0], [0.5, 0.25, 0.75]) == [0.25, 0.25, 0.25]
    # Differences 0 and 1: means of two draws are 0, 0.5, 1 with odds 1, 2, 1.
    assert paired_interval([1.0, 1.0], [1.0, 0.0]) == [0.5, 0.0, 1.0]
    assert paired_interval([1.0, 2.0, 4.0], [0.0, 0.0, 0.0]) == paired_interval([1.0, 2.0, 4.0], [0.0, 0.0, 0.0])
    assert paired_interval([1.0], [0.5]) == [0.5, None, None]


def test_what_is_divided_by_nothing_is_above_every_bound():
    assert divide(np.array([1.0, 0.0, 2.0]), np.array([0.0, 0.0, 4.0])).tolist() == [
        math.inf,
        pytest.approx(math.nan, nan_ok=True),
        0.5,
    ]
    assert percentiles([*range(9800), *[math.inf] * 200]) == pytest.approx(
        [250, 9749], abs=1
    )  # of the finite ones alone it would be 9554
    assert percentiles([*range(9700), *[math.inf] * 300]) is None
    assert mean_ratio([1.0] * 8, [0.0] * 6 + [1.0] * 2)[1:] == [None, None]
    assert mean_ratio([1.0], [2.0]) == [0.5, None, None]


def test_the_operations_of_a_tiny_training_are_those_counted_by_hand():
    shape = Shape(
        layers=2,
        hidden=4,
        heads=2,
        kv_heads=1,
        head_dim=2,
        ffn=8,
        vocab=10,
        eps=1e-6,
        rope_theta=1e4,
        max_positions=64,
        tied=True,
    )
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    studied = (TokenizedExample((1, 2, 3), 1), TokenizedExample((1, 2, 3, 4, 5), 1))
    # Weights per layer: 16 + 8 + 8 + 16 + 32 + 32 + 32 = 144, of which q, k, v have 32.
    # Widths I + O: 8 + 6 + 6 + 8 + 12 + 12 + 12 = 64.
    below = 2 * 144 * 8
    a_token = 2 * 144 + 2 * (144 - 32) + 6 * 2 * 64 - 2 * 2 * 12  # forward, backward, LoRA
    a_label = 4 * 4 * 10
    assert train_flops(shape, LoraConfig(2, 4.0, modules, (1,)), [studied], [3], [24]) == below + 3 * (
        8 * a_token + 6 * a_label
    )
    # Two adapters with the same sequences share what lies below; with all layers adapted nothing does.
    assert train_flops(shape, LoraConfig(2, 4.0, modules, (1,)), [studied] * 2, [3, 1], [24, 8]) == below + 4 * (
        8 * a_token + 6 * a_label
    )
    both = a_token + 2 * 144 + 2 * 144 + 6 * 2 * 64
    assert train_flops(shape, LoraConfig(2, 4.0, modules, (0, 1)), [studied], [1], [8]) == 8 * both + 6 * a_label
    # Only down: nothing before it in its layer has a gradient.
    only_down = 2 * 144 + 6 * 2 * 12 - 2 * 2 * 8
    assert (
        train_flops(shape, LoraConfig(2, 4.0, ("down_proj",), (1,)), [studied], [1], [8])
        == below + 8 * only_down + 6 * a_label
    )


def test_the_rank_correlation_is_that_of_ranks_and_equal_values_share_theirs():
    assert rank_correlation([1, 2, 3], [10, 1000, 1001]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # ranks (1, 2, 3, 4) and (1.5, 1.5, 3, 4): 4.5 / √(5 · 4.5)
    assert rank_correlation([1, 2, 3, 4], [0, 0, 1, 2]) == pytest.approx(4.5 / 22.5**0.5)
    assert rank_correlation([1, 1], [1, 2]) is None
