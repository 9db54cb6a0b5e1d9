"""Settings: every number has a range, and a value outside it is one line with the name, the value and the range."""

from dataclasses import replace
from math import inf, nan

import pytest

from selfedit import config
from selfedit.config import LearnConfig, RestemConfig, TrainConfig, number_fields, with_rate, with_settings
from selfedit.errors import SelfeditError

KINDS = [kind for name, kind in vars(config).items() if isinstance(kind, type) and name.endswith("Config")]
SETTINGS = [(kind, setting) for kind in KINDS for setting in number_fields(kind)]


@pytest.mark.parametrize(("kind", "setting"), SETTINGS, ids=lambda x: getattr(x, "__name__", getattr(x, "name", "")))
def test_no_number_may_be_outside_its_range(kind, setting):
    least, most = setting.metadata["range"]
    assert least < most < inf and (setting.type == "float" or {int} == {type(least), type(most)})
    for value in (least - 1, most + 1 if setting.type == "int" else most * 2 + 1, nan, inf, -inf, 10**5000):
        with pytest.raises(SelfeditError, match=f"^{setting.name} is .*: give a (whole )?number from .* to "):
            kind(**{setting.name: value})
    if setting.type == "int":
        with pytest.raises(SelfeditError, match=f"^{setting.name} is {least}.5: give a whole number from "):
            kind(**{setting.name: least + 0.5})


def test_the_ends_of_a_range_are_in_it():
    assert (TrainConfig(epochs=1).epochs, TrainConfig(epochs=1000).epochs) == (1, 1000)
    assert (TrainConfig(first_layer=0).first_layer, TrainConfig(first_layer=1).first_layer) == (0, 1)


def test_settings_reach_the_configs_inside_a_config():
    changed = with_settings(LearnConfig(), {"spans": 4, "epochs": 7, "min_gain": 1})
    assert (changed.spans, changed.train.epochs, changed.gate.min_gain) == (4, 7, 1)
    assert changed.train.rank == LearnConfig().train.rank
    with pytest.raises(SelfeditError, match="unknown setting 'epoch'; did you mean 'epochs'?"):
        with_settings(TrainConfig(), {"epoch": 1})
    with pytest.raises(SelfeditError, match="unknown setting 'steps_an_epoch'; did you mean 'steps_per_epoch'?"):
        with_settings(TrainConfig(), {"steps_an_epoch": 1})


def test_trials_of_the_outer_loop_must_be_comparable():
    with pytest.raises(SelfeditError, match="cut_after is 2: give less than the trial's 2 epochs"):
        RestemConfig(cut_after=2)


def test_a_rate_that_is_given_stays():
    train = LearnConfig().train
    assert with_rate(train, 4.649e-4).learning_rate == 4.6e-4
    given = replace(train, learning_rate=5e-4)
    assert with_rate(given, 1e-3) is given
