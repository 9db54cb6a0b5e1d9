"""The self-edit of a few-shot task: how to study it, as JSON that the model writes.

In: a task as text. Out: Recipes. SEAL's schema (docs/SEAL.md, §2) and two things more: the number of items, and a strategy that
learns all outputs in view. It is written under a grammar, so what a model writes always parses; what a person or a file
gives is checked: values out of range are refused, not tried again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, Request
from selfedit.model.chat import TokenizedExample
from selfedit.model.grammar import choices
from selfedit.model.load import Model
from selfedit.tasks.augment import FAMILIES

LOSSES = ("all_tokens", "all_outputs", "output_tokens")
"""What is learned of an item: all that is read; every output in it; the last output, which its question asks for."""
STRATEGY = "train_using_"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS = (1, 2, 3, 4, 5)
ITEMS = (16, 32, 48, 64)
"""What the grammar offers; a file may say anything in the bounds."""
MOST_RATE, MOST_EPOCHS, MOST_ITEMS = 0.05, 20, 512


@dataclass(frozen=True)
class Recipe:
    basic: bool = True
    """Turned, flipped, moved and mirrored copies of the task."""
    size: bool = False
    chain: bool = False
    repeat: bool = False
    loss: str = "all_outputs"
    """One of LOSSES."""
    learning_rate: float = 1e-3
    epochs: int = 2
    items: int = 48
    """Leave-one-out and leave-two-out tasks to study, drawn from all that the augmentations allow."""

    def __post_init__(self):
        for name, most in (("learning_rate", MOST_RATE), ("epochs", MOST_EPOCHS), ("items", MOST_ITEMS)):
            value, whole = getattr(self, name), name != "learning_rate"
            if type(value) not in ((int,) if whole else (int, float)) or not 0 < value <= most:
                raise SelfeditError(
                    f"{name} is {str(value)[:20]}: give {'a whole' if whole else 'a'} number above 0, at most {most}"
                )
        if odd := [f.name for f in fields(self) if f.type == "bool" and type(getattr(self, f.name)) is not bool]:
            raise SelfeditError(f"{odd[0]} is {str(getattr(self, odd[0]))[:20]}: give true or false")
        if self.loss not in LOSSES:
            raise SelfeditError(f"loss is {str(self.loss)[:20]}; known: {', '.join(LOSSES)}")

    def brief(self) -> str:
        """For people."""
        copies = ", ".join(name for name in FAMILIES if getattr(self, name))
        kinds = f"with {copies} copies" if copies else "as they are"
        return f"{self.items} items {kinds}, {self.loss.replace('_', ' ')}, rate {self.learning_rate:g}, {self.epochs} epoch{'s' if self.epochs > 1 else ''}"

    def to_json(self) -> str:
        """As a model writes it."""
        data = {f"use_{name}_augmentations": getattr(self, name) for name in FAMILIES} | {"num_items": self.items}
        training = {
            "strategy": STRATEGY + self.loss,
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.epochs,
        }
        return json.dumps({"data_generation": data, "training": training})


def read_recipe(text: str) -> Recipe:
    """Raises SelfeditError on what is no recipe, has unknown fields, or values out of range. What is missing is as usual."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SelfeditError(f"a recipe is JSON: {str(error)[:80]}") from None
    known = {"data_generation": {f"use_{name}_augmentations": name for name in FAMILIES} | {"num_items": "items"}}
    known["training"] = {"strategy": "loss", "learning_rate": "learning_rate", "num_train_epochs": "epochs"}
    if (
        not isinstance(content, dict)
        or not all(isinstance(part, dict) for part in content.values())
        or content.keys() - known.keys()
    ):
        raise SelfeditError(f"a recipe is an object of {' and '.join(known)}, each an object")
    values = {}
    for part, own in content.items():
        for name, value in own.items():
            if name not in known[part]:
                raise SelfeditError(f"{part} has no {name[:40]!r}; known: {', '.join(known[part])}")
            if name == "strategy":
                known_here = {STRATEGY + loss: loss for loss in LOSSES}
                if not isinstance(value, str) or value not in known_here:
                    raise SelfeditError(f"strategy is {str(value)[:40]}; known: {', '.join(known_here)}")
                value = known_here[value]
            values[known[part][name]] = value
    return Recipe(**values)


