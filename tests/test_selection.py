"""What is reinforced, which style pays and how far the reward can be trusted, worked out by hand."""

import math

import pytest

from selfedit.bench.plots import round_plots
from selfedit.loop.selection import (
    ContextTrial,
    Outcome,
    cost_of_stopping,
    diversity,
    gains,
    merits,
    noise,
    ranking,
    reinforced,
    reliability,
)


def candidate(style="a", first=(-3.0, -3.0), gold_logprob=(-2.0, -2.0), accuracy=(0.5, 0.5)) -> Outcome:
    return Outcome(style, first, gold_logprob, accuracy)


def trial(*candidates, untouched=-5.0, passage=(-4.0, -4.0), questions=(-3.0, -3.0), audited=False) -> ContextTrial:
    controls = {
        name: candidate(name, rewards, rewards, (0.5, 0.0))
        for name, rewards in (("passage", passage), ("questions", questions))
    }
    return ContextTrial("key", "", "id", "", audited, Outcome("untouched", (), (untouched,)), controls, candidates)


def test_a_gain_is_over_the_passage_alone_and_a_merit_over_what_stands_beside_seed_by_seed():
    t = trial(
        candidate("a+questions", gold_logprob=(-2.0, -3.5)),
        candidate("a", gold_logprob=(-2.0, -3.5)),
        passage=(-4.0, -3.0),
        questions=(-2.5, -2.5),
    )
    both, alone = t.candidates
    assert (
        gains(t, both, "gold_logprob")
        == gains(t, alone, "gold_logprob")
        == merits(t, alone, "gold_logprob")
        == [2.0, -0.5]
    )
    assert merits(t, both, "gold_logprob") == [0.5, -1.0]


def test_noise_is_the_error_of_a_mean_over_seeds_pooled_over_a_style():
    # merits of a (2, 0) and (1, 1): variances 2 and 0, pooled 1; of a mean of two seeds 1/2
    trials = [
        trial(candidate(gold_logprob=(-2.0, -4.0)), candidate("b", gold_logprob=())),
        trial(candidate(gold_logprob=(-3.0, -3.0))),
    ]
    assert noise(trials) == {"a": pytest.approx(math.sqrt(0.5)), "b": math.inf}


def test_edits_that_gain_more_than_noise_are_reinforced():
    t = trial(
        candidate(gold_logprob=(-3.5, -3.5)),
        candidate(gold_logprob=(-2.5, -2.5)),
        candidate(gold_logprob=(-2.0, -2.0)),
        candidate(gold_logprob=()),
    )
    assert reinforced(t, {"a": 0.5}, beyond=1.0) == [1, 2]
    assert reinforced(t, {"a": 1.0}, beyond=1.645) == [2]  # +1.5, but 1.645 are noise
    assert reinforced(t, {"a": math.inf}, beyond=1.0) == []


def test_what_stands_beside_an_edit_is_not_its_merit():
    t = trial(candidate("a+questions", gold_logprob=(-2.0, -2.0)), questions=(-2.2, -2.2))
    assert reinforced(t, {"a+questions": 0.3}, beyond=1.0) == []
    assert reinforced(t, {"a+questions": 0.1}, beyond=1.0) == [0]
    t = trial(candidate("a+questions", gold_logprob=(-2.0, -2.0)), questions=(-9.0, -9.0))
    assert reinforced(t, {"a+questions": 2.1}, beyond=1.0) == []  # the passage alone counts still


def test_what_does_not_beat_the_untouched_model_is_not_reinforced():
    assert reinforced(trial(candidate(), untouched=-2.1), {"a": 0.5}, beyond=1.0) == []


def test_styles_are_ranked_where_all_were_compared_and_what_was_unusable_gained_nothing():
    first = trial(candidate("a", first=(-3.0, -3.0), gold_logprob=()), candidate("b", first=(-2.0, -3.0)))
    second = trial(candidate("a", first=(-1.0, -1.0)), candidate("b", first=(), gold_logprob=()))
    rows = ranking([first, second])
    assert [(r["style"], r["edits"], r["gain"]) for r in rows] == [("a", 2, 2.0), ("b", 2, 0.75)]
    (row,) = ranking([trial(candidate("a+questions", first=(-2.0, -2.5)))])
    assert (row["gain"], row["merit"], row["error"]) == (1.75, 0.75, None)


