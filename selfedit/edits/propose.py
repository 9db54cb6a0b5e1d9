"""A passage → the self-edits a model writes about it, in every style asked for, in one batched call.

What is not worth studying is dropped and counted by reason: `parse.clean` finds empty, copied and looping lines and
text of the prompt; here also lines that name a number or a name the passage does not have, since a small model's
inventions would be learned as firmly as the facts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfedit.edits.parse import clean, parse_edit, sentences
from selfedit.edits.styles import STYLES, Style
from selfedit.errors import SelfeditError
from selfedit.model.generate import Request, generate
from selfedit.model.load import Model
from selfedit.types import Example, Passage, SelfEdit, stable_seed


@dataclass(frozen=True)
class Proposal:
    edits: list[SelfEdit]
    held_out: list[str]
    """Lines in a `sentence` style that no edit holds: they say the passage's facts in words nobody has studied."""
    dropped: Counter
    """What was written but not worth studying, by reason."""


def propose(
    model: Model,
    passage: Passage,
    styles: Sequence[str],
    *,
    seed: int = 0,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> Proposal:
    """One self-edit a style (all its samples together), without those that came out empty.

    Raises SelfeditError on a style that does not exist.
    """
    unknown = [name for name in styles if name not in STYLES]
    if unknown:
        raise SelfeditError(f"unknown style {unknown[0]!r}; known: {', '.join(STYLES)}")
    asked = [(STYLES[name], prompt) for name in styles for prompt in _prompts(model, STYLES[name], passage)]
    requests = [
        Request(tokens, None, style.new_tokens, style.temperature, seed=stable_seed(seed, passage.id, style.name, i))
        for i, (style, tokens) in enumerate(asked)
    ]
    texts = [model.chat.decode(tokens) for tokens in generate(model, requests, on_token=on_token)]
    edits, held_out, dropped = [], [], Counter()
    for name in styles:
        own = [text for (style, _), text in zip(asked, texts) if style.name == name]
        by_sentence = STYLES[name].unit == "sentence"
        if by_sentence:  # the worked lines go on and on: the first is the answer
            own = [text.strip().split("\n")[0] for text in own]
        found = [e for text in own for e in parse_edit(name, text, passage)]
        kept, reasons = clean(found, passage, [STYLES[name].instruction])
        faithful = [example for example in kept if not invents(example, passage)]
        dropped.update(reasons)
        dropped["invented"] += len(kept) - len(faithful)
        if by_sentence:  # every second sample of a sentence is kept from study, to judge by
            apart = {line.strip() for line in own[1::2]} - {line.strip() for line in own[::2]}
            held_out += [e.text for e in faithful if e.text in apart]
            faithful = [e for e in faithful if e.text not in apart]
        if faithful:
            edits.append(SelfEdit(name, "\n".join(own), tuple(faithful)))
    return Proposal(edits, held_out, +dropped)


def _prompts(model: Model, style: Style, passage: Passage) -> list[tuple[int, ...]]:
    if style.unit == "sentence":
        prompts = [model.chat.continued(style.instruction + s + style.cue) for s in sentences(passage.text)]
    else:
        prompts = [model.chat.ask(passage.in_view(style.instruction))]
    return [tuple(prompt) for prompt in prompts for _ in range(style.samples)]


_WORD = re.compile(r"\w[\w'’.-]*\w|\w")


def invents(example: Example, passage: Passage) -> bool:
    """Whether the example has a number, or a name inside a sentence, that the passage and its title do not have."""
    known = {_stem(word) for word in _WORD.findall(f"{passage.title} {passage.text}")}
    for text in (example.prompt, example.text):
        for match in _WORD.finditer(text):
            word, before = match[0], text[: match.start()].rstrip()
            inside = before and before[-1] not in ".!?:\"“"
            if (word[0].isdigit() or (inside and word[0].isupper() and len(word) > 1)) and _stem(word) not in known:
                return True
    return False


def _stem(word: str) -> str:
    word = word.casefold().replace("’", "'").removesuffix("'s").rstrip("'.")
    return word[:5] if not word[0].isdigit() else word
