"""`bench routing`: recall by hand, vectors against a plain forward pass, resume."""

import json
import random

import numpy as np
import pytest
import torch
from conftest import write_tiny_model

from selfedit.bench import routing
from selfedit.bench.routing import Both, Cosine, Lexical, SentenceEncoder, Store, Vectors, hidden_states, table
from selfedit.errors import RunError, SelfeditError
from selfedit.model import catalog
from selfedit.model.load import load_model
from selfedit.types import Passage, Question, Task

TOWNS = ["Marlow", "Vellmar", "Orsk", "Tana"]
TASKS = [
    Task(
        Passage(town, f"The bridge was built in {1900 + i} by {town}ers.", "", ""),
        (Question(f"Who built the bridge of {town}?", (f"{town}ers",)),),
    )
    for i, town in enumerate(TOWNS)
] + [Task(Passage("Fish", "A carp lives in ponds.", "", ""), ())]
OTHERS = ["Who was the first man on the moon?", "How many legs has a spider?", "What does a baker sell?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


def measured(scores, right, foreign=((0.0, 0.0, 0.0),)):
    class Given:
        def scores(self, questions):
            return np.array([table_of[question] for question in questions])

    table_of = {f"q{i}": row for i, row in enumerate(scores)} | {f"o{i}": row for i, row in enumerate(foreign)}
    store = Store(TASKS[:3], [(f"q{i}", place) for i, place in enumerate(right)])
    return routing._summary([routing._measure("lexical", Given(), store, [f"o{i}" for i in range(len(foreign))])])


def test_recall_counts_the_memories_before_the_right_one():
    row = measured([[3, 1, 1], [3, 2, 1], [0, 2, 1]], [0, 1, 1])  # first; second; first
    assert row["recall_at_1"] == 0.75 and row["recall_at_3"] == 1.0  # of memory 0: 1; of memory 1: the mean of 0 and 1
    assert row["recall_at_1_ci95"] == [0.5, 1.0] and row["questions"] == 3


def test_what_scores_no_higher_than_questions_about_other_things_is_not_accepted():
    foreign = [[i / 100, 0, 0] for i in range(101)]  # 5 % of them above .95
    row = measured([[0.96, 0, 0], [0, 0.94, 0]], [0, 1], foreign)
    assert row["recall_at_1"] == 1.0 and row["accepted"] == 0.5


def test_the_lexical_way_is_the_router_of_ask():
    finder = Lexical([f"{t.passage.title}\n{t.passage.text}" for t in TASKS])
    scores = finder.scores([TASKS[2].questions[0].question, "carp in ponds"])
    assert (
        scores.argmax(1).tolist() == [2, 4] and scores[0, 2] == finder.router.route(TASKS[2].questions[0].question)[1]
    )
    assert finder.scores([TASKS[1].questions[0].question]).argmax() == 1  # timed with the best three alone


def test_the_lexical_order_is_that_of_the_router_and_its_score_that_of_the_best():
    # All words of the question occur in both; BM25 prefers the shorter text, in which they are neighbours.
    long = "The bridge stands here. Marlow is a town. " + "It rains on the road to the north of it. " * 8
    finder = Lexical([long, "The Marlow bridge.", "A carp lives in ponds."])
    question = "Who built the Marlow bridge?"
    ranked, best = finder.router.ranked(question), finder.router.best(question, 3)
    assert [id for id, _ in ranked] == ["1", "0"] and best[0][0] == "0"
    for questions in ([question], [question, "carp"]):
        scores = finder.scores(questions)[0]
        assert np.argsort(-scores).tolist() == [1, 0, 2] and scores.max() == best[0][1]


def test_a_memory_of_several_stores_is_one_unit_of_the_interval():
    """Memory a is right in one of its two stores, memory b is wrong in its only one."""

    def store(rows: dict[str, list[float]]) -> dict:
        shares = {
            name: np.array([share for of_memory in rows.values() for share in of_memory]) for name in routing.SHARES
        }
        memories = np.array([id for id, of_memory in rows.items() for _ in of_memory])
        return {"method": "lexical", "memories": 2, "memory": memories, "milliseconds": 1.0, **shares}

    row = routing._summary([store({"a": [1.0, 1.0], "b": [0.0]}), store({"a": [0.0]})])
    assert row["recall_at_1"] == 0.25 and row["recall_at_1_ci95"] == [0.0, 0.5] and row["questions"] == 4


def test_hidden_states_are_means_of_the_states_a_quarter_of_the_way_up(folder):
    model = load_model(folder, device="cpu")
    texts = ["The bridge of Orsk", "x", "a longer text that has several more words in it"]
    found = hidden_states(model, texts)
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder)
    for text, own in zip(texts, found):
        tokens = torch.tensor([model.chat.encode(text)])
        states = reference(tokens, output_hidden_states=True).hidden_states[
            max(1, model.backend.network.shape.layers // 4)
        ]
        assert np.allclose(own, states[0][min(1, len(tokens[0]) - 1) :].mean(0).detach().numpy(), atol=1e-5)


def test_a_long_text_is_as_near_as_its_best_stretch(tmp_path):
    def encode(texts):
        return np.array([[text.count("bridge"), text.count("carp") + 0.1] for text in texts], float)

    finder = Cosine(
        Vectors(encode, tmp_path / "v.npz", lambda *args: None), ["carp " * 120 + "bridge", "carp and bridge"]
    )
    scores = finder.scores(["bridge", "carp"])
    assert scores[0, 0] == pytest.approx(1.0) and scores[0, 0] > scores[0, 1]
    assert np.allclose(Both(finder, finder).scores(["bridge", "carp"]), 2 * scores)


def test_vectors_are_computed_once(tmp_path):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([[len(text)] for text in texts], float)

    def vectors():
        return Vectors(encode, tmp_path / "v.npz", lambda *args: None)

    assert vectors()(["bb", "a", "bb"]).tolist() == [[2], [1], [2]]
    assert vectors()(["bb", "ccc"]).tolist() == [[2], [3]] and asked == ["a", "bb", "ccc"]


def test_sentence_vectors_are_means_over_the_words_without_the_padding(tmp_path, monkeypatch):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bridge", "of"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    bert = BertModel(config).eval()
    bert.save_pretrained(tmp_path)
    monkeypatch.setattr(catalog, "sentence_model", lambda notify: tmp_path)
    found = SentenceEncoder(lambda message: None)(["the bridge of the bridge", "bridge"])
    alone = bert(torch.tensor([[2, 6, 3]])).last_hidden_state.mean(1)[0].detach()
    assert np.allclose(found[1], alone, atol=1e-5)


def test_a_store_is_never_larger_than_what_there_is(folder, tmp_path):
    result = routing.run(folder, TASKS, OTHERS, tmp_path / "run", memories=(4, 30, 300), methods=("lexical",))
    assert [r["memories"] for r in result["rows"]] == [4, 5]
    with pytest.raises(SelfeditError, match="none of 2 sampled passages has questions"):
        list(routing._stores([TASKS[4]] * 4, 2, random.Random(0)))


def test_a_run_has_a_row_for_each_size_and_way_and_goes_on(folder, tmp_path):
    sizes, ways = (2, 5), ("lexical", "hidden")
    result = routing.run(
        folder, TASKS, OTHERS, tmp_path / "run", memories=sizes, methods=ways, command="selfedit bench routing …"
    )
    assert [(r["memories"], r["method"], r["draws"]) for r in result["rows"]] == [
        (2, "lexical", 2),
        (2, "hidden", 2),
        (5, "lexical", 1),
        (5, "hidden", 1),
    ]
    large = result["rows"][2]
    assert large["recall_at_1"] == 1.0 and large["questions"] == 4
    assert (
        table(result) == (tmp_path / "run/results.md").read_text()
        and (tmp_path / "run/routing.png").stat().st_size > 1000
    )
    again = routing.run(
        folder, TASKS, OTHERS, tmp_path / "run", memories=sizes, methods=ways, command="selfedit bench routing …"
    )
    strip = lambda rows: [{k: v for k, v in r.items() if k != "milliseconds"} for r in rows]  # noqa: E731
    assert strip(again["rows"]) == strip(result["rows"])
    assert json.loads((tmp_path / "run/results.json").read_text())["rows"] == again["rows"]
    with pytest.raises(RunError):
        routing.run(folder, TASKS[:3], OTHERS, tmp_path / "run", memories=(2,), methods=ways)


@pytest.mark.parametrize("bad", [{"methods": ("magic",)}, {"methods": ()}, {"memories": ()}, {"memories": (1,)}])
def test_what_makes_no_sense_is_refused(folder, tmp_path, bad):
    with pytest.raises(SelfeditError):
        routing.run(folder, TASKS, OTHERS, tmp_path / "run", **bad)
    assert not (tmp_path / "run").exists()
