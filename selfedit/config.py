"""One frozen dataclass per stage: every setting with its default, its range, its unit and its source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from selfedit.errors import SelfeditError

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def number(default: int | float, least: int | float, most: int | float) -> Any:
    """A numeric setting and the range in which it is valid, both ends included."""
    return field(default=default, metadata={"range": (least, most)})


def seed_number() -> Any:
    return number(0, 0, 2**63 - 1)


def _shown(number: int | float) -> str:
    return f"{number:,}".removesuffix(".0")


@dataclass(frozen=True)
class _Config:
    """A frozen config whose numbers are checked when it is made."""

    def __post_init__(self):
        for setting in number_fields(type(self)):
            value, whole, (least, most) = getattr(self, setting.name), setting.type == "int", setting.metadata["range"]
            if not least <= value <= most or (whole and not isinstance(value, int)):  # NaN is in no range
                kind = "a whole number" if whole else "a number"
                shown = "out of range" if abs(value) > 1e30 else _shown(value)  # it may have thousands of digits
                raise SelfeditError(f"{setting.name} is {shown}: give {kind} from {_shown(least)} to {_shown(most)}")


def number_fields(kind: type) -> list:
    """The fields of a config that hold an integer or a float."""
    return [setting for setting in fields(kind) if setting.type in ("int", "float")]


@dataclass(frozen=True)
class TrainConfig(_Config):
    """The inner loop. With the defaults, a model answers as much as after a plain PEFT loop of twice the epochs
    (docs/LOG.md, study 9)."""

    rank: int = number(32, 1, 4096)
    alpha: float = number(64.0, 0, 1e6)
    """Published: 2 × rank."""
    modules: tuple[str, ...] = ALL_LINEAR
    first_layer: float = number(0.0, 0, 1)
    """Share of the layers, counted from the input, that are not adapted; their activations are computed once."""
    learning_rate: float = number(1e-3, 0, 10)
    """The peak; the rate decays linearly to 0. In LearnConfig and ConsolidateConfig, 0 means that of the model
    (`Model.rate`)."""
    epochs: int = number(5, 1, 1000)
    batch_size: int = number(4, 1, 4096)
    """Maximum number of sequences of each adapter per step."""
    steps_per_epoch: int = number(20, 1, 1000)
    """Minimum optimizer steps per epoch; the batch shrinks when an adapter has few sequences. Too few steps learn too
    little."""
    clip: float = number(1.0, 0, 1e6)
    """Maximum norm of an adapter's gradient; 0 means no clipping."""
    weight_decay: float = number(0.0, 0, 10)
    beta1: float = number(0.9, 0, 0.9999)
    """AdamW's share of the gradients before in the direction of a step."""
    beta2: float = number(0.999, 0, 0.999999)
    """AdamW's share of the squared gradients before in the size of a step."""
    rivals: int = number(0, 0, 1000)
    """A label is told apart from the tokens that its adapter studies and, at each of its labels, from so many that the
    untouched model finds likeliest; 0: from all tokens of the model."""
    distill: float = number(0.0, 0, 1)
    """Weight of soft labels in an answer's loss: the probabilities that the untouched model gives with the passage in
    view. The rest of the weight is on the right token. Soft labels keep the behaviour nearer to the untouched model,
    and the model learns less (docs/LOG.md, study 7)."""
    known_loss: float = number(0.0, 0, 1000)
    """An answer that had a lower mean loss (nats per label) in an epoch is studied once only in the next epoch, however
    many examples have it; 0 means that nothing is left out."""
    stop_loss: float = number(0.0, 0, 1000)
    """An adapter stops when the mean loss of an epoch (nats per label) is below this; 0 means never."""
    stop_largest: float = number(1e9, 0, 1e9)
    """And when no label of the epoch has a loss above this (nats). Below ln 2 = .69 the studied token is the likeliest
    one, so the whole text is recited (MemFT, arXiv:2605.30260)."""


