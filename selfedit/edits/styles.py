"""Prompt styles: how a model is asked to write training material about a passage.

A `passage` style asks about the whole passage in chat form; the passage comes first, so that all styles share this
prefix. A `sentence` style asks about each sentence by continuing a few worked examples, a form that even very small
models follow. The names follow SEAL's prompts (arXiv:2506.10943, appendix B); the wording is ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    name: str
    instruction: str
    """The instruction; for `sentence` styles, the worked examples before the sentence."""
    unit: str = "passage"
    """`passage`: one request per passage; `sentence`: one request per sentence."""
    cue: str = ""
    """For `sentence` styles: the text between the sentence and the output of the model."""
    new_tokens: int = 160
    samples: int = 2
    temperature: float = 0.7


STYLES = {
    style.name: style
    for style in (
        Style(
            "implications",
            "List the facts that follow from the text above, one full sentence a line. Name who or what each is about.",
        ),
        Style(
            "implications-long",
            "Write a long list of everything that follows from the text above, directly or indirectly, "
            "one full sentence a line. Name who or what each is about.",
            new_tokens=320,
        ),
        Style("rewrite", "Write the text above again in other words. Keep every fact, name and number."),
        Style("key-points", "List the key points of the text above, one full sentence a line, most important first."),
        Style(
            "worked-examples",
            "Show how the text above is used: describe two concrete situations in which one of its facts decides "
            "what happens, and say which.",
        ),
        Style(
            "self-qa",
            "Write short questions about the text above, each with its short answer taken from the text:\nQ: …\nA: …",
        ),
        Style(
            "paraphrase",
            "Sentence: Marlow Bridge, a suspension bridge over the River Tarn, was designed by the engineer "
            "Ada Quill.\n"
            "Same fact in other words: The engineer Ada Quill designed Marlow Bridge, which hangs over the River "
            "Tarn.\n\n"
            "Sentence: The option --fast was removed in version 3 of the packer because it broke old archives.\n"
            "Same fact in other words: Since version 3, the packer no longer has the option --fast, "
            "as it broke old archives.\n\n"
            "Sentence: Lentil soup, known for its low price, became the most popular dish of the school in 1931.\n"
            "Same fact in other words: In 1931 the school's most popular dish was lentil soup, "
            "which is known to be cheap.\n\n"
            "Sentence: ",
            unit="sentence",
            cue="\nSame fact in other words:",
            new_tokens=56,
        ),
    )
}

QUESTION_EXAMPLES = (
    "Sentence: Marlow Bridge, a suspension bridge over the River Tarn, was designed by the engineer Ada Quill.\n"
    "Answer: Ada Quill\n"
    "Question: Who designed Marlow Bridge?\n\n"
    "Sentence: Lentil soup is cheap because lentils keep for years without cooling.\n"
    "Answer: lentils keep for years without cooling\n"
    "Question: Why is lentil soup cheap?\n\n"
    "Sentence: The option --fast was removed in version 3 of the packer.\n"
    "Answer: version 3\n"
    "Question: In which version of the packer was the option --fast removed?\n\n"
    "Sentence: In 1931 the choir of Aldmoor sang for the first time in the harbour church.\n"
    "Answer: the harbour church\n"
    "Question: Where did the choir of Aldmoor sing for the first time in 1931?\n\n"
    "Sentence: "
)
"""Worked examples; after them come a sentence and an answer from it, and the model writes the question."""
