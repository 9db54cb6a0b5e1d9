"""What `learn` will take, before a model is loaded: time, memory, and which model suits this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfedit.errors import RunError
from selfedit.loop.journal import Journal, read_back
from selfedit.model.catalog import CATALOG
from selfedit.text import count_words
from selfedit.types import Passage

FIXED_WORDS = 120
"""The part of the work on a passage that does not depend on its length, in words that take as long (docs/LOG.md)."""
SECONDS_PER_WORD = {"smollm2-135m": 0.026, "qwen2.5-coder-0.5b": 0.07, "qwen2.5-coder-1.5b": 0.14}
"""Before anything was learned here: measured on 2 cores in fp32 (docs/LOG.md, "Fewer layers, and studying on"; of the
largest only the training was measured since)."""

WORDS_PER_PAIR = 80
"""A pair of old and new code takes as long to write, run and study as so many words, at the speed of the model that
writes: 1,015 s for 90 pairs of qwen2.5-coder-1.5b (docs/results/api-removals-05b)."""


def seconds_for_code(pairs: int, home: Path, writer: str) -> float | None:
    """What learning a release as code will take, as `seconds_expected`."""
    speed = _seconds_per_word(home, writer)
    return None if speed is None else round(speed * WORDS_PER_PAIR * pairs, 1)


def seconds_expected(passages: Sequence[Passage], home: Path, model: str) -> float | None:
    """What the passages will take at the speed of this model in earlier runs in `home`, else at that of
    SECONDS_PER_WORD; None if neither is known."""
    speed = _seconds_per_word(home, model)
    unique = {passage.id: FIXED_WORDS + count_words(passage.text) for passage in passages}
    return None if speed is None else round(speed * sum(unique.values()), 1)


def _seconds_per_word(home: Path, model: str) -> float | None:
    known = _measured(home, model)
    return known if known is not None else SECONDS_PER_WORD.get(model)


def _measured(home: Path, model: str) -> float | None:
    """Seconds per word of earlier runs, with FIXED_WORDS for each passage; None if there was none."""
    seconds, words = 0.0, 0
    for run in home.glob("runs/learn-*"):
        try:
            if read_back(run / "config.json").get("model") == model:
                for record in Journal(run / "trials.jsonl").records:
                    if record.get("words"):
                        seconds, words = seconds + record["seconds"], words + FIXED_WORDS + record["words"]
        except (RunError, TypeError, KeyError):  # damaged, or of another version
            continue
    return seconds / words if words else None


GUIDE_WORDS, GUIDE_PASSAGE = 5_000, 80
"""Length of a guide that `recommend` counts with, and the mean length of its passages."""
PATIENCE_HOURS = 8.0
"""A model that needs longer for the guide is not recommended."""
REFERENCE_GFLOPS = 110.0
"""What `machine_gflops` says of the machine on which SECONDS_PER_WORD was measured."""
GB_PER_GB_OF_FILE = 4
"""Assumed peak memory of a model of which it was not measured, in sizes of its file."""
USABLE_MEMORY = 0.8
"""Share of the machine's memory that a model may take."""


@dataclass(frozen=True)
class Cost:
    """What learning a guide of GUIDE_WORDS words with a model takes on this machine."""

    name: str
    megabytes: int
    """To fetch, once."""
    memory_gb: float | None
    """Peak; None if it was not measured."""
    hours: float | None
    fits: bool
    """Whether the memory is there."""


def costs(home: Path, memory_gb: float, gflops: float) -> list[Cost]:
    """Of each model of the catalog, the smallest first. `memory_gb`: of this machine. The time is that of earlier runs
    in `home`, else that of the machine of SECONDS_PER_WORD in proportion to the speed."""
    words = GUIDE_WORDS // GUIDE_PASSAGE * (FIXED_WORDS + GUIDE_PASSAGE)
    result = []
    for name, model in CATALOG.items():
        speed, expected = _measured(home, name), SECONDS_PER_WORD.get(name)
        if speed is None and expected is not None:
            speed = expected * REFERENCE_GFLOPS / gflops
        hours = None if speed is None else round(speed * words / 3600, 1)
        needs = model.learn_gb or model.megabytes / 1000 * GB_PER_GB_OF_FILE
        result.append(Cost(name, model.megabytes, model.learn_gb, hours, needs <= USABLE_MEMORY * memory_gb))
    return result


def recommend(models: Sequence[Cost]) -> str:
    """The largest model that the memory holds and that learns the guide in PATIENCE_HOURS; else the smallest one."""
    able = [m.name for m in models if m.fits and m.hours is not None and m.hours <= PATIENCE_HOURS]
    return (able or [models[0].name])[-1]


def machine_gb() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def machine_gflops() -> float:
    """Speed of a large product, of several tries in about half a second the best."""
    import torch

    a, b, best = torch.rand(512, 1024), torch.rand(1024, 2048), float("inf")
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 1024 * 2048 / best / 1e9
