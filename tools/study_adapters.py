"""What an adapter that recites passages should be: python tools/study_adapters.py DATA OUT.jsonl [MODEL [SHARE]]

DATA: the folder with the documents of DOCUMENTS. Two studies, one row each in OUT.jsonl, which are not done again:

- `size`: 20 passages with an adapter each; ranks, adapted matrices, seeds; in 4 bits, as adapters are stored; the
  first seed of ranks 8 and 4 of all matrices also in fp32, bf16 and 8 bits.
- `joint`: the 16 passages of one document with 1 to 16 of them in one adapter.

"recited" is the share of a passage's words that are said in their order; "kept" that of the passages above the gate's
bound. SHARE: of the layers below the first adapted one.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from selfedit.config import ALL_LINEAR, RECITATION, GateConfig, TrainConfig, with_rate
from selfedit.documents.read import split_documents
from selfedit.edits.recitation import recite, share_recited
from selfedit.judge.general import general_harm
from selfedit.learn import passage_length
from selfedit.loop.trial import joint_job, study_examples, study_sequences
from selfedit.model.backend import lora_config
from selfedit.model.load import Model, load_model
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.packed.train import _Run
from selfedit.tasks.real_docs import load_document
from selfedit.types import Passage, stable_seed

DOCUMENTS = ("api_changes/polars2/upgrade_2.md", "api_changes/django6/6.1.txt", "peps_2025_26/public.json#pep-0814")
JOINT = "peps_2025_26/public.json#pep-0816"
WORDS = 110
MLP = ("gate_proj", "up_proj", "down_proj")
FROZEN_A = "all, B over a frozen shared A"
SIZES = (*((rank, "all") for rank in (8, 4, 2, 16)), (8, "mlp"), (4, "mlp"), (8, FROZEN_A), (16, FROZEN_A))
IN_EVERY_SEED = SIZES[:3]
TOGETHER = ((1, 1), (4, 4), (16, 16), (4, 1), (16, 4), (16, 1))  # passages of an adapter, sequences of a batch


def in_bits(bits: int) -> Callable[[Tensor], Tensor]:
    """Rounds to integers with a scale for each 32 weights, as `four_bits` does."""
    largest = 2 ** (bits - 1) - 1

    def rounded(tensor: Tensor) -> Tensor:
        groups = tensor.reshape(-1, 32)
        scales = (groups.abs().amax(1, keepdim=True) / largest).bfloat16().float().clamp(min=1e-30)
        return ((groups / scales).round().clamp(-largest, largest) * scales).reshape(tensor.shape)

    return rounded


FORMS = {"fp32": lambda tensor: tensor, "bf16": lambda tensor: tensor.bfloat16().float(), "8 bits": in_bits(8)}


def stored(adapters: LoraBatch, form: Callable[[Tensor], Tensor]) -> LoraBatch:
    read = adapters.subset(range(adapters.count))
    for adapter in range(adapters.count):
        read._take(adapter, {name: form(tensor) for name, tensor in adapters.tensors(adapter).items()})
    return read


@contextmanager
def only_b(model: Model, config: TrainConfig) -> Iterator[None]:
    """Training leaves every A as it began."""
    trained = LoraBatch(model.backend.network.shape, lora_config(model.backend.num_layers, config), 1)
    for view in trained.views.values():
        for b in view.b:
            b.fill_(1.0)
    update = _Run.update_

    def update_b(run: _Run, done: list) -> None:
        for _, gradient in done:
            gradient.mul_(trained.flat[0])
        update(run, done)

    _Run.update_ = update_b
    try:
        yield
    finally:
        _Run.update_ = update


def studied(
    model: Model, groups: Sequence[Sequence[Passage]], seed: int, frozen_a: bool, **settings
) -> tuple[LoraBatch, dict]:
    """An adapter for each group, and what it took."""
    config = replace(with_rate(RECITATION, model.rate), **settings)
    jobs = []
    for group in groups:
        parts = []
        for passage in group:
            examples = study_examples(passage, (), True)
            parts.append((study_sequences(model, passage, examples, 0.0), examples))
        jobs.append(joint_job(parts, seed if frozen_a else stable_seed(seed, group[0].id, "recite")))
    start = time.perf_counter()
    with only_b(model, config) if frozen_a else nullcontext():
        adapters, logs = model.backend.train(jobs, config)
    seconds = time.perf_counter() - start
    words = sum(len(passage.text.split()) for group in groups for passage in group)
    own = {name: tensor for name, tensor in adapters.tensors(0).items() if "lora_B" in name or not frozen_a}
    weights = sum(tensor.numel() for tensor in own.values())
    epochs = sum(len(log.losses) for log in logs) / len(logs)
    return adapters, {"epochs": round(epochs, 2), "words_per_second": round(words / seconds, 2), "weights": weights}


def tested(model: Model, groups: Sequence[Sequence[Passage]], adapters: LoraBatch, limit: float) -> dict:
    passages = [passage for group in groups for passage in group]
    rows = [row for row, group in enumerate(groups) for _ in group]
    said = recite(model, passages, rows, adapters)
    shares = [share_recited(passage, text) for passage, text in zip(passages, said)]
    changes, _ = general_harm(model, adapters)
    return {
        "recited": round(sum(shares) / len(shares), 4),
        "least": round(min(shares), 3),
        "exact": sum(share == 1 for share in shares) / len(shares),
        "kept": sum(share >= limit for share in shares) / len(shares),
        "kl": round(sum(changes) / len(changes), 3),
        "kl_most": round(max(changes), 3),
    }


def passages_of(model: Model, data: Path, names: Sequence[str], count: int | None = None) -> list[Passage]:
    """All of the documents' passages, or so many at equal distances."""
    documents = [load_document(name, data) for name in names]
    read = split_documents(documents, WORDS, passage_length(model, WORDS))
    count = count or len(read)
    return [read[int((i + 0.5) * len(read) / count)] for i in range(count)]