def with_rate(train: TrainConfig, rate: float) -> TrainConfig:
    """Returns the settings with this rate, if they have none."""
    return train if train.learning_rate else replace(train, learning_rate=float(f"{rate:.2g}"))


RECITATION = TrainConfig(
    rank=8,
    alpha=128.0,
    first_layer=0.9,
    learning_rate=0.0,
    epochs=24,
    batch_size=1,
    steps_per_epoch=1,
    beta1=0.5,
    beta2=0.95,
    rivals=32,
    stop_loss=0.06,
    stop_largest=0.5,
)
"""How one passage is learned by heart (docs/LOG.md, "Reciting faster"): in a dozen steps, all on the same tokens, so
that what the gradients were long ago says little."""
STUDY_ON_SHARE = 1 / 4
"""Rate at which a passage is studied on that is not yet recited word for word, as a share of the first rate."""
CONSOLIDATE_SHARE = 2 / 3
"""Rate for consolidation, as a share of the rate for a single memory."""


@dataclass(frozen=True)
class GateConfig(_Config):
    """What a memory must achieve before it is kept."""

    min_gain: float = number(0.3, 0, 1000)
    """Nats per token that the gold answers of the judging questions must gain over the untouched model."""
    min_recited: float = number(0.9, 0, 1)
    """Share of the passage's words that a memory must recite, if it learned to."""
    sure_answers: int = number(3, 1, 1_000_000)
    """So many more right answers than the untouched model's are beyond chance, as is a gain with an interval above
    0."""
    max_general_change: float = number(2.5, 0, 1e9)
    """Mean KL(untouched ‖ adapted) on the fixed general texts, in nats per token."""
    max_general_lost: float = number(0.15, 0, 1)
    """Net share of 40 everyday sentences that the untouched model completes correctly and the adapted one does not."""
    max_captured: float = number(0.2, 0, 1)
    """Share of the general questions that the router may send to the memory. An ordinary memory takes none or one of
    the 18."""
    max_lost: float = number(0.1, 0, 1)
    """Share of the right answers to general questions, and of memories near it, that may be lost because this memory
    would answer them wrongly."""


@dataclass(frozen=True)
class FilterConfig(_Config):
    """Which examples of a written self-edit are worth studying."""

    max_examples: int = number(30, 1, 10_000)
    """Maximum number of examples per sample."""
    min_words: int = number(3, 0, 100)
    """Minimum number of words of a line or of a question."""
    echo_words: int = number(6, 1, 100)
    """A run of this many words of the instruction is a copy."""
    loop_words: int = number(12, 1, 1000)
    """Shorter texts are not checked for loops."""
    min_distinct: float = number(0.6, 0, 1)
    """A text with a smaller share of distinct word triples is a loop."""
    min_compressed: float = number(0.25, 0, 1)
    """A text that compresses to a smaller share of its bytes is a loop; normal texts stay above 0.3."""
    long_bytes: int = number(400, 0, 1_000_000)
    """Shorter texts are not compressed."""


@dataclass(frozen=True)
class QuizConfig(_Config):
    """How questions about a passage are written and checked."""

    check_tokens: int = number(24, 1, 1000)
    """Maximum length of an answer to a question that is checked."""
    question_tokens: int = number(24, 1, 1000)
    min_known: float = number(0.6, 0, 1)
    """Minimum share of the longer words of a written question that the passage must have."""
    min_cloze_words: int = number(4, 1, 100)
    """Minimum number of words of a cloze text."""
    min_agreement: float = number(0.6, 0, 1)
    """Minimum F1 between the span and the answer that is given with the passage in the prompt."""
    spare: int = number(2, 0, 1000)
    """So many more questions than a passage lacks are made by rule; the model knows some without the passage."""


