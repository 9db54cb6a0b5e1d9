"""One frozen dataclass a stage; each default stands once, with its unit and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from math import inf
from typing import TypeVar

from selfedit.errors import SelfeditError

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _numbers(kind: type) -> set[str]:
    return {field.name for field in fields(kind) if field.type in ("int", "float")}


def _check(config, *, most: dict[str, float] | None = None, **least: int) -> None:
    """Every number is finite, whole where it counts something, at least `least` (0 where that says nothing) and at most `most`."""
    for name in _numbers(type(config)):
        value, low = getattr(config, name), least.get(name, 0)
        if type(config).__annotations__[name] == "int" and not isinstance(value, int):
            raise SelfeditError(f"{name} is {value}: give a whole number")
        if not low <= value < inf:
            raise SelfeditError(f"{name} is {value}: give at least {low}, and no infinity")
        if most and value > most.get(name, inf):
            raise SelfeditError(f"{name} is {value}: give at most {most[name]:g}")


@dataclass(frozen=True)
class TrainConfig:
    """The inner loop. Defaults: what answers as much as a plain PEFT loop of twice the epochs (docs/LOG.md, study 9)."""

    rank: int = 32
    alpha: float = 64.0
    """Published: 2 × rank."""
    modules: tuple[str, ...] = ALL_LINEAR
    first_layer: float = 0.0
    """Share of the layers, from below, that stay as they are; their activations are computed once."""
    learning_rate: float = 1e-3
    """Peak; decays linearly to 0."""
    epochs: int = 5
    batch_size: int = 4
    """Sequences a step, of each adapter, at most."""
    steps_per_epoch: int = 20
    """At least about so many, by smaller batches where an adapter has few sequences: too few steps learn too little."""
    clip: float = 1.0
    """Largest norm of an adapter's gradient; 0: none."""
    weight_decay: float = 0.0
    distill: float = 0.0
    """Share, in an answer's labels, of the odds that the untouched model gives with the passage in view; the rest is the
    right token. Keeps behaviour nearer to the untouched model, and learns less (docs/LOG.md, study 7)."""
    stop_loss: float = 0.0
    """An adapter stops when an epoch's mean loss (nats a label) is below this; 0: never."""

    def __post_init__(self):
        most = {"rank": 4096, "alpha": 1e6, "first_layer": 1, "learning_rate": 10, "distill": 1}
        _check(self, most=most, rank=1, epochs=1, batch_size=1, steps_per_epoch=1)


@dataclass(frozen=True)
class GateConfig:
    """What a memory must show before it may enter."""

    min_gain: float = 0.3
    """Nats a token that the gold answers of judging questions must gain over the untouched model."""
    max_general_change: float = 2.5
    """Nats a token, mean KL(untouched ‖ adapted) on the fixed general texts."""
    max_general_lost: float = 0.15
    """Share of 40 everyday sentences that the untouched model ends right and the adapted one does not, the other way round taken off."""
    max_captured: float = 0.2
    """Share of general questions that the router may send to the memory; of 18, a plain memory takes none or one."""
    max_lost: float = 0.1
    """Share of the right answers of memories near it, and of general questions, that may be lost, since it would answer them, and wrong."""

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class LearnConfig:
    """The main job. Defaults: docs/LOG.md, studies 2, 3, 5 and 8."""

    styles: tuple[str, ...] = ("paraphrase",)
    """Styles the model writes in; questions with answers are studied beside them."""
    questions_per_sentence: int = 3
    """Questions to study for each sentence in each epoch, made of some of its words and drawn afresh."""
    each_alone: bool = False
    """Try each style by itself too, not only all together: dearer, and shows which one pays."""
    passage_words: int = 220
    """Longest passage; longer documents are split."""
    spans: int = 12
    """Questions to write a passage, before those that do not hold are dropped."""
    seed: int = 0
    train: TrainConfig = TrainConfig(
        rank=16, alpha=32.0, first_layer=0.33, learning_rate=3e-3, epochs=3, steps_per_epoch=1
    )
    """Questions that are new in every epoch need fewer of them, and learn as well in the upper two thirds. A note of two sentences gives few sequences; many small
    steps on them move behaviour furthest."""
    gate: GateConfig = GateConfig()

    def __post_init__(self):
        _check(self, passage_words=20)


