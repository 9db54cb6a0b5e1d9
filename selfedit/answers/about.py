"""Which passage a question is about: how likely the untouched model finds the question after reading each of them.

The router decides by words. Asked in words that the document does not have, a question shares no more of them with the
right passage than with the next one, or with a document about another library; reading tells them apart. The likelihood
of the question given the text: Ponte and Croft, *A Language Modeling Approach to Information Retrieval* (1998), by a
language model as in Sachan et al., *Improving Passage Retrieval with Zero-Shot Question Generation* (arXiv:2204.07496).
Measured: docs/LOG.md, "Questions in a developer's own words".
"""

from __future__ import annotations

from collections.abc import Sequence

from selfedit.edits.quiz import with_passage
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Passage, Question

LIKELIER = 20.0
"""Nats that the whole question must gain by the passage that it is about."""
LIKELIER_TOKEN = 1.0
"""Nats that a token of it must gain on average."""
READ = 800
"""Tokens that are read at most, up to the end of the question."""
ASKED = 100
"""Tokens of a question that count at most."""


def is_about(model: Model, question: str, passages: Sequence[Passage]) -> bool:
    """Whether one of the passages, each read alone, makes the question so much likelier. It is not read in the chat
    form, in which a question about anything is half expected: that tells less."""
    tokens = model.chat.encode(model.chat.plain(f" {question}"))[:ASKED]
    texts = ["Question:", *(passage.with_request("Question:") for passage in passages)]
    prompts = list(map(model.chat.continued, texts))
    alone, *after = _mean_logprobs(model, [(prompt + tokens, len(tokens)) for prompt in prompts])
    gain = max(after, default=alone) - alone
    return gain >= max(LIKELIER_TOKEN, LIKELIER / len(tokens))


def log_likelihoods(model: Model, asked: Sequence[tuple[str, Passage]]) -> list[float]:
    """The mean log-probability of each question's tokens (nats per token) where they follow its passage, in the prompt
    from which the question would be answered."""
    pairs = []
    for text, passage in asked:
        question = Question(text, ())
        prompt = model.chat.prompt(with_passage(passage, question))
        length = len(model.chat.encode(model.chat.plain(f" {text}")))
        pairs.append((prompt[: len(prompt) - model.chat.opening(question)], min(ASKED, length)))
    return _mean_logprobs(model, pairs)


def _mean_logprobs(model: Model, pairs: Sequence[tuple[list[int], int]]) -> list[float]:
    """Of the last tokens of each text, given how many."""
    most = min(READ, model.backend.max_positions)
    texts = [(tuple(tokens[-most:]), last) for tokens, last in pairs]
    examples = [TokenizedExample(tokens, max(1, len(tokens) - last)) for tokens, last in texts]
    return model.backend.gold_logprobs([(example, None) for example in examples])
