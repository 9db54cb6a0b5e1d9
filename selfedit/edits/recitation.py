"""A passage → what a model studies to recite it, and what it then recites.

A question is answered from what a model recites as from the text itself, and more often than by an adapter that has
studied questions (docs/LOG.md, "Reciting"). The passage is learned as the answer to one request; a question is answered
in two steps: the adapter recites, and the answer is read from that. Sun et al. 2023 (arXiv:2210.01296) prompt a model
to recite before it answers; here it is trained to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from selfedit.model.backend import Adapters, OnStep, Request, no_steps
from selfedit.model.load import Model
from selfedit.text import spaced_words
from selfedit.types import Example, Passage

SPARE_TOKENS = 16
"""A recitation may be so much longer than the passage; one that goes on and on is cut there."""


def to_recite(passage: Passage) -> Example:
    return Example(passage.text, passage.request)


def recite(
    model: Model, passages: Sequence[Passage], rows: Sequence[int], adapters: Adapters, *, on_token: OnStep = no_steps
) -> list[Passage]:
    """The passages as the model says them. `rows`: the adapter of each.

    The tokens that the model predicts correctly are verified in one pass; decoding starts at the first difference."""
    examples = [model.chat.study(to_recite(passage)) for passage in passages]
    right = model.backend.greedy_labels(list(zip(examples, rows, strict=True)), adapters)
    said = [example.targets for example in examples]
    others = [i for i, example in enumerate(examples) if right[i] < example.labels]
    requests = []
    for i in others:
        prompt, draft = examples[i].tokens[: examples[i].label_start], tuple(said[i][: right[i]])
        requests.append(Request(prompt, rows[i], examples[i].labels + SPARE_TOKENS, draft=draft))
    for i, tokens in zip(others, model.backend.generate(requests, adapters, on_token=on_token) if requests else ()):
        said[i] = tokens
    return [replace(p, text=model.chat.decode(tokens).strip(), units=()) for p, tokens in zip(passages, said)]


def is_exact(model: Model, passage: Passage, recited: Passage) -> bool:
    """Whether every token of the passage is recited."""
    chat = model.chat
    return recited.text == chat.decode(chat.encode(chat.plain(passage.text))).strip()


def share_recited(passage: Passage, recited: Passage) -> float:
    """The share of the passage's words (of Chinese, Thai etc. the characters) that are recited in their order, in
    [0, 1]."""
    words, said = spaced_words(passage.text), spaced_words(recited.text)
    blocks = SequenceMatcher(None, words, said, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / max(1, len(words))
