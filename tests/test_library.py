"""A process that uses the package as a library keeps its environment and its threads; the command line chooses."""

import os
import subprocess
import sys
import time
from threading import Thread

import pytest
import torch
from test_network import random_sequences

from selfedit.config import TrainConfig
from selfedit.model.backend import Job
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed import train as train_module
from selfedit.model.packed.openmp import limit_threads
from selfedit.thread_waiting import spinning

IMPORT_ALL = """
import os, pkgutil
import torch
import peft  # sets TORCHINDUCTOR_CACHE_DIR on some machines
before = dict(os.environ)
threads = torch.get_num_threads()
import selfedit
for module in pkgutil.walk_packages(selfedit.__path__, "selfedit."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert torch.get_num_threads() == threads
print("done")
"""


def test_no_import_changes_the_environment_or_the_threads():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr[-500:]


def threads_of_a_new_thread() -> int:
    seen = []
    thread = Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.parametrize("fails", [False, True])
def test_training_leaves_the_environment_and_all_threads_of_the_caller_alone(tiny_model, monkeypatch, fails):
    monkeypatch.setattr(train_module, "TOKENS_PER_WORKER", 1)  # each core is a worker
    sequences = [TokenizedExample(tuple(s), 2) for s in random_sequences(tiny_model.backend.shape.vocab, [20, 30, 9])]
    environment, threads = dict(os.environ), (torch.get_num_threads(), threads_of_a_new_thread())
    within = []

    def on_step(done: int, total: int) -> None:
        within.append((torch.get_num_threads(), threads_of_a_new_thread()))
        if fails:
            raise KeyboardInterrupt

    try:
        tiny_model.backend.train([Job(tuple(sequences), 0)], TrainConfig(rank=2, epochs=2), on_step=on_step)
    except KeyboardInterrupt:
        assert fails
    assert threads[0] == 2 and within and set(within) == {threads}
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == threads and dict(os.environ) == environment


@pytest.mark.parametrize("count", [1, 2])
def test_a_limit_of_threads_holds_for_every_kind_of_product_of_the_calling_thread(count):
    """One core works for as long as its thread does; two work together for twice as long."""
    share = []

    def work() -> None:
        limit_threads(count)
        a = torch.randn(600, 600)
        for product in (lambda: a @ a, lambda: torch.exp(a.expand(20, 600, 600))):
            product()
            process, thread = time.process_time(), time.thread_time()
            for _ in range(20):
                product()
            share.append((time.process_time() - process) / (time.thread_time() - thread))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert [round(s) for s in share] == [count] * 2 and torch.get_num_threads() == 2


def test_the_workers_of_a_step_share_the_cores(tiny_model, monkeypatch):
    monkeypatch.setattr(train_module, "TOKENS_PER_WORKER", 1)
    used, backward = [], train_module._backward

    def spy(*rest):
        used.append(torch.get_num_threads())
        backward(*rest)

    monkeypatch.setattr(train_module, "_backward", spy)
    sequences = [TokenizedExample(tuple(s), 2) for s in random_sequences(tiny_model.backend.shape.vocab, [20, 30, 9])]
    tiny_model.backend.train([Job(tuple(sequences), 0)], TrainConfig(rank=2, epochs=2, steps_per_epoch=1))
    assert torch.get_num_threads() == 2 and set(used) == {1}
    used.clear()
    tiny_model.backend.train([Job(tuple(sequences[:1]), 0)], TrainConfig(rank=2, epochs=2))
    assert set(used) == {2}, "a single sequence is not divided: its products use all cores"


@pytest.mark.parametrize(
    "load, environment, spins",
    [
        (0.0, {}, "20000"),
        (50.0, {}, "0"),
        (0.0, {"OMP_WAIT_POLICY": "passive"}, None),
        (50.0, {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_waiting_threads_spin_on_idle_cores_only_and_the_environment_comes_first(load, environment, spins):
    code = (
        f"import os; os.getloadavg = lambda: ({load}, 0, 0); from selfedit.cli import main; "
        "main(['models', 'list']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == str(spins)


@pytest.mark.parametrize(
    "environment, spins",
    [
        ({}, False),
        ({"GOMP_SPINCOUNT": "7"}, True),
        ({"OMP_WAIT_POLICY": "active"}, True),
        ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "0"}, False),
        ({"OMP_WAIT_POLICY": "passive"}, False),
    ],
)
def test_how_threads_wait_is_told_as_the_environment_has_it(environment, spins, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert spinning() is spins
