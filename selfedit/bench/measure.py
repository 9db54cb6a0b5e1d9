"""What a benchmark needs besides its subject: a clock, the machine's own rate, useful arithmetic, resume.

The idea of the share: a part's useful floating-point operations per second over the rate that this machine reaches on
a large product with the same threads and the same number format. It says how much is left to gain, on any machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from selfedit.loop.journal import lock_run_folder, read_back, write_json


class Parts:
    """A benchmark's finished parts, a JSON file each; what lies there is not done again."""

    def __init__(self, folder: Path, settings: dict, on_progress: Callable[[str], None]):
        """Raises RunError if the folder holds the parts of a run with other settings."""
        self.folder, self.on_progress = folder, on_progress
        self._alone = lock_run_folder(folder, settings)

    def __call__(self, name: str, make: Callable[[], dict]) -> dict:
        """The part of that name, made now or earlier, with the machine's `load` just before it was made."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            self.on_progress(name)
            load = os.getloadavg()[0]
            write_json(file, make() | {"load": load})
        return read_back(file)

    def loads(self) -> dict[str, float]:
        """Load (processes that want a core, mean of a minute) before each part that was made."""
        found = ((f.stem, read_back(f).get("load")) for f in sorted(self.folder.glob("*.json")))
        return {name: load for name, load in found if load is not None}


def clock(device) -> float:
    """Seconds, after everything that was started on the device has ended."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matmul_rate(device, dtype, repeats: int = 5) -> float:
    """GFLOP/s of a large square product; the best of several, since only disturbances differ."""
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
    """Floating-point operations that `train` must do for these adapters; a multiply and an add are two.

    `lora`: their LoraConfig; `sequences[n]`, `epochs[n]`: what adapter n studies, and how many times; `rows[n]`: the
    packed rows of all its batches (TrainLog.rows: a header that a batch shares is one). With W the weights
    of the linear modules of a layer, I + O their widths, r the rank, H the hidden size and V the vocabulary:
    - layers below the first adapted one: 2·W a token of each distinct sequence, once;
    - adapted layers, a packed row: 2·W forward, 2·W for the gradient of the input, 6·r·(I + O) for LoRA (two
      products forward, four backward); nothing reads the gradient of the first adapted product's input: less 2·W and
      2·r·I of it, and less the 2·W of frozen modules before it;
    - the head, a label and epoch: 2·H·V for the logits and 2·H·V for their gradient.
    Attention scores, norms and the optimizer are left out: no matrix product does them, or they are about 1 %.
    """
    from selfedit.model.shape import GROUPS

    weights = {m: i * o for modules in GROUPS.values() for m in modules for i, o in [shape.widths(m)]}
    layer = sum(weights.values())
    adapters = sum(sum(shape.widths(m)) for m in lora.modules)
    adapted = len(lora.layers) * (4 * layer + 6 * lora.rank * adapters)
    for modules in GROUPS.values():  # in the order in which they are run
        adapted -= 2 * sum(weights[m] for m in modules)
        first = [m for m in modules if m in lora.modules]
        if first:
            adapted -= 2 * lora.rank * sum(shape.widths(m)[0] for m in first)
            break
    distinct = {s.tokens for own in sequences for s in own}
    total = 2 * layer * lora.layers[0] * sum(map(len, distinct))
    for own, times, packed in zip(sequences, epochs, rows):
        total += packed * adapted + times * sum(s.labels for s in own) * 4 * shape.hidden * shape.vocab
    return total
