"""Tools that measure speed: a clock, peak memory, the rate of this machine, counts of useful operations, and resuming.

The useful floating-point operations per second of a part are divided by the rate that this machine reaches on a large
matrix product with the same number of threads and the same number format. This share says how much speed is left to
gain, on any machine.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from selfedit.loop.journal import lock_run_folder, read_back, write_json
from selfedit.types import Progress


class Parts:
    """The finished parts of a benchmark, one JSON file each; a part that has a file is not run again."""

    def __init__(self, folder: Path, settings: dict, on_progress: Callable[[str], None]):
        """Raises RunError if the folder holds the parts of a run with other settings."""
        self.folder, self.on_progress = folder, on_progress
        self._lock = lock_run_folder(folder, settings)

    def __call__(self, name: str, make: Callable[[], dict]) -> dict:
        """Returns the named part, made now or earlier, with the `load` of the machine just before it was made."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            self.on_progress(name)
            load = os.getloadavg()[0]
            write_json(file, make() | {"load": load})
        return read_back(file)

    def loads(self) -> dict[str, float]:
        """Returns the load average over one minute before each finished part."""
        loads = ((file.stem, read_back(file).get("load")) for file in sorted(self.folder.glob("*.json")))
        return {name: load for name, load in loads if load is not None}


def of_batch(progress: Progress, stage: str, before: int, size: int, total: int) -> Callable[[int, int], None]:
    """The progress of one batch of questions, in tokens, as a progress over all of them. `before`: questions of the
    batches before it."""
    return lambda done, steps: progress(stage, before + size * done // max(1, steps), total)


def peak_gb() -> float:
    """The most memory that this process had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def clock(device) -> float:
    """Returns the time in seconds, after all work that was queued on the device has finished."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matmul_rate(device, dtype, repeats: int = 5) -> float:
    """Returns the GFLOP/s of a large matrix product; the best of several, as other processes only slow it down."""
    import torch

    size = 8192 if torch.device(device).type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = a @ b
    seconds = []
    for _ in range(repeats):
        start = clock(device)
        torch.mm(a, b, out=out)
        seconds.append(clock(device) - start)
    return 2 * size**3 / min(seconds) / 1e9


def train_flops(shape, lora, sequences: Sequence[Sequence], epochs: Sequence[int], rows: Sequence[int]) -> int:
    """Returns the floating-point operations that `train` needs for these adapters; a multiply-add counts as two.

    `lora`: their LoraConfig. `sequences[n]`, `epochs[n]`: what adapter n is trained on, and how many times. `rows[n]`:
    the number of packed rows in all its batches (TrainLog.rows; a prefix that a batch shares counts once). Let W be the
    number of weights in the linear modules of a layer, I and O their input and output widths, r the rank, H the hidden
    size and V the size of the vocabulary. The operations are:
    - layers below the first adapted one: 2·W per token of each distinct sequence, once;
    - adapted layers, per packed row: 2·W forward, 2·W for the gradient of the input, 6·r·(I + O) for LoRA (two products
      forward, four backward). The gradient of the input of the first adapted product is never needed, which saves 2·W
      and 2·r·I of that product, and 2·W of the frozen modules before it;
    - the output head, per label and epoch: 2·H·V for the logits and 2·H·V for their gradient. Attention scores, norms
      and the optimizer are left out: they are no matrix products, or about 1 % of the total.
    """
    from selfedit.model.shape import GROUPS

    weights = {m: i * o for modules in GROUPS.values() for m in modules for i, o in [shape.widths(m)]}
    layer = sum(weights.values())
    widths = sum(sum(shape.widths(m)) for m in lora.modules)
    adapted = len(lora.layers) * (4 * layer + 6 * lora.rank * widths)
    for modules in GROUPS.values():  # in the order of the forward pass
        adapted -= 2 * sum(weights[m] for m in modules)
        first = [m for m in modules if m in lora.modules]
        if first:
            adapted -= 2 * lora.rank * sum(shape.widths(m)[0] for m in first)
            break
    distinct = {s.tokens for studied in sequences for s in studied}
    total = 2 * layer * lora.layers[0] * sum(map(len, distinct))
    for studied, times, packed in zip(sequences, epochs, rows):
        total += packed * adapted + times * sum(s.labels for s in studied) * 4 * shape.hidden * shape.vocab
    return total
