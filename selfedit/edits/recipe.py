"""The self-edit of a few-shot task: a recipe for training on it, as JSON that the model writes.

In: a task as text. Out: Recipes. The schema is that of SEAL (docs/SEAL.md, section 2), with two additions: the number
of items, and a strategy that trains on all outputs. A grammar constrains the model, so its output always parses.
Recipes from users and files are checked; values out of range are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, OnStep, Request, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.grammar import choices
from selfedit.model.load import Model
from selfedit.tasks.augment import FAMILIES

LOSSES = ("all_tokens", "all_outputs", "output_tokens")
"""The tokens of an item that are labels: all; those of every output; or those of the last output, the answer."""
STRATEGY = "train_using_"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS = (1, 2, 3, 4, 5)
ITEMS = (16, 32, 48, 64)
"""RATES, EPOCHS and ITEMS are the choices of the grammar; a recipe in a file may have other values up to MAX_…."""
MAX_RATE, MAX_EPOCHS, MAX_ITEMS = 0.05, 20, 512
_JSON = {
    "data_generation": {f"use_{name}_augmentations": name for name in FAMILIES} | {"num_items": "items"},
    "training": {"strategy": "loss", "learning_rate": "learning_rate", "num_train_epochs": "epochs"},
}
"""The JSON object of a recipe: its parts, and of each the names with the fields of Recipe."""


@dataclass(frozen=True)
class Recipe:
    basic: bool = True
    """Add rotated, flipped, shifted and mirrored copies of the task."""
    size: bool = False
    chain: bool = False
    repeat: bool = False
    loss: str = "all_outputs"
    """One of LOSSES."""
    learning_rate: float = 1e-3
    epochs: int = 2
    items: int = 48
    """Number of leave-one-out and leave-two-out tasks to train on, sampled from all that the augmentations give."""

    def __post_init__(self):
        for name, most in (("learning_rate", MAX_RATE), ("epochs", MAX_EPOCHS), ("items", MAX_ITEMS)):
            value, whole = getattr(self, name), name != "learning_rate"
            if type(value) not in ((int,) if whole else (int, float)) or not 0 < value <= most:
                raise SelfeditError(
                    f"{name} is {str(value)[:20]}: give {'a whole' if whole else 'a'} number above 0, at most {most}"
                )
        if wrong := [f.name for f in fields(self) if f.type == "bool" and type(getattr(self, f.name)) is not bool]:
            raise SelfeditError(f"{wrong[0]} is {str(getattr(self, wrong[0]))[:20]}: give true or false")
        if self.loss not in LOSSES:
            raise SelfeditError(f"loss is {str(self.loss)[:20]}; known: {', '.join(LOSSES)}")

    def brief(self) -> str:
        """Returns a short description."""
        copies = ", ".join(name for name in FAMILIES if getattr(self, name))
        items = f"{self.items} items " + (f"with {copies} copies" if copies else "as they are")
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return f"{items}, {self.loss.replace('_', ' ')}, rate {self.learning_rate:g}, {epochs}"

    def to_json(self) -> str:
        """Returns the recipe in the format that a model writes."""
        return "".join(_spelled(self))


def read_recipe(text: str) -> Recipe:
    """Reads a recipe; missing fields have their defaults. Raises SelfeditError on unknown fields and invalid values."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SelfeditError(f"a recipe is JSON: {str(error)[:80]}") from None
    parts = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or content.keys() - _JSON.keys():
        raise SelfeditError(f"a recipe is an object of {' and '.join(_JSON)}, each an object")
    values = {}
    for part, settings in content.items():
        for name, value in settings.items():
            if name not in _JSON[part]:
                raise SelfeditError(f"{part} has no {name[:40]!r}; known: {', '.join(_JSON[part])}")
            if name == "strategy":
                strategies = {STRATEGY + loss: loss for loss in LOSSES}
                if not isinstance(value, str) or value not in strategies:
                    raise SelfeditError(f"strategy is {str(value)[:40]}; known: {', '.join(strategies)}")
                value = strategies[value]
            values[_JSON[part][name]] = value
    return Recipe(**values)


INSTRUCTION = (
    "Choose how to practise this task before the test: which augmented copies of its examples to make "
    "(basic: turned, flipped and moved; size: enlarged; chain: two changes in a row; repeat: set side by side), "
    "how many items, what to learn (all tokens, all outputs, or the last output's tokens), the learning rate and "
    "the number of epochs. Answer with JSON."
)


def write_recipes(
    model: Model,
    tasks: Sequence[tuple[str, int]],
    editor: Adapters | None = None,
    *,
    temperature: float = 1.0,
    on_token: OnStep = no_steps,
) -> list[Recipe]:
    """Writes a recipe for each (task as text, seed).

    `editor`: a single adapter that writes instead of the untouched model.
    """
    allow = choices(model.chat, grammar())
    adapter = None if editor is None else 0
    requests = [
        Request(
            tuple(recipe_prompt(model, text)), adapter, recipe_tokens(model), temperature, 1.0, seed=seed, allow=allow
        )
        for text, seed in tasks
    ]
    return [
        read_recipe(model.chat.decode(tokens)) for tokens in model.backend.generate(requests, editor, on_token=on_token)
    ]


def writing_sequence(model: Model, text: str, recipe: Recipe) -> TokenizedExample:
    """Returns the example for finetuning an editor on this recipe; labels are the tokens with a choice."""
    prompt, allow = recipe_prompt(model, text), choices(model.chat, grammar())
    written = [token for part in _spelled(recipe) for token in model.chat.encode(part)]
    free = tuple(len(prompt) + i for i in range(len(written)) if len(allow(written[:i])) > 1)
    return TokenizedExample((*prompt, *written), free[0], chosen=free)


def recipe_tokens(model: Model) -> int:
    """Returns the number of tokens of the longest recipe, including the end token."""
    return sum(max(len(model.chat.encode(text)) for text in part) for part in grammar()) + 1


def recipe_prompt(model: Model, text: str) -> list[int]:
    return model.chat.ask(f"{text}\n\n{INSTRUCTION}")


def grammar() -> list[tuple[str, ...]]:
    """Returns the recipes that a model can write, as a sequence of choices."""
    values = {"items": ITEMS, "epochs": EPOCHS, "learning_rate": RATES, "loss": [STRATEGY + loss for loss in LOSSES]}
    values |= dict.fromkeys(FAMILIES, (True, False))
    parts: list[tuple[str, ...]] = []
    for name, before in _fields().items():
        parts += [(before,), tuple(map(json.dumps, values[name]))]
    return [*parts, ("}}",)]


def _fields() -> dict[str, str]:
    """Returns field → the JSON text before its value."""
    before, start = {}, "{"
    for part, settings in _JSON.items():
        keys = iter(settings.items())
        key, field = next(keys)
        before[field] = f'{start}"{part}": {{"{key}": '
        before |= {field: f', "{key}": ' for key, field in keys}
        start = "}, "
    return before


def _spelled(recipe: Recipe) -> list[str]:
    """Returns the JSON of the recipe in the pieces of the grammar."""
    values = {name: STRATEGY + recipe.loss if name == "loss" else getattr(recipe, name) for name in _fields()}
    return [piece for name, before in _fields().items() for piece in (before, json.dumps(values[name]))] + ["}}"]
