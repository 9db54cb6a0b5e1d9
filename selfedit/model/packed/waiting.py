"""How torch's threads wait for each other; to be decided before torch is imported, and without it.

Threads that spin answer at once: decoding is a third faster, a plain PEFT loop twice as fast. On cores that others want
too they slow it up to ten times. What the environment says comes first.
"""

from __future__ import annotations

import os

SPINS = "20000"
"""About .3 ms."""


def spinning() -> bool:
    """Whether they do, as the environment has it."""
    active = os.environ.get("OMP_WAIT_POLICY", "").lower() == "active"
    return os.environ.get("GOMP_SPINCOUNT", "0" if not active else SPINS) != "0"


def choose(idle: bool) -> None:
    """Spin for a moment where nobody else is at work, else sleep."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS if idle else "0")
