"""A passage → the self-edits that a model writes about it, in several styles, in one batched call.

`propose` writes what `learn` needs. `write_edits` writes one sample of a style for each of many passages, with the
untouched model or with an editor, that is an adapter that was trained to write edits (loop/outer.py).

Examples that are not worth training on are dropped and counted by reason. `parse.clean` drops empty, copied and
repetitive lines and text of the prompt. This module also drops lines with a number or a name that the passage does not
have, since the model would learn such inventions as firmly as facts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from selfedit.config import FilterConfig
from selfedit.edits.parse import clean, parse_edit, plain_line, statements
from selfedit.edits.styles import STYLES, Style
from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, OnStep, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.model.writer import Writer, WriteRequest
from selfedit.text import plain, root
from selfedit.types import Example, Passage, SelfEdit, stable_seed


@dataclass(frozen=True)
class Proposal:
    edits: list[SelfEdit]
    held_out: list[str]
    """Lines of `sentence` styles that are in no edit; they state facts of the passage in words that no edit has."""
    dropped: Counter
    """Number of dropped examples per reason."""


def propose(
    writer: Writer,
    passages: Sequence[Passage],
    styles: Sequence[str],
    *,
    seed: int = 0,
    config: FilterConfig = FilterConfig(),
    on_token: OnStep = no_steps,
) -> list[Proposal]:
    """Returns for each passage one self-edit per style, with the examples of all its samples, without empty edits.

    All passages are written about in one batch. Raises SelfeditError on an unknown style.
    """
    check_styles(styles)
    unseeded = [
        [
            (name, request)
            for name in styles
            for request in _requests(STYLES[name], passage)
            for _ in range(STYLES[name].samples)
        ]
        for passage in passages
    ]
    requests = [
        replace(request, seed=stable_seed(seed, passage.id, name, i))
        for passage, of_passage in zip(passages, unseeded)
        for i, (name, request) in enumerate(of_passage)
    ]
    texts = iter(writer.write(requests, on_token))
    return [
        _proposal(passage, styles, [(name, next(texts)) for name, _ in of_passage], config)
        for passage, of_passage in zip(passages, unseeded)
    ]


def _proposal(
    passage: Passage, styles: Sequence[str], written: Sequence[tuple[str, str]], config: FilterConfig
) -> Proposal:
    """`written`: the name of a style and a sample in it, in the order of the styles."""
    edits, held_out, dropped = [], [], Counter()
    for name in styles:
        edit, reasons = _read(STYLES[name], [text for style, text in written if style == name], passage, config)
        dropped.update(reasons)
        if STYLES[name].unit == "sentence":  # every second sample of a sentence is held out for judging
            lines = edit.text.split("\n")
            reserved = set(lines[1::2]) - set(lines[::2])
            held_out += [e.text for e in edit.examples if e.text in reserved]
            edit = replace(edit, examples=tuple(e for e in edit.examples if e.text not in reserved))
        if edit.examples:
            edits.append(edit)
    return Proposal(edits, held_out, +dropped)


def write_edits(
    model: Model,
    jobs: Sequence[tuple[Passage, str, int]],
    editor: Adapters | None = None,
    *,
    writer: Writer | None = None,
    config: FilterConfig = FilterConfig(),
    on_token: OnStep = no_steps,
) -> list[SelfEdit]:
    """Writes one self-edit for each (passage, style, seed); it has no examples if none is worth training on.

    `editor`: a single adapter that writes instead of the untouched model. `writer`: writes instead of both. Raises
    SelfeditError on an unknown style.
    """
    check_styles({name for _, name, _ in jobs})
    requests, counts = [], []
    for passage, name, seed in jobs:
        of_job = _requests(STYLES[name], passage)
        counts.append(len(of_job))
        requests += [replace(r, seed=stable_seed(seed, passage.id, name, i)) for i, r in enumerate(of_job)]
    texts = iter(writer.write(requests, on_token) if writer else model.write(requests, on_token, editor=editor))
    return [
        _read(STYLES[name], [next(texts) for _ in range(n)], passage, config)[0]
        for (passage, name, _), n in zip(jobs, counts)
    ]


def writing_sequences(model: Model, passage: Passage, edit: SelfEdit) -> list[TokenizedExample]:
    """Returns the examples for finetuning an editor on this edit: its prompts, and as labels the examples it kept."""
    style, kept = STYLES[edit.style], {e.text for e in edit.examples}
    prompts = [model.prompt(request) for request in _requests(style, passage)]
    if style.unit == "sentence":
        answers = [f" {line}\n" if line in kept else "" for line in edit.text.split("\n")]
    else:
        answers = ["\n".join(f"Q: {e.prompt}\nA: {e.text}" if e.prompt else e.text for e in edit.examples)]
    ends = () if style.unit == "sentence" else tuple(model.chat.end_of_turn)
    return [
        TokenizedExample((*p, *model.chat.encode(a), *ends), len(p)) for p, a in zip(prompts, answers, strict=True) if a
    ]


def check_styles(names: Iterable[str]) -> None:
    """Raises SelfeditError on an unknown style."""
    for name in names:
        if name not in STYLES:
            raise SelfeditError(f"unknown style {name!r}; known: {', '.join(STYLES)}")


def _read(style: Style, texts: Sequence[str], passage: Passage, config: FilterConfig) -> tuple[SelfEdit, Counter]:
    """Parses the samples and filters their examples; returns the edit and the number of dropped examples per reason."""
    if style.unit == "sentence":  # the model continues with more lines of the pattern; only the first is the answer
        texts = [plain_line(text.strip().split("\n")[0]) for text in texts]
    examples = [e for text in texts for e in parse_edit(style.name, text, passage, max_examples=config.max_examples)]
    kept, dropped = clean(examples, passage, [style.instruction], config)
    faithful = tuple(example for example in kept if not invents(example, passage))
    dropped["invented"] += len(kept) - len(faithful)
    return SelfEdit(style.name, "\n".join(texts), faithful), dropped


def _requests(style: Style, passage: Passage) -> list[WriteRequest]:
    one_line = style.unit == "sentence"
    prompts = [passage.with_request(style.instruction)]
    if one_line:
        prompts = [style.instruction + sentence + style.cue for sentence in statements(passage)]
    return [
        WriteRequest(text, style.new_tokens, continues=one_line, temperature=style.temperature, one_line=one_line)
        for text in prompts
    ]


_WORD = re.compile(r"\w[\w'’.-]*\w|\w")


def invents(example: Example, passage: Passage) -> bool:
    """Returns whether the example has a number, or a name inside a sentence, that the passage and its title lack."""
    known = {_root(word) for word in _WORD.findall(plain(f"{passage.title} {passage.text}"))}
    for text in (plain(example.prompt), plain(example.text)):
        for match in _WORD.finditer(text):
            word, before = match[0], text[: match.start()].rstrip()
            inside = before and before[-1] not in '.!?:"“'
            if (word[0].isdigit() or (inside and word[0].isupper() and len(word) > 1)) and _root(word) not in known:
                return True
    return False


def _root(word: str) -> str:
    return root(word.replace("’", "'").removesuffix("'s").rstrip("'."))
