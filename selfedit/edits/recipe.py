"""The self-edit of a few-shot task: how to study it, as JSON that the model writes.

In: a task as text. Out: Recipes. SEAL's schema (SEAL.md, 2) and one field more, the number of items. It is written under
a grammar, so what a model writes always parses; what a person or a file gives is checked: values out of range are
refused, not tried again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from selfedit.errors import SelfeditError
from selfedit.model.chat import Sequence as TokenSequence
from selfedit.model.generate import Request, generate
from selfedit.model.grammar import choices
from selfedit.model.load import Model
from selfedit.model.stack import Stack
from selfedit.tasks.augment import FAMILIES

STRATEGIES = {"train_using_all_tokens": False, "train_using_output_tokens": True}
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
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
    output_only: bool = False
    """Loss on the last output alone; else on all that is read."""
    learning_rate: float = 1e-3
    epochs: int = 2
    items: int = 48
    """Leave-one-out and leave-two-out tasks to study, drawn from all that the augmentations allow."""

    def __post_init__(self):
        for name, most in (("learning_rate", MOST_RATE), ("epochs", MOST_EPOCHS), ("items", MOST_ITEMS)):
            value, whole = getattr(self, name), name != "learning_rate"
            if type(value) not in ((int,) if whole else (int, float)) or not 0 < value <= most:
                raise SelfeditError(f"{name} is {str(value)[:20]}: give {'a whole' if whole else 'a'} number above 0, at most {most}")
        if odd := [f.name for f in fields(self) if f.type == "bool" and type(getattr(self, f.name)) is not bool]:
            raise SelfeditError(f"{odd[0]} is {str(getattr(self, odd[0]))[:20]}: give true or false")

    def to_json(self) -> str:
        """As a model writes it."""
        strategy = next(name for name, only in STRATEGIES.items() if only == self.output_only)
        data = {f"use_{name}_augmentations": getattr(self, name) for name in FAMILIES} | {"num_items": self.items}
        training = {"strategy": strategy, "learning_rate": self.learning_rate, "num_train_epochs": self.epochs}
        return json.dumps({"data_generation": data, "training": training})


def read_recipe(text: str) -> Recipe:
    """Raises SelfeditError on what is no recipe, has unknown fields, or values out of range. What is missing is as usual."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SelfeditError(f"a recipe is JSON: {str(error)[:80]}") from None
    known = {"data_generation": {f"use_{name}_augmentations": name for name in FAMILIES} | {"num_items": "items"}}
    known["training"] = {"strategy": "output_only", "learning_rate": "learning_rate", "num_train_epochs": "epochs"}
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()) or content.keys() - known.keys():
        raise SelfeditError(f"a recipe is an object of {' and '.join(known)}, each an object")
    values = {}
    for part, own in content.items():
        for name, value in own.items():
            if name not in known[part]:
                raise SelfeditError(f"{part} has no {name[:40]!r}; known: {', '.join(known[part])}")
            if name == "strategy":
                if not isinstance(value, str) or value not in STRATEGIES:
                    raise SelfeditError(f"strategy is {str(value)[:40]}; known: {', '.join(STRATEGIES)}")
                value = STRATEGIES[value]
            values[known[part][name]] = value
    return Recipe(**values)


INSTRUCTION = (
    "Choose how to practise this task before the test: which augmented copies of its examples to make "
    "(basic: turned, flipped and moved; size: enlarged; chain: two changes in a row; repeat: set side by side), how many items, "
    "whether to learn all tokens or only the outputs, the learning rate and the number of epochs. Answer with JSON."
)


FIXED_HERE = tuple(map(repr, (INSTRUCTION, RATES, EPOCHS, ITEMS)))
"""What recipes depend on and no option changes."""


def write_recipes(
    model: Model, asked: Sequence[tuple[str, int]], editor: Stack | None = None, *, temperature: float = 1.0,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Recipe]:  # fmt: skip
    """For each (task as text, seed) a recipe. `editor`: a stack whose only adapter writes, instead of the untouched model."""
    allow = choices(model.chat, grammar())
    adapter = None if editor is None else 0
    requests = [Request(tuple(recipe_prompt(model, text)), adapter, recipe_tokens(model), temperature, 1.0, seed=seed, allow=allow) for text, seed in asked]
    return [read_recipe(model.chat.decode(tokens)) for tokens in generate(model, requests, editor, on_token=on_token)]


def writing_sequence(model: Model, text: str, recipe: Recipe) -> TokenSequence:
    """What an editor studies to write this recipe for this task."""
    prompt, parts = recipe_prompt(model, text), _spelled(recipe)
    return TokenSequence((*prompt, *(t for part in parts for t in model.chat.encode(part)), *model.chat.end_of_turn), len(prompt))


def recipe_tokens(model: Model) -> int:
    """Of the longest recipe, and its end."""
    return sum(max(len(model.chat.encode(text)) for text in part) for part in grammar()) + 1


def recipe_prompt(model: Model, text: str) -> list[int]:
    return model.chat.ask(f"{text}\n\n{INSTRUCTION}")


def grammar() -> list[tuple[str, ...]]:
    """Every recipe that a model can write, as choices one after another."""
    flag, options = ("true", "false"), {**dict.fromkeys(FAMILIES), "items": ITEMS, "epochs": EPOCHS, "learning_rate": RATES}
    parts: list[tuple[str, ...]] = []
    for name, before in _fields().items():
        of = options.get(name)
        parts += [(before,), tuple(f'"{s}"' for s in STRATEGIES) if name == "output_only" else flag if of is None else tuple(map(json.dumps, of))]
    return [*parts, ("}}",)]


def _fields() -> dict[str, str]:
    """Field → what stands before its value, as `to_json` writes it."""
    before = {name: f'"use_{name}_augmentations": ' for name in FAMILIES}
    before |= {"items": '"num_items": ', "output_only": '"strategy": ', "learning_rate": '"learning_rate": ', "epochs": '"num_train_epochs": '}
    starts = {"basic": '{"data_generation": {', "output_only": '}, "training": {'}
    return {name: starts.get(name, ", ") + text for name, text in before.items()}


def _spelled(recipe: Recipe) -> list[str]:
    """The recipe's JSON in the grammar's pieces."""
    strategy = {only: f'"{name}"' for name, only in STRATEGIES.items()}
    values = {name: strategy[recipe.output_only] if name == "output_only" else json.dumps(getattr(recipe, name)) for name in _fields()}
    return [piece for name, before in _fields().items() for piece in (before, values[name])] + ["}}"]