@dataclass(frozen=True)
class LearnConfig(_Config):
    """The main job. Defaults: docs/LOG.md, studies 2, 3, 5 and 8, "Learning real documents", and "Reciting".

    A model learns to recite each passage. Without `recite` it studies what it has written about it, and questions made
    by rule."""

    recite: bool = True
    """If true, styles, spans and questions per sentence are left out."""
    styles: tuple[str, ...] = ("paraphrase",)
    """Styles in which the model writes; questions with answers are studied beside them."""
    questions_per_sentence: int = number(2, 0, 100)
    """Questions to study for each statement in each epoch, each about some of its words; new ones in every epoch."""
    each_alone: bool = False
    """Also try each style by itself. This costs more and shows which style pays."""
    passage_words: int = number(110, 20, 100_000)
    """Maximum length of a passage; longer documents are split. A short one is found as often, and has fewer statements
    that can be taken for one another (docs/LOG.md, "Learning real documents")."""
    spans: int = number(12, 0, 1000)
    """Questions to write for each passage, before those that do not hold are dropped."""
    least_questions: int = number(6, 0, 1000)
    """If fewer judging questions of a passage hold, questions made by rule are added up to this number."""
    control_every: int = number(4, 1, 1_000_000)
    """One passage in so many is also studied alone, without edits, to show what the edits are worth."""
    seed: int = seed_number()
    filter: FilterConfig = FilterConfig()
    quiz: QuizConfig = QuizConfig()
    train: TrainConfig = TrainConfig(
        rank=8,
        alpha=32.0,
        first_layer=0.33,
        learning_rate=0.0,
        epochs=5,
        batch_size=1,
        steps_per_epoch=1,
        known_loss=0.25,
    )
    """A short passage gives few sequences; only in batches of one are they enough steps, and what is known by then need
    not be studied in every epoch (docs/LOG.md, "Learning real documents")."""
    recitation: TrainConfig = RECITATION
    """In place of `train` where the model recites."""
    gate: GateConfig = GateConfig()

    def for_rate(self, rate: float) -> LearnConfig:
        """The settings with all that depends on the model. `rate`: its learning rate for a memory (`Model.rate`)."""
        if not self.recite:
            return replace(self, train=with_rate(self.train, rate))
        return replace(self, train=with_rate(self.recitation, rate), styles=(), spans=0, questions_per_sentence=0)


@dataclass(frozen=True)
class ReleaseConfig(_Config):
    """Learning the changes of a library's release as code. Defaults: docs/LOG.md, "Code for a release"."""

    samples: int = number(3, 1, 100)
    """Before/after pairs to write for each change."""
    pair_tokens: int = number(144, 16, 10_000)
    """Maximum length of a pair that is written."""
    temperature: float = number(0.7, 0, 100)
    block: int = number(8, 1, 1000)
    """Changes that are written about together; a run that is stopped loses at most the work on these."""
    min_preferred: float = number(0.1, -1, 1)
    """By how much the share of judging pairs whose new side is likelier than the old one must grow, where it can."""
    seed: int = seed_number()
    train: TrainConfig = TrainConfig(
        rank=16, alpha=32.0, first_layer=0.33, learning_rate=0.0, epochs=3, batch_size=4, steps_per_epoch=1
    )
    gate: GateConfig = GateConfig()


@dataclass(frozen=True)
class ConsolidateConfig(_Config):
    """Training one adapter for many memories."""

    max_lost: float = number(0.15, 0, 1)
    """Share of the questions that a memory answered correctly and may answer wrongly with the shared adapter."""
    min_recited: float = number(0.9, 0, 1)
    """As for a single memory."""
    max_general_change: float = number(2.5, 0, 1e9)
    """Nats per token, as for a single memory."""
    max_general_lost: float = number(0.15, 0, 1)
    seed: int = seed_number()
    train: TrainConfig = TrainConfig(
        rank=32, alpha=64.0, first_layer=0.33, learning_rate=0.0, epochs=3, steps_per_epoch=1
    )
    recitation: TrainConfig = TrainConfig(
        rank=32,
        alpha=64.0,
        first_layer=0.5,
        learning_rate=0.0,
        epochs=12,
        batch_size=1,
        steps_per_epoch=1,
        rivals=32,
        stop_loss=0.03,
        stop_largest=0.3,
    )
    """In place of `train` if one of the memories recites."""


