"""Greedy decoding, ours beside `transformers`' own `generate`: tokens a second, and whether the text is the same.

In: a model's name. Out: a row for each number of prompts decoded at once. Both compute in fp32 with the same prompts, end
tokens and threads, take turns, and are called once before the clock starts; the best of three counts. Where the model
was a GGUF file, ours may read its quantized blocks, `transformers` the same numbers unpacked. The tokens that are counted
are those of the text: no prompt, no end token, no padding behind a row that ended.
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
    base = load_base(model.folder, model.backend.device, torch.float32).eval()
    ends = sorted(model.chat.ends)
    prompts = [model.chat.ask(text) for text in INSTRUCTIONS]

    def ours(prompts: list[list[int]]) -> list[list[int]]:
        return model.backend.generate([Request(tuple(p), max_new_tokens=new_tokens) for p in prompts])

    def theirs(prompts: list[list[int]]) -> list[list[int]]:
        return generate_greedy(base, prompts, new_tokens, ends)

    table = []
    for count in rows:
        (said_t, theirs_per_s), (said_o, ours_per_s) = _race((theirs, ours), prompts[:count], model.backend.device)
        table.append({
            "rows": count,
            "transformers_tokens_per_s": theirs_per_s,
            "ours_tokens_per_s": ours_per_s,
            "ratio": ours_per_s / theirs_per_s,
            "same_text": [a == b for a, b in zip(said_t, said_o)],
        })  # fmt: skip
    return {
        "new_tokens": new_tokens,
        "rows": table,
        "threads": torch.get_num_threads(),
        "device": model.backend.device.type,
    }


def _race(decoders: tuple[Callable, ...], prompts: list[list[int]], device) -> list[tuple[list[list[int]], float]]:
    """For each decoder what it says and its best tokens a second; they take turns."""
    said = [decode(prompts) for decode in decoders]
    best = [float("inf")] * len(decoders)
    for _ in range(REPEATS):
        for i, decode in enumerate(decoders):
            start = clock(device)
            decode(prompts)
            best[i] = min(best[i], clock(device) - start)
    return [(text, max(1, sum(map(len, text))) / seconds) for text, seconds in zip(said, best)]
