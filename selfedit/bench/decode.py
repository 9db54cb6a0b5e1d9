"""Greedy decoding: the speed of ours beside that of `transformers`, and whether both write the same text.

In: the name of a model. Out: one row per number of prompts that are decoded at once. Both sides compute in fp32 with
the same prompts, end tokens and threads. They alternate, each runs once before the measurement, and the best of three
runs counts. If the model was loaded from a GGUF file, ours may read its quantized blocks, while `transformers` reads
the same numbers dequantized. Only tokens of the text are counted: no prompt, no end token, no padding after the end of
a row.
"""

from __future__ import annotations

from collections.abc import Callable

from selfedit.bench.measure import clock

REPEATS = 3
INSTRUCTIONS = (
    "Name three uses for an old wooden ladder.",
    "Explain why the sky is blue.",
    "Write a short poem about a harbour.",
    "How is bread made?",
    "Describe a rainy day in a city.",
    "List five animals that live in rivers.",
    "What does a judge do?",
    "Tell a story about a lost key.",
    "How do bees find their way home?",
    "Give advice to someone who cannot sleep.",
    "What is a prime number?",
    "Explain what a library is for.",
    "Write a letter that declines an invitation.",
    "Why do leaves fall in autumn?",
    "Describe how to plant a tree.",
    "What should one pack for a week in the hills?",
)


def run(model_name: str, rows: tuple[int, ...] = (1, 16), new_tokens: int = 64) -> dict:
    import torch

    from selfedit.bench.baselines import generate_greedy, load_base
    from selfedit.model.backend import Request
    from selfedit.model.load import load_model

    assert max(rows) <= len(INSTRUCTIONS)
    model = load_model(model_name, dtype=torch.float32, precision="fp32")
    device = model.backend.device
    base = load_base(model.folder, device, torch.float32).eval()
    end_tokens = sorted(model.chat.ends)
    prompts = [model.chat.ask(text) for text in INSTRUCTIONS]

    def ours(prompts: list[list[int]]) -> list[list[int]]:
        return model.backend.generate([Request(tuple(p), max_new_tokens=new_tokens) for p in prompts])

    def theirs(prompts: list[list[int]]) -> list[list[int]]:
        return generate_greedy(base, prompts, new_tokens, end_tokens)

    table = []
    for count in rows:
        (their_tokens, their_rate), (our_tokens, our_rate) = _time((theirs, ours), prompts[:count], device)
        table.append(
            {
                "rows": count,
                "transformers_tokens_per_s": their_rate,
                "ours_tokens_per_s": our_rate,
                "ratio": our_rate / their_rate,
                "same_text": [a == b for a, b in zip(their_tokens, our_tokens)],
            }
        )
    return {"new_tokens": new_tokens, "rows": table, "threads": torch.get_num_threads(), "device": device.type}


def _time(decoders: tuple[Callable, ...], prompts: list[list[int]], device) -> list[tuple[list[list[int]], float]]:
    """Returns the tokens of each decoder and its best rate in tokens per second; the decoders alternate."""
    outputs = [decode(prompts) for decode in decoders]
    best = [float("inf")] * len(decoders)
    for _ in range(REPEATS):
        for i, decode in enumerate(decoders):
            start = clock(device)
            decode(prompts)
            best[i] = min(best[i], clock(device) - start)
    return [(rows, max(1, sum(map(len, rows))) / seconds) for rows, seconds in zip(outputs, best)]
