"""The gate on Scores written by hand: what enters, what does not, and that each says why."""

from dataclasses import replace
from math import log

import pytest

from selfedit.config import GateConfig
from selfedit.memory.gate import decide
from selfedit.types import Score, Trial

CONFIG = GateConfig(min_gain=0.3, max_general_change=1.0)


def score(logprobs, correct=None) -> Score:
    correct = tuple(correct or [False] * len(logprobs))
    return Score(sum(correct) / len(correct), sum(logprobs) / len(logprobs), correct, tuple(logprobs))


def trial(name: str, logprobs, correct=None, general_change: float | None = 0.1) -> Trial:
    return Trial(name, (), score(logprobs, correct or [True] * len(logprobs)), general_change, tokens=100, seconds=1.0)


BEFORE = score([-4.0, -4.2, -3.8, -4.0])


def decided(*trials: Trial, before: Score = BEFORE, config: GateConfig = CONFIG):
    """(name of the kept trial, name → reason), after the checks that hold for every decision."""
    after, best = decide(trials, before, config)
    assert [t.name for t in after] == [t.name for t in trials]
    assert [t.kept for t in after] == [i == best for i in range(len(trials))]
    assert all(t.reason for t in after)
    return None if best is None else trials[best].name, {t.name: t.reason for t in after}


def test_the_best_is_kept_and_the_others_say_that_it_gained_more():
    kept, reasons = decided(
        trial("passage", [-2.0, -2.2, -1.8, -2.0]),
        trial("rewrite", [-1.0, -1.2, -0.8, -1.0]),
        trial("implications", [-1.5, -1.7, -1.3, -1.5]),
    )
    assert kept == "rewrite"
    assert reasons == {
        "passage": "rewrite gained more",
        "rewrite": "answers 4 of 4 right, 0 before; gold answers +3.00 nats",
        "implications": "rewrite gained more",
    }


def test_right_answers_decide_however_probable_the_gold_answers_are():
    """A model that answers in sentences makes the bare answer less probable, and is right."""
    kept, reasons = decided(
        trial("passage", [-0.1, -0.1, -0.1, -0.1], [True, False, False, False]),
        trial("rewrite", [-3.0, -3.0, -3.0, -3.0], [True, True, False, False]),
    )
    assert kept == "rewrite" and reasons["passage"] == "rewrite answers more"


def test_a_gain_within_chance_is_dropped():
    # Differences 6, -4, 4, -4: mean 0.5 is over the 0.3 that are needed, its interval of ± 1.645 · 5.26 / 2 is wider.
    kept, reasons = decided(trial("passage", [2.0, -8.2, 0.2, -8.0], [True, True, False, False]))
    assert kept is None
    assert reasons["passage"] == "gained +0.50 ± 4.33 nats per token, needs +0.30 beyond chance"


def test_three_more_right_answers_are_beyond_chance():
    assert decided(trial("passage", [2.0, -8.2, 0.2, -8.0], [True, True, True, False]))[0] == "passage"
    before = score([-4.0, -4.2, -3.8, -4.0], [True, False, False, False])
    assert decided(trial("passage", [2.0, -8.2, 0.2, -8.0], [True, True, True, False]), before=before)[0] is None
    # A gain that is too small is not enough, however many answers are right.
    assert decided(trial("passage", [-3.75, -3.95, -3.55, -3.75]))[0] is None


def test_a_sure_gain_that_is_too_small_is_dropped():
    kept, reasons = decided(trial("passage", [-3.75, -3.95, -3.55, -3.75]))
    assert kept is None
    assert reasons["passage"] == "gained +0.25 ± 0.00 nats per token, needs +0.30 beyond chance"


def test_a_sure_gain_that_is_large_enough_is_kept():
    assert decided(trial("passage", [-3.65, -3.85, -3.45, -3.65]))[0] == "passage"


def test_the_interval_is_of_paired_differences_so_hard_and_easy_questions_do_not_widen_it():
    before = score([-9.0, -1.0, -6.0, -2.0])
    assert decided(trial("passage", [-8.0, -0.1, -5.1, -1.0]), before=before)[0] == "passage"