@dataclass(frozen=True)
class ConsolidateConfig:
    """Many memories into one adapter."""

    max_lost: float = 0.15
    """Share of the questions that a memory answered right which it may answer wrong under the shared adapter."""
    max_general_change: float = 2.5
    """Nats a token, as for a single memory."""
    max_general_lost: float = 0.15
    seed: int = 0
    train: TrainConfig = TrainConfig(
        rank=32, alpha=64.0, first_layer=0.33, learning_rate=2e-3, epochs=3, steps_per_epoch=1
    )

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class RestemConfig:
    """A round of the outer loop. Defaults: docs/LOG.md, studies 11 and 12; published: 50 contexts, 5 edits, 3 seeds, 2 rounds."""

    styles: tuple[str, ...] = (
        "implications",
        "rewrite",
        "paraphrase",
        "implications+questions",
        "paraphrase+questions",
    )
    """They compete: each context gets edits in several. `+questions`: with questions by rule beside what is written."""
    contexts: int = 50
    edits: int = 5
    """Of a context."""
    seeds: int = 2
    """How often each edit is trained: what differs between them is noise."""
    questions: int = 1
    """By rule about each sentence, in all the epochs together, where a style has them."""
    survivors: int = 2
    """Edits of a context that are trained to the end; the others stop after `cut_after` epochs."""
    cut_after: int = 1
    audited: int = 4
    """Contexts, at least, in which no edit is stopped, to see what stopping costs."""
    beyond_noise: float = 1.645
    """Standard errors by which an edit's gain must exceed nothing; 1.645: 95 % one-sided."""
    min_kept_share: float = 0.7
    """Share that a new editor must keep of what the one before it had: of distinct word triples, of those not in the
    passage, and of usable lines. Against collapse, no test of quality: that is the next round's reward; on 16 contexts the
    share of one editor varies by .1."""
    max_copied: float = 0.6
    """Share of a line's word triples that the passage may have, for the editor to study it. The untouched model's
    paraphrases have .53 at the median."""
    min_kept: int = 5
    """Edits to finetune on, at least."""
    seed: int = 0
    trial: TrainConfig = TrainConfig(
        rank=8, alpha=16.0, first_layer=0.75, learning_rate=4e-3, epochs=2, batch_size=2, steps_per_epoch=1
    )
    """Cheap: it has to rank edits, not to make memories."""
    finetune: TrainConfig = TrainConfig(
        rank=32, alpha=64.0, learning_rate=3e-4, epochs=2, batch_size=10, steps_per_epoch=1
    )
    """Of the editor. Published: rank 64, alpha 128, 3e-4, 2 epochs, batches of 10."""

    def __post_init__(self):
        _check(self, contexts=1, edits=1, seeds=2, survivors=1, cut_after=1)
        if self.cut_after >= self.trial.epochs:
            raise SelfeditError(f"cut_after is {self.cut_after}: give less than the trial's {self.trial.epochs} epochs")
        if self.trial.stop_loss:
            raise SelfeditError("stop_loss: trials of one context are compared at the same epoch; leave it at 0")
        if not self.styles or "questions" in self.styles:
            raise SelfeditError(
                "give styles to write in; questions alone are tried with every style that has +questions"
            )


@dataclass(frozen=True)
class RecipeConfig:
    """A round of the outer loop for few-shot tasks. Published: 15 edits, one round, LoRA rank 16, 8 epochs, batches of 5, 5e-5;
    with ten recipes to learn that is 16 steps, too few (docs/LOG.md, study 16)."""

    edits: int = 5
    """Recipes of a task; where all solve it, or there is only one, nothing is told apart."""
    temperature: float = 1.0
    min_kept: int = 4
    """Where fewer recipes solve their task, the best of tasks that none solved fill up the number, if they gained anything."""
    seed: int = 0
    finetune: TrainConfig = TrainConfig(
        rank=16, alpha=32.0, first_layer=0.67, learning_rate=1e-3, epochs=12, batch_size=2, steps_per_epoch=1
    )

    def __post_init__(self):
        _check(self, edits=2, min_kept=1)


Learning = TypeVar("Learning", LearnConfig, ConsolidateConfig)


def with_settings(config: Learning, values: dict[str, int | float]) -> Learning:
    """The config with these numbers changed, its own or those of its parts. Unknown names fail with the nearest."""
    parts = {field.name: part for field in fields(config) if is_dataclass(part := getattr(config, field.name))}
    own = _numbers(type(config))
    _refuse_unknown(values, own.union(*(_numbers(type(part)) for part in parts.values())))
    changed = {
        name: replace(part, **{n: v for n, v in values.items() if n in _numbers(type(part))})
        for name, part in parts.items()
    }
    return replace(config, **changed, **{name: value for name, value in values.items() if name in own})


def with_train_settings(config: TrainConfig, values: dict[str, int | float]) -> TrainConfig:
    """The config with these numbers changed. Unknown names fail with the nearest."""
    _refuse_unknown(values, _numbers(TrainConfig))
    return replace(config, **values)


def _refuse_unknown(names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise SelfeditError(f"unknown setting {name!r}; {advice}")