@dataclass(frozen=True)
class RestemConfig(_Config):
    """A round of the outer loop. Defaults: docs/LOG.md, studies 11 and 12. Published: 50 contexts, 5 edits, 3 seeds,
    2 rounds."""

    styles: tuple[str, ...] = (
        "implications",
        "rewrite",
        "paraphrase",
        "implications+questions",
        "paraphrase+questions",
    )
    """The styles that compete: each context gets edits in several. `+questions` adds questions made by rule."""
    contexts: int = number(50, 1, 100_000)
    """Tasks per round."""
    block: int = number(4, 1, 1000)
    """Contexts whose edits are written and trained together; a run that is stopped loses at most the work on these."""
    edits: int = number(5, 1, 1000)
    """Edits per context."""
    seeds: int = number(2, 2, 100)
    """How often each edit is trained; the differences between these runs are noise."""
    questions: int = number(1, 0, 100)
    """Questions made by rule about each sentence, over all epochs together, where a style has them."""
    survivors: int = number(2, 1, 1000)
    """Edits per context that are trained to the end; the others stop after `cut_after` epochs."""
    cut_after: int = number(1, 1, 1000)
    audited: int = number(4, 0, 100_000)
    """Minimum number of contexts in which no edit is stopped, to measure what stopping costs."""
    beyond_noise: float = number(1.645, 0, 100)
    """Standard errors by which the gain of an edit must exceed zero; 1.645 means 95 % one-sided."""
    answer_tokens: int = number(40, 1, 1000)
    """Maximum length of an answer."""
    guarded: int = number(16, 1, 1000)
    """Contexts on which a new editor is compared with its predecessor."""
    min_kept_share: float = number(0.7, 0, 1)
    """Share that a new editor must keep of its predecessor's distinct word triples, of those not in the passage, and of
    usable lines. This guards against collapse and is no test of quality, which is the reward of the next round. On 16
    contexts the share of one editor varies by .1."""
    max_copied: float = number(0.6, 0, 1)
    """Maximum share of a line's word triples that occur in the passage, for the editor to be finetuned on the line. The
    median of the untouched model's paraphrases is .53."""
    min_kept: int = number(5, 0, 100_000)
    """Minimum number of edits to finetune on."""
    seed: int = seed_number()
    filter: FilterConfig = FilterConfig()
    trial: TrainConfig = TrainConfig(
        rank=8, alpha=16.0, first_layer=0.75, learning_rate=4e-3, epochs=2, batch_size=2, steps_per_epoch=1
    )
    """Cheap, because a trial ranks edits and makes no memory."""
    finetune: TrainConfig = TrainConfig(
        rank=32, alpha=64.0, learning_rate=3e-4, epochs=2, batch_size=10, steps_per_epoch=1
    )
    """For the editor. Published: rank 64, alpha 128, 3e-4, 2 epochs, batches of 10."""

    def __post_init__(self):
        super().__post_init__()
        if self.cut_after >= self.trial.epochs:
            raise SelfeditError(f"cut_after is {self.cut_after}: give less than the trial's {self.trial.epochs} epochs")
        if self.trial.stop_loss:
            raise SelfeditError("stop_loss must stay 0: trials of one context are compared at the same epoch")
        if not self.styles or "questions" in self.styles:
            raise SelfeditError(
                "give styles to write in; questions alone are tried with every style that has +questions"
            )