def test_a_single_question_is_judged_by_the_size_of_its_gain_alone():
    before = score([-4.0])
    assert decided(trial("passage", [-3.6]), before=before)[0] == "passage"
    assert decided(trial("passage", [-3.8]), before=before)[0] is None


def test_fewer_right_answers_are_dropped_however_probable_the_gold_became():
    before = score([-4.0, -4.2, -3.8, -4.0], [True, True, False, False])
    kept, reasons = decided(trial("passage", [-0.1, -0.1, -0.1, -0.1], [True, False, False, False]), before=before)
    assert kept is None
    assert reasons["passage"] == "answers no more questions: 50% → 25%"


def test_as_many_right_answers_are_not_enough_and_one_more_is():
    before = score([-4.0, -4.2, -3.8, -4.0], [True, False, False, False])
    assert decided(trial("passage", [-1.0] * 4, [False, True, False, False]), before=before)[0] is None
    assert decided(trial("passage", [-1.0] * 4, [False, True, True, False]), before=before)[0] == "passage"


def test_too_much_lost_ability_is_dropped():
    kept, lost = trial("passage", [-2.0] * 4), replace(trial("rewrite", [-1.0] * 4), general_lost=0.2)
    name, reasons = decided(kept, lost)
    assert name == "passage" and reasons["rewrite"] == "ends 20% fewer everyday sentences right, over 15%"
    assert decided(kept, replace(lost, general_lost=-0.1))[0] == "rewrite"


@pytest.mark.parametrize("right", range(6, 41))
def test_a_loss_that_is_exactly_the_bound_is_not_over_it(right):
    """As shares, 39/40 − 33/40 is more than .15."""
    at_bound = replace(trial("rewrite", [-1.0] * 4), general_lost=right / 40 - (right - 6) / 40)
    assert decided(at_bound)[0] == "rewrite"
    assert decided(replace(at_bound, general_lost=right / 40 - (right - 7) / 40))[0] is None


def test_too_much_general_change_is_dropped_and_the_next_best_is_kept():
    trials = trial("passage", [-2.0] * 4, general_change=1.0), trial("rewrite", [-1.0] * 4, general_change=1.01)
    kept, reasons = decided(*trials)
    assert kept == "passage"
    assert reasons["rewrite"] == "changes general behaviour by 1.01 nats per token, over 1.00"
    assert decided(*trials, config=GateConfig(min_gain=0.3, max_general_change=1e9))[0] == "rewrite"


def test_an_edit_that_is_no_better_than_the_passage_is_not_kept_over_it():
    same = [-1.0, -1.2, -0.8, -1.0]
    kept, reasons = decided(
        trial("passage", same), trial("rewrite", same), trial("implications", [-1.1, -1.3, -0.9, -1.1])
    )
    assert kept == "passage"
    assert reasons["rewrite"] == reasons["implications"] == "passage gained more"


def test_an_edit_is_kept_where_the_passage_alone_earns_no_place():
    kept, reasons = decided(trial("passage", [-4.0, -4.2, -3.8, -4.0]), trial("rewrite", [-2.0] * 4))
    assert kept == "rewrite"
    assert reasons["passage"].startswith("gained +0.00 ± 0.00")


@pytest.mark.parametrize("unscored", ["before", "after"])
def test_without_a_score_nothing_is_kept(unscored):
    none = Score(None, None)
    after = Trial("passage", (), none if unscored == "after" else score([-1.0]), None, tokens=100, seconds=1.0)
    kept, reasons = decided(after, before=none if unscored == "before" else score([-4.0]))
    assert kept is None
    assert reasons["passage"] == "no question to judge it by"


def test_a_change_that_was_not_measured_is_no_reason_to_drop():
    assert decided(trial("passage", [-1.0] * 4, general_change=None))[0] == "passage"


def test_no_trials_keep_nothing():
    assert decide([], BEFORE, CONFIG) == ([], None)


def test_the_trials_themselves_are_left_as_they_were():
    before = trial("passage", [log(0.5)] * 4)
    decide([before], BEFORE, CONFIG)
    assert (before.kept, before.reason) == (False, "")