def test_reliability_is_the_correlation_between_seeds():
    # by seed 0: 1, 2, 3; by seed 1: 1, 3, 2: correlation .5; of the mean of two 2 × .5 / 1.5
    t = trial(*(candidate(first=(-4 + a, -4 + b)) for a, b in ((1, 1), (2, 3), (3, 2))))
    found = reliability([t], "first")
    assert found["one_run"] == pytest.approx(0.5) and found["mean_of_seeds"] == pytest.approx(2 / 3)
    assert found["within_one_run"] == pytest.approx(0.5)


def test_what_differs_between_contexts_alone_is_not_reliable_within_them():
    """Seeds agree on which context is easy, and on nothing else."""
    easy = trial(candidate(first=(-1.0, -1.1)), candidate(first=(-1.1, -1.0)))
    hard = trial(candidate(first=(-3.0, -3.1)), candidate(first=(-3.1, -3.0)))
    found = reliability([easy, hard], "first")
    assert found["one_run"] > 0.99 and found["within_one_run"] == pytest.approx(-1.0)


def test_reliability_of_too_few_is_not_told():
    assert reliability([trial(candidate())], "first")["one_run"] is None


def test_reliability_where_runs_disagree_or_a_side_is_missing_is_not_told():
    t = trial(*(candidate(first=(-4 + a, -4 - a)) for a in (1, 2, 3)))
    found = reliability([t], "first")
    assert found["one_run"] == pytest.approx(-1.0) and found["mean_of_seeds"] is None
    t = trial(*t.candidates, passage=())
    assert reliability([t], "first")["candidates"] == 0


def test_the_cost_of_stopping_is_what_the_stopped_would_have_gained_more():
    late = candidate(first=(-3.0, -3.0), gold_logprob=(-1.0, -1.0))
    early = candidate(first=(-2.0, -2.0), gold_logprob=(-2.0, -2.0))
    assert cost_of_stopping([trial(late, early, audited=True)], survivors=1) == {
        "contexts": 1,
        "best_survives": 0.0,
        "gain_lost": 1.0,
    }
    assert cost_of_stopping([trial(late, early)], survivors=1)["contexts"] == 0


@pytest.mark.parametrize("control", ["passage", "questions"])
def test_a_trial_without_its_control_is_left_out(control):
    """A control whose training diverged has no rewards."""
    late = candidate("a+questions", first=(-3.0, -3.0), gold_logprob=(-1.0, -2.0))
    early = candidate("a+questions", first=(-2.0, -2.0), gold_logprob=(-2.0, -2.0))
    unusable = candidate("a+questions", first=(), gold_logprob=())
    sound, diverged = trial(late, early, audited=True), trial(late, early, unusable, audited=True, **{control: ()})
    for trials in ([diverged, sound], [sound]):
        assert ranking(trials)[0] == ranking([sound])[0] and ranking(trials)[0]["edits"] == 2
        assert cost_of_stopping(trials, survivors=1) == cost_of_stopping([sound], survivors=1)
    assert noise([sound, trial(late, questions=())]) == noise([sound])
    assert reinforced(diverged, {"a+questions": 0.0}, beyond=1.0) == []
    (row,) = ranking([diverged])  # every style has a row
    assert (row["style"], row["edits"], row["gain"], row["error"]) == ("a+questions", 0, 0.0, None)


def test_a_round_without_a_measured_control_is_drawn(tmp_path):
    levels = {"gold_logprob": -2.0, "accuracy": None}
    reliability = {"one_run": None, "mean_of_seeds": None}
    summary = {
        "round": 1,
        "untouched": levels,
        "best": levels,
        "controls": {"passage": {"gold_logprob": None, "accuracy": None}},
        "styles": [{"style": "a", "gain": 0.0, "error": None}],
        "reliability": {"first": reliability, "accuracy": reliability},
    }
    sound = summary | {"round": 2, "controls": {"passage": levels}}
    assert all(file.exists() for file in round_plots([summary, sound], tmp_path))


def test_diversity_is_the_share_of_distinct_triples():
    assert diversity(["a b c d", "a b c e"]) == 3 / 4
    assert diversity(["one two"]) == 1.0
