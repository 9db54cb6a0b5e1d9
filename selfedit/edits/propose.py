"""A passage → the self-edits a model writes about it, in every style asked for, in one batched call.

`propose` is what `learn` needs of one passage; `write_edits` is one sample of a style for each of many passages, by the
untouched model or by an editor: an adapter that has learned to write (loop/restem.py).

What is not worth studying is dropped and counted by reason: `parse.clean` finds empty, copied and looping lines and
text of the prompt; here also lines that name a number or a name the passage does not have, since a small model's
inventions would be learned as firmly as the facts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from selfedit.edits.parse import clean, parse_edit, plain_line, sentences
from selfedit.edits.styles import STYLES, Style
from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, Request
from selfedit.model.chat import TokenizedExample
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
    check_styles(styles)
    asked = [
        (STYLES[name], prompt)
        for name in styles
        for prompt in _prompts(model, STYLES[name], passage)
        for _ in range(STYLES[name].samples)
    ]
    requests = [
        _request(style, tokens, None, stable_seed(seed, passage.id, style.name, i))
        for i, (style, tokens) in enumerate(asked)
    ]
    texts = [model.chat.decode(tokens) for tokens in model.backend.generate(requests, on_token=on_token)]
    edits, held_out, dropped = [], [], Counter()
    for name in styles:
        own = [text for (style, _), text in zip(asked, texts) if style.name == name]
        edit, reasons = _read(STYLES[name], own, passage)
        dropped.update(reasons)
        if STYLES[name].unit == "sentence":  # every second sample of a sentence is kept from study, to judge by
            lines = edit.text.split("\n")
            apart = set(lines[1::2]) - set(lines[::2])
            held_out += [e.text for e in edit.examples if e.text in apart]
            edit = replace(edit, examples=tuple(e for e in edit.examples if e.text not in apart))
        if edit.examples:
            edits.append(edit)
    return Proposal(edits, held_out, +dropped)


def write_edits(
    model: Model,
    asked: Sequence[tuple[Passage, str, int]],
    editor: Adapters | None = None,
    *,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[SelfEdit]:
    """For each (passage, style, seed) one sample; where nothing in it is worth studying, it has no examples.

    `editor`: a stack whose only adapter writes, instead of the untouched model. Raises SelfeditError on a style that does
    not exist.
    """
    check_styles({name for _, name, _ in asked})
    requests, counts = [], []
    for passage, name, seed in asked:
        style, prompts = STYLES[name], _prompts(model, STYLES[name], passage)
        counts.append(len(prompts))
        requests += [
            _request(style, tokens, None if editor is None else 0, stable_seed(seed, passage.id, name, i))
            for i, tokens in enumerate(prompts)
        ]
    texts = iter([model.chat.decode(tokens) for tokens in model.backend.generate(requests, editor, on_token=on_token)])
    return [
        _read(STYLES[name], [next(texts) for _ in range(n)], passage)[0] for (passage, name, _), n in zip(asked, counts)
    ]


def writing_sequences(model: Model, passage: Passage, edit: SelfEdit) -> list[TokenizedExample]:
    """What an editor studies to write so again: the prompts, and as labels what was worth studying of the answers."""
    style, worth = STYLES[edit.style], {e.text for e in edit.examples}
    prompts = _prompts(model, style, passage)
    if style.unit == "sentence":
        answers = [f" {line}\n" if line in worth else "" for line in edit.text.split("\n")]
    else:
        answers = ["\n".join(f"Q: {e.prompt}\nA: {e.text}" if e.prompt else e.text for e in edit.examples)]
    ends = () if style.unit == "sentence" else tuple(model.chat.end_of_turn)
    return [
        TokenizedExample((*p, *model.chat.encode(a), *ends), len(p)) for p, a in zip(prompts, answers, strict=True) if a
    ]


def check_styles(names: Iterable[str]) -> None:
    """Raises SelfeditError on one that does not exist."""
    for name in names:
        if name not in STYLES:
            raise SelfeditError(f"unknown style {name!r}; known: {', '.join(STYLES)}")


def _read(style: Style, texts: Sequence[str], passage: Passage) -> tuple[SelfEdit, Counter]:
    """What was written, parsed, without what is not worth studying, and how much was dropped for which reason."""
    if style.unit == "sentence":  # the worked lines go on and on: the first is the answer
        texts = [plain_line(text.strip().split("\n")[0]) for text in texts]
    found = [e for text in texts for e in parse_edit(style.name, text, passage)]
    kept, dropped = clean(found, passage, [style.instruction])
    faithful = tuple(example for example in kept if not invents(example, passage))
    dropped["invented"] += len(kept) - len(faithful)
    return SelfEdit(style.name, "\n".join(texts), faithful), dropped


def _request(style: Style, tokens: tuple[int, ...], adapter: int | None, seed: int) -> Request:
    return Request(tokens, adapter, style.new_tokens, style.temperature, seed=seed, one_line=style.unit == "sentence")


def _prompts(model: Model, style: Style, passage: Passage) -> list[tuple[int, ...]]:
    if style.unit == "sentence":
        return [tuple(model.chat.continued(style.instruction + s + style.cue)) for s in sentences(passage.text)]
    return [tuple(model.chat.ask(passage.with_request(style.instruction)))]


_WORD = re.compile(r"\w[\w'’.-]*\w|\w")


def invents(example: Example, passage: Passage) -> bool:
    """Whether the example has a number, or a name inside a sentence, that the passage and its title do not have."""
    known = {_stem(word) for word in _WORD.findall(f"{passage.title} {passage.text}")}
    for text in (example.prompt, example.text):
        for match in _WORD.finditer(text):
            word, before = match[0], text[: match.start()].rstrip()
            inside = before and before[-1] not in '.!?:"“'
            if (word[0].isdigit() or (inside and word[0].isupper() and len(word) > 1)) and _stem(word) not in known:
                return True
    return False


def _stem(word: str) -> str:
    word = word.casefold().replace("’", "'").removesuffix("'s").rstrip("'.")
    return word[:5] if not word[0].isdigit() else word
