"""The inner loop on `transformers` and `peft`: the baselines of `bench inner-loop`, `bench arc` and `bench knowledge`.

In: the token sequences of one self-edit. Out: the seconds that its training takes; `fair` also writes a PEFT folder.
`published` is SEAL's recipe (arXiv:2506.10943 and its released code): sequences padded to 2,048 tokens, padding tokens
used as labels, adapters on q and v, the Trainer of `transformers`. `fair` is what a careful engineer writes in an
afternoon with the same libraries: no padding, all linear layers, the model stays loaded, the fused optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from selfedit.bench.measure import clock
from selfedit.config import ALL_LINEAR
from selfedit.errors import SelfeditError

RANK, ALPHA, LEARNING_RATE, EPOCHS = 32, 64, 1e-3, 10
PUBLISHED_MODULES = ("q_proj", "v_proj")
PADDED_TO = 2048


def check_libraries() -> None:
    """Raises SelfeditError if a library is missing."""
    try:
        import accelerate  # noqa: F401  the Trainer needs it, and says so only when it is used
        import peft  # noqa: F401
    except ImportError as error:
        raise SelfeditError(f"the benchmark needs {error.name}; pip install 'selfedit[bench]'") from error


def load_base(folder: Path, device, dtype):
    """Returns the model of `transformers` whose weights are in the folder."""
    check_libraries()
    from selfedit.model.weights import transformers_model

    return transformers_model(folder, device, dtype)


def base_of(model):
    """The weights of our Model, as `transformers` loads them."""
    return load_base(model.folder, model.backend.device, model.backend.dtype)


def published(base, sequences: Sequence, pad: int, steps: int, scratch: Path) -> dict:
    """Returns the seconds per step of the published recipe, measured over `steps` steps after one warm-up step.

    No attention mask is passed: all real tokens precede the padding, so the mask changes little, and a step without it
    is faster.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    length = min(PADDED_TO, base.config.max_position_embeddings)
    rows = []
    for sequence in sequences:
        tokens = torch.tensor([*sequence.tokens, *[pad] * (length - len(sequence.tokens))][:length])
        rows.append({"input_ids": tokens, "labels": tokens})
    steps = min(steps, EPOCHS * len(rows) - 1)
    ends: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):
            ends.append(clock(base.device))
            control.should_training_stop = len(ends) > steps

    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=1,
        num_train_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=base.device.type == "cpu",
    )
    model = _adapted(base, PUBLISHED_MODULES)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Stopwatch()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.unload()
    return {"seconds_per_step": (ends[-1] - ends[0]) / steps, "steps_timed": steps, "padded_to": length}


def fair(base, sequences: Sequence, seed: int, folder: Path | None, epochs: int = EPOCHS) -> float:
    """Trains one adapter, writes it to the folder, and returns the seconds of the training."""
    import torch

    torch.manual_seed(seed)
    start = clock(base.device)
    model = _adapted(base, ALL_LINEAR)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    _study(model, optimizer, sequences, seed, epochs)
    seconds = clock(base.device) - start
    if folder:
        model.save_pretrained(folder)
    model.unload()
    return seconds


def train_and_generate(
    base,
    job,
    config,
    layers: Sequence[int],
    bf16: bool,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    ends: Sequence[int],
    allow=None,
) -> list[list[int]]:
    """Trains one adapter on the given layers, then continues all prompts under it in one padded batch.

    `job`, `config`: a Job and a TrainConfig of `model.train`. `bf16`: train and generate in mixed precision. `ends`:
    end tokens. `allow`: as for `generate_greedy`. Returns the new tokens of each prompt, without the end token.
    """
    import torch

    torch.manual_seed(job.seed)
    model = _adapted(base, config.modules, config.rank, config.alpha, layers)
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=job.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    _study(model, optimizer, job.examples, job.seed, job.epochs, config.batch_size, config.clip, bf16)
    model.eval()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        outputs = generate_greedy(model, prompts, new_tokens, ends, allow)
    model.unload()
    return outputs


def generate_greedy(
    model, prompts: Sequence[Sequence[int]], new_tokens: int, ends: Sequence[int], allow=None
) -> list[list[int]]:
    """Continues the prompts greedily with `transformers`, the shorter prompts padded on the left.

    `ends`: end tokens. `allow`: maps (index of the prompt, new tokens so far) to the tokens that may follow. Returns
    the new tokens of each prompt, without the end token.
    """
    import torch
    from transformers import GenerationConfig

    longest = max(map(len, prompts))
    tokens = torch.tensor([[ends[0]] * (longest - len(p)) + [*p] for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    model.generation_config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    with torch.inference_mode():
        grammar = {"prefix_allowed_tokens_fn": lambda row, seen: allow(row, seen[longest:].tolist())} if allow else {}
        out = model.generate(input_ids=tokens, attention_mask=mask, **grammar)[:, longest:].tolist()
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in out]


def finetune(base, sequences: Sequence, seed: int, epochs: int, rate: float) -> dict:
    """Trains all weights of a model of `load_base` on the sequences, in batches of one, instead of an adapter.

    Returns the new weights by their names in the folder of the model.
    """
    import torch

    torch.manual_seed(seed)
    base.train()
    optimizer = torch.optim.AdamW(base.parameters(), lr=rate, weight_decay=0.0, fused=True)
    _study(base, optimizer, sequences, seed, epochs)
    return {name: value.detach() for name, value in base.state_dict().items()}


def _study(
    model, optimizer, sequences: Sequence, seed: int, epochs: int, batch: int = 1, clip: float = 0.0, bf16: bool = False
) -> None:
    """Trains in a new random order per epoch, with a learning rate that falls linearly to 0.

    A batch is padded to its longest sequence. `bf16`: use the mixed precision of torch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    rate, total, done = optimizer.param_groups[0]["lr"], epochs * -(-len(sequences) // batch), 0
    for _ in range(epochs):
        for picked in torch.randperm(len(sequences), generator=generator).split(batch):
            members = [sequences[i] for i in picked.tolist()]
            longest = max(len(s.tokens) for s in members)
            gaps = [longest - len(s.tokens) for s in members]
            tokens = torch.tensor([[*s.tokens, *[0] * gap] for s, gap in zip(members, gaps)], device=model.device)
            mask = torch.tensor([[1] * len(s.tokens) + [0] * gap for s, gap in zip(members, gaps)], device=model.device)
            labels = torch.full_like(tokens, -100)
            for row, sequence in zip(labels, members):
                row[list(sequence.label_positions)] = torch.tensor(sequence.targets, device=row.device)
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
                loss = model(
                    input_ids=tokens, attention_mask=mask if any(gaps) else None, labels=labels, use_cache=False
                ).loss
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.param_groups[0]["lr"] = rate * (1 - done / total)
            optimizer.step()
            optimizer.zero_grad()
            done += 1


def _adapted(
    base, modules: tuple[str, ...], rank: int = RANK, alpha: float = ALPHA, layers: Sequence[int] | None = None
):
    from peft import LoraConfig, get_peft_model

    where = {"layers_to_transform": list(layers)} if layers else {}
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules), task_type="CAUSAL_LM", **where)
    with warnings.catch_warnings(
        action="ignore", category=FutureWarning
    ):  # peft calls a deprecated API of transformers
        return get_peft_model(base, config)