INSTRUCTION = (
    "Choose how to practise this task before the test: which augmented copies of its examples to make "
    "(basic: turned, flipped and moved; size: enlarged; chain: two changes in a row; repeat: set side by side), how many items, "
    "what to learn (all tokens, all outputs, or the last output's tokens), the learning rate and the number of epochs. Answer with JSON."
)


FIXED_HERE = tuple(map(repr, (INSTRUCTION, RATES, EPOCHS, ITEMS)))
"""What recipes depend on and no option changes."""


def write_recipes(
    model: Model, asked: Sequence[tuple[str, int]], editor: Adapters | None = None, *, temperature: float = 1.0,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Recipe]:  # fmt: skip
    """For each (task as text, seed) a recipe. `editor`: a stack whose only adapter writes, instead of the untouched model."""
    allow = choices(model.chat, grammar())
    adapter = None if editor is None else 0
    requests = [
        Request(
            tuple(recipe_prompt(model, text)), adapter, recipe_tokens(model), temperature, 1.0, seed=seed, allow=allow
        )
        for text, seed in asked
    ]
    return [
        read_recipe(model.chat.decode(tokens)) for tokens in model.backend.generate(requests, editor, on_token=on_token)
    ]


def writing_sequence(model: Model, text: str, recipe: Recipe) -> TokenizedExample:
    """What an editor studies to write this recipe for this task: where the grammar leaves a choice is a label."""
    prompt, allow = recipe_prompt(model, text), choices(model.chat, grammar())
    written = [token for part in _spelled(recipe) for token in model.chat.encode(part)]
    free = tuple(len(prompt) + i for i in range(len(written)) if len(allow(written[:i])) > 1)
    return TokenizedExample((*prompt, *written), free[0], chosen=free)


def recipe_tokens(model: Model) -> int:
    """Of the longest recipe, and its end."""
    return sum(max(len(model.chat.encode(text)) for text in part) for part in grammar()) + 1


def recipe_prompt(model: Model, text: str) -> list[int]:
    return model.chat.ask(f"{text}\n\n{INSTRUCTION}")


def grammar() -> list[tuple[str, ...]]:
    """Every recipe that a model can write, as choices one after another."""
    flag, options = (
        ("true", "false"),
        {
            **dict.fromkeys(FAMILIES),
            "items": ITEMS,
            "epochs": EPOCHS,
            "learning_rate": RATES,
            "loss": [STRATEGY + loss for loss in LOSSES],
        },
    )
    parts: list[tuple[str, ...]] = []
    for name, before in _fields().items():
        of = options.get(name)
        parts += [(before,), flag if of is None else tuple(map(json.dumps, of))]
    return [*parts, ("}}",)]


def _fields() -> dict[str, str]:
    """Field → what stands before its value, as `to_json` writes it."""
    before = {name: f'"use_{name}_augmentations": ' for name in FAMILIES}
    before |= {
        "items": '"num_items": ',
        "loss": '"strategy": ',
        "learning_rate": '"learning_rate": ',
        "epochs": '"num_train_epochs": ',
    }
    starts = {"basic": '{"data_generation": {', "loss": '}, "training": {'}
    return {name: starts.get(name, ", ") + text for name, text in before.items()}


def _spelled(recipe: Recipe) -> list[str]:
    """The recipe's JSON in the grammar's pieces."""
    values = {
        name: json.dumps(STRATEGY + recipe.loss if name == "loss" else getattr(recipe, name)) for name in _fields()
    }
    return [piece for name, before in _fields().items() for piece in (before, values[name])] + ["}}"]
