"""The inner loop as others run it, on `transformers` and `peft`: what ours is measured against.

In: one self-edit's token sequences. Out: the seconds its training takes and, of the fair one, a PEFT folder.
`published` is SEAL's recipe (arXiv:2506.10943 and its released code): sequences padded to 2,048 tokens, the pads are
labels, adapters on q and v, the HF Trainer. `fair` is what a careful engineer writes in an afternoon with the same
libraries: no padding, all linear layers, the model stays warm, the optimizer is the fused one.
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
FINETUNE_RATE = 5e-5
"""Of full finetuning, where adapters take 1e-3: not tuned yet."""


def load_base(folder: Path, device, dtype):
    """The model as `transformers` runs it."""
    try:
        import accelerate  # noqa: F401  the Trainer needs it, and says so only when it is used
        import peft  # noqa: F401
    except ImportError as error:
        raise SelfeditError(f"the benchmark needs {error.name}; pip install 'selfedit[bench]'") from error
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)


def published(base, sequences: Sequence, pad: int, steps: int, scratch: Path) -> dict:
    """Seconds a step of the published recipe, over `steps` steps behind one that warms up.

    No attention mask is passed: all real tokens stand before the pads, so it changes little, and without it a step is
    faster.
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
    """Train one adapter, write it to the folder, return the seconds of the training."""
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


def finetune(model, sequences: Sequence, seed: int, epochs: int) -> dict:
    """All weights trained on the sequences, in batches of one: what a model has learned without an adapter.

    `model`: our Model, whose folder holds the weights. Returns them by their names in the folder.
    """
    import torch

    base = load_base(model.folder, model.device, model.network.dtype)
    torch.manual_seed(seed)
    base.train()
    optimizer = torch.optim.AdamW(base.parameters(), lr=FINETUNE_RATE, weight_decay=0.0, fused=True)
    _study(base, optimizer, sequences, seed, epochs)
    return {name: value.detach() for name, value in base.state_dict().items()}


def _study(model, optimizer, sequences: Sequence, seed: int, epochs: int) -> None:
    """One sequence a step, in an order drawn anew in every epoch, at a rate that falls to 0."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    rate, total, done = optimizer.param_groups[0]["lr"], epochs * len(sequences), 0
    for _ in range(epochs):
        for i in torch.randperm(len(sequences), generator=generator).tolist():
            tokens = torch.tensor([sequences[i].tokens], device=model.device)
            labels = tokens.clone()
            labels[:, : sequences[i].label_start] = -100
            model(input_ids=tokens, labels=labels, use_cache=False).loss.backward()
            optimizer.param_groups[0]["lr"] = rate * (1 - done / total)
            optimizer.step()
            optimizer.zero_grad()
            done += 1


def _adapted(base, modules: tuple[str, ...]):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(modules), task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # the two libraries' own affair
        return get_peft_model(base, config)