@dataclass(frozen=True)
class StudyConfig(_Config):
    """How the conditions of `bench knowledge` study and answer."""

    style: str = "implications"
    """The style of self-edits if a condition names none."""
    questions_per_sentence: int = number(1, 0, 100)
    """Questions made by rule about each sentence, in each epoch; every epoch has new ones."""
    teacher_tokens: int = number(40, 1, 1000)
    """Maximum length of an answer that `distill` learns."""
    retrieved: int = number(3, 1, 1000)
    """Passages in the prompt of `retrieval`."""
    answer_tokens: int = number(40, 1, 1000)
    """Maximum length of an answer."""
    finetune_rate: float = number(5e-5, 0, 1)
    """Learning rate of `finetune`, which changes all weights; not tuned yet."""
    filter: FilterConfig = FilterConfig()


@dataclass(frozen=True)
class FewshotConfig(_Config):
    """How a few-shot task is studied and answered."""

    draws: int = number(20, 1, 1000)
    """Draws per study item that is wanted; a task that gives fewer different items is studied with those."""
    rated: int = number(8, 1, 1000)
    """Most frequent answers that are rated by their likelihood."""
    train: TrainConfig = TrainConfig(rank=16, alpha=64.0, first_layer=0.5, batch_size=1, steps_per_epoch=1)
    """For every recipe, which has its own learning rate and epochs. Published: rank 128, alpha 16, all layers, batches
    of 2. Twice the steps, each of which changes the weights more, solve more with the same tokens; the upper half of
    the layers learns as much in two thirds of the time (docs/LOG.md, study 16)."""


@dataclass(frozen=True)
class RecipeConfig(_Config):
    """A round of the outer loop for few-shot tasks. Published: 15 edits, one round, LoRA rank 16, 8 epochs, batches of
    5, 5e-5. With ten recipes to learn from, that is 16 steps, which is too few (docs/LOG.md, study 16)."""

    contexts: int = number(0, 0, 100_000)
    """Tasks per round; 0 means all."""
    block: int = number(1, 1, 1000)
    """Tasks whose recipes are trained together; a run that is stopped loses at most the work on these."""
    edits: int = number(5, 2, 1000)
    """Recipes per task. A task tells nothing if all its recipes solve it."""
    temperature: float = number(1.0, 0, 100)
    min_kept: int = number(4, 1, 100_000)
    """If fewer recipes solve their task, the best ones of unsolved tasks are added up to this number if they gained
    anything."""
    seed: int = seed_number()
    trial: FewshotConfig = FewshotConfig()
    finetune: TrainConfig = TrainConfig(
        rank=16, alpha=32.0, first_layer=0.67, learning_rate=1e-3, epochs=12, batch_size=2, steps_per_epoch=1
    )


Config = TypeVar("Config", bound=_Config)


def with_settings(config: Config, values: dict[str, int | float], others: Iterable[_Config] = ()) -> Config:
    """The config with these numbers changed, in itself and in the configs inside it. Names that neither it nor one of
    the `others` knows fail with the nearest name."""
    parts = {part.name: value for part in fields(config) if isinstance(value := getattr(config, part.name), _Config)}
    names = {kind: {one.name: one.type for one in number_fields(kind)} for kind in map(type, (config, *parts.values()))}
    _refuse_unknown(values, set().union(*names.values(), *map(_number_names, others)))

    def chosen(kind: type) -> dict[str, int | float]:
        return {name: _whole(value, names[kind][name]) for name, value in values.items() if name in names[kind]}

    changed = {name: replace(part, **chosen(type(part))) for name, part in parts.items()}
    return replace(config, **changed, **chosen(type(config)))


def _number_names(config: _Config) -> set[str]:
    parts = [value for part in fields(config) if isinstance(value := getattr(config, part.name), _Config)]
    return {one.name for kind in map(type, (config, *parts)) for one in number_fields(kind)}


def _whole(value: int | float, kind: str) -> int | float:
    """The value as an integer if the setting is one: 1e3 and 2.0 are whole numbers."""
    return int(value) if kind == "int" and isinstance(value, float) and value.is_integer() else value


def _refuse_unknown(names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise SelfeditError(f"unknown setting {name!r}; {advice}")
