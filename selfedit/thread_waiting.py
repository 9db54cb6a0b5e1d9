"""How torch's threads wait for each other; a program decides it before it imports torch.

Threads that spin react at once: decoding is a third faster, a plain PEFT loop twice as fast. On cores that other
processes want too, spinning slows everything up to ten times. The user's environment variables come first. Only the
command line calls `choose`: a process that uses this package as a library keeps its environment.
"""

from __future__ import annotations

import os

SPINS = "20000"
"""About .3 ms."""


def spinning() -> bool:
    """Whether the environment makes them spin."""
    active = os.environ.get("OMP_WAIT_POLICY", "").lower() == "active"
    return os.environ.get("GOMP_SPINCOUNT", "0" if not active else SPINS) != "0"


_ours = False
"""Whether GOMP_SPINCOUNT is a choice of this module."""


def choose(idle: bool) -> None:
    """Let threads spin for a moment if the machine is idle, else sleep. A later choice replaces an earlier one."""
    global _ours
    if "OMP_WAIT_POLICY" not in os.environ and (_ours or "GOMP_SPINCOUNT" not in os.environ):
        os.environ["GOMP_SPINCOUNT"], _ours = SPINS if idle else "0", True


def choose_by_load() -> None:
    """Threads spin where other processes leave half of the cores idle."""
    choose(hasattr(os, "getloadavg") and os.getloadavg()[0] < (os.cpu_count() or 1) / 2)
