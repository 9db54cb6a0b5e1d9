"""Hostile programs, run for real: each one is stopped, and a line says why."""

import sys
from pathlib import Path

import pytest

from selfedit.sandbox import Limits, Outcome, SandboxError, isolation, run_programs

try:
    isolation()
except SandboxError as error:
    pytest.skip(f"code cannot be run safely here: {error}", allow_module_level=True)

PYTHON = Path(sys.executable)


def run(program: str, **limits) -> Outcome:
    return run_programs([program], PYTHON, Limits(**{"seconds": 10} | limits))[0]


def test_programs_end_in_their_order():
    outcomes = run_programs(["print('é')", "assert 1 == 2, 'no'", "print(1)"], PYTHON)
    assert [(o.ended, o.error) for o in outcomes] == [("passed", ""), ("failed", "AssertionError: no"), ("passed", "")]
    assert [outcomes[0].output, outcomes[2].output] == ["é\n", "1\n"] and outcomes[0].passed
    assert outcomes[1].output.startswith("Traceback") and "    assert 1 == 2, 'no'\n" in outcomes[1].output
