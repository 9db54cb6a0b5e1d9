"""One frozen dataclass a stage; each default stands once, with its unit and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches

from selfedit.errors import SelfeditError

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class TrainConfig:
    """The inner loop. Defaults: docs/LOG.md, study 1."""

    rank: int = 16
    alpha: float = 32.0
    """Published: 2 × rank."""
    modules: tuple[str, ...] = ALL_LINEAR
    first_layer: float = 0.33
    """Share of the layers, from below, that stay as they are; their activations are computed once."""
    learning_rate: float = 2e-3
    """Peak; decays linearly to 0."""
    epochs: int = 5
    batch_size: int = 4
    """Sequences a step, of each adapter."""
    clip: float = 1.0
    """Largest norm of an adapter's gradient; 0: none."""
    weight_decay: float = 0.0
    stop_loss: float = 0.0
    """An adapter stops when an epoch's mean loss (nats a label) is below this; 0: never."""


@dataclass(frozen=True)
class GateConfig:
    """What a memory must show before it may enter."""

    min_gain: float = 0.3
    """Nats a token that the gold answers of judging questions must gain over the untouched model."""
    max_general_change: float = 2.0
    """Nats a token, mean KL(untouched ‖ adapted) on the fixed general texts."""


@dataclass(frozen=True)
class LearnConfig:
    """The main job. Defaults: docs/LOG.md, study 2."""

    styles: tuple[str, ...] = ("paraphrase",)
    """Styles the model writes in; questions with answers come from the quiz's studied part."""
    passage_words: int = 220
    """Longest passage; longer documents are split."""
    spans: int = 16
    """Questions to write a passage, before those that do not hold are dropped."""
    seed: int = 0
    train: TrainConfig = TrainConfig()
    gate: GateConfig = GateConfig()


def from_mapping(kind: type, values: dict):
    """A config from loose values (TOML, command line). Unknown keys fail with the nearest name."""
    known = {field.name for field in fields(kind)}
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise SelfeditError(f"unknown setting {key!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"))
    return kind(**values)
