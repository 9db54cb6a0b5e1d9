"""Which passage a question is about: how likely the untouched model finds the question after reading each of them.

The router decides by words. Asked in words that the document does not have, a question shares no more of them with the
right passage than with the next one, or with a document about another library; reading tells them apart. The likelihood
of the question given the text: Ponte and Croft, *A Language Modeling Approach to Information Retrieval* (1998), by a
language model as in Sachan et al., *Improving Passage Retrieval with Zero-Shot Question Generation* (arXiv:2204.07496).
Measured: docs/LOG.md, "Questions in a developer's own words".
"""

from __future__ import annotations

from collections.abc import Sequence

from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Passage

LIKELIER = 20.0
"""Nats that the whole question must gain by the passage that it is about."""
LIKELIER_TOKEN = 1.0
"""Nats that a token of it must gain on average."""
READ = 600
"""Tokens of a passage that are read; less where the model's positions are fewer."""
ASKED = 100
"""Tokens of a question that count."""


def is_about(model: Model, question: str, passages: Sequence[Passage]) -> bool:
    """Whether one of the passages, each read alone, makes the question so much likelier."""
    alone, *after = likelihoods(model, [(question, passage) for passage in (None, *passages)])
    gain = max(after, default=alone) - alone
    return gain >= max(LIKELIER_TOKEN, LIKELIER / len(_tokens(model, question)))


def likelihoods(model: Model, asked: Sequence[tuple[str, Passage | None]]) -> list[float]:
    """The mean log-probability (nats per token) of each question behind its passage, or behind nothing."""
    examples = []
    for question, passage in asked:
        asks, tokens = model.chat.encode("Question:"), _tokens(model, question)
        room = min(READ, model.backend.max_positions - len(asks) - len(tokens))
        text = model.chat.continued(f"{passage.title}\n\n{passage.text}\n\n" if passage else "")[: max(1, room)]
        examples.append(TokenizedExample((*text, *asks, *tokens), len(text) + len(asks)))
    return model.backend.gold_logprobs([(example, None) for example in examples])


def _tokens(model: Model, question: str) -> list[int]:
    return model.chat.encode(model.chat.plain(f" {question}"))[:ASKED]