def study(data: Path, out: Path, name: str, first_layer: float) -> None:
    model, limit = load_model(name), GateConfig().min_recited
    done = {json.loads(line)["of"] for line in out.read_text().splitlines()} if out.exists() else set()
    ones = [[passage] for passage in passages_of(model, data, DOCUMENTS, 20)]
    plan: list[tuple[str, list, int, dict]] = []
    for seed in range(3):
        for rank, kind in IN_EVERY_SEED if seed else SIZES:
            settings = {"rank": rank, "modules": MLP if kind == "mlp" else ALL_LINEAR, "frozen_a": kind == FROZEN_A}
            plan.append((f"size: rank {rank}, {kind}, seed {seed}", ones, seed, settings))
    document = passages_of(model, data, [JOINT])
    for together, batch in TOGETHER:
        groups = [document[i : i + together] for i in range(0, len(document), together)]
        settings = {"batch_size": batch, "epochs": 24, "frozen_a": False}
        plan.append((f"joint: {together} passages, batch {batch}", groups, 0, settings))
    for of, groups, seed, settings in plan:
        if of in done:
            continue
        adapters, cost = studied(model, groups, seed, first_layer=first_layer, **settings)
        every = of in ("size: rank 8, all, seed 0", "size: rank 4, all, seed 0")
        forms = {form: stored(adapters, rounds) for form, rounds in FORMS.items()} if every else {}
        forms["4 bits"] = adapters.as_stored()
        results = {form: tested(model, groups, kept, limit) for form, kept in forms.items()}
        with out.open("a") as file:
            file.write(json.dumps({"of": of, "model": name, **cost, **results}) + "\n")
        print(of, cost, results["4 bits"], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    given = sys.argv[3:]
    share = float(given[1]) if given[1:] else RECITATION.first_layer
    study(Path(sys.argv[1]), Path(sys.argv[2]), given[0] if given else "smollm2-135m", share)
