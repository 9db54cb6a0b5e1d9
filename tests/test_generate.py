from dataclasses import replace

import pytest
import torch
from conftest import reference_model

from selfedit.model.backend import LoraConfig, Request, has_line
from selfedit.model.packed.generate import Decoder, _groups
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.shape import MODULES

QUESTIONS = [
    "Write a short story about a lighthouse.",
    "Name the largest planet.",
    "Explain how rain forms, briefly.",
    "Who are you?",
]


def random_prompts(model, lengths=(5, 17, 30, 9), shared=0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(3)
    start = torch.randint(model.backend.network.shape.vocab, (shared,), generator=generator).tolist()
    return [
        tuple(start + torch.randint(model.backend.network.shape.vocab, (n,), generator=generator).tolist())
        for n in lengths
    ]


def random_stack(model, count: int) -> LoraBatch:
    """Adapters that change what is said."""
    config = LoraConfig(
        rank=4, alpha=8, modules=tuple(MODULES), layers=tuple(range(model.backend.network.shape.layers))
    )
    stack = LoraBatch(model.backend.network.shape, config, count)
    stack.flat.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.15)
    return stack


@torch.inference_mode()
def assert_greedy(reference, ends, prompt, answer, limit: int, tie: float):
    """Each token is the reference's likeliest (or within `tie` of it), and the answer ends where it says so."""
    logits = reference(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :]
    assert answer or logits[0].argmax().item() in ends
    for step, token in enumerate(answer):
        assert logits[step].max() - logits[step, token] <= tie, f"token {step}"
    if len(answer) < limit:
        end = max(logits[len(answer), list(ends)].tolist())
        assert logits[len(answer)].max() - end <= tie


def test_greedy_tokens_are_those_of_transformers(tiny_model, tiny_reference):
    prompts = random_prompts(tiny_model)
    answers = tiny_model.backend.generate([Request(p, max_new_tokens=20) for p in prompts])
    for prompt, answer in zip(prompts, answers):
        assert_greedy(tiny_reference, tiny_model.chat.ends, prompt, answer, 20, 1e-4)
    assert len({tuple(a) for a in answers}) == len(answers)


def test_progress_counts_tokens_up_to_all_that_may_be_written(tiny_model):
    seen = []
    requests = [Request(p, max_new_tokens=n) for p, n in zip(random_prompts(tiny_model), (3, 9, 5, 7))]
    answers = tiny_model.backend.generate(requests, rows=3, on_token=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {24} and seen[-1][0] == 24
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) >= max(map(len, answers))


def test_rows_under_different_adapters_say_what_they_say_alone(tiny_model):
    stack = random_stack(tiny_model, 2)
    requests = [Request(p, adapter, 16) for p in random_prompts(tiny_model) for adapter in (None, 0, 1)]
    batched = tiny_model.backend.generate(requests, stack)
    assert batched == [tiny_model.backend.generate([r], stack)[0] for r in requests]
    assert batched[0] != batched[1] != batched[2]


def test_what_the_base_model_reads_is_read_once_for_every_adapter(tiny_model, monkeypatch):
    stack, (prompt,) = random_stack(tiny_model, 2), random_prompts(tiny_model, (40,))
    requests = [Request(prompt, None, 12), *(Request(prompt, a, 12, adapter_from=n) for a in (0, 1) for n in (30, 40))]
    alone = [tiny_model.backend.generate([request], stack)[0] for request in requests]
    assert len({tuple(tokens) for tokens in alone}) == 5
    read, embed = [], type(tiny_model.backend.network).embed
    monkeypatch.setattr(
        type(tiny_model.backend.network), "embed", lambda self, tokens: read.append(len(tokens)) or embed(self, tokens)
    )
    assert tiny_model.backend.generate(requests, stack) == alone
    assert sum(n for n in read if n > len(requests)) <= 30 + 5 * 10 + 1


def test_an_adapter_of_zeros_says_what_the_untouched_model_says(tiny_model):
    stack = random_stack(tiny_model, 1)
    stack.flat.zero_()
    prompts = random_prompts(tiny_model)
    assert tiny_model.backend.generate([Request(p, 0, 12) for p in prompts], stack) == tiny_model.backend.generate(
        [Request(p, None, 12) for p in prompts]
    )


@pytest.mark.parametrize("right", [0, 1, 7, 16, 40])
def test_a_draft_changes_no_text_and_saves_the_steps_of_what_is_right(tiny_model, monkeypatch, right):
    stack, length = random_stack(tiny_model, 2), 16
    plain = [Request(p, adapter, length) for p in random_prompts(tiny_model, shared=20) for adapter in (None, 1)]
    written = tiny_model.backend.generate(plain, stack)
    assert all(len(text) == length for text in written)
    wrong = [tuple(4 + (token + 1) % 200 for token in text) for text in written]
    drafted = [
        replace(r, draft=(*text[:right], *other[right:], 4))
        for r, text, other in zip(plain, written, wrong, strict=True)
    ]
    steps = []
    monkeypatch.setattr(Decoder, "step", lambda self, step=Decoder.step: steps.append(len(self.rows)) or step(self))
    assert tiny_model.backend.generate([drafted[0], plain[1], *drafted[2:]], stack, rows=5) == written
    steps.clear()
    assert tiny_model.backend.generate(drafted, stack) == written
    assert len(steps) == max(0, length - 1 - right)


def test_what_is_drawn_stopped_or_under_a_grammar_needs_no_draft(tiny_model):
    (prompt,) = random_prompts(tiny_model, (12,))
    for options in ({"temperature": 1.0, "seed": 3}, {"stop": has_line}, {"allow": lambda tokens: [5, 6, 7]}):
        request = Request(prompt, None, 9, **options)
        (text,) = tiny_model.backend.generate([request])
        assert tiny_model.backend.generate([replace(request, draft=(*text[:4], 5, 5))]) == [text]


def test_a_draft_ends_where_the_text_ends(tiny_model):
    (prompt,) = random_prompts(tiny_model, (12,))
    end, (text,) = min(tiny_model.chat.ends), tiny_model.backend.generate([Request(prompt, max_new_tokens=9)])
    assert tiny_model.backend.generate([Request(prompt, max_new_tokens=9, draft=(*text[:3], end, *text[3:]))]) == [text]


def test_a_shared_prefix_is_read_once_and_changes_nothing(tiny_model, monkeypatch):
    stack = random_stack(tiny_model, 1)
    requests = [Request(p, adapter, 12) for p in random_prompts(tiny_model, shared=40) for adapter in (None, 0)]
    read, run = [], type(tiny_model.backend.network).run
    monkeypatch.setattr(
        type(tiny_model.backend.network), "run", lambda self, x, *rest: read.append(len(x)) or run(self, x, *rest)
    )
    shared = tiny_model.backend.generate(requests, stack)
    assert read[:2] == [2 * 40, 2 * (5 + 17 + 30 + 9)]
    monkeypatch.setattr("selfedit.model.packed.generate.SHARED_PREFIX", 10**9)
    assert tiny_model.backend.generate(requests, stack) == shared


def test_prompts_are_grouped_so_that_the_fewest_tokens_are_read(tiny_model, monkeypatch):
    """Half of the questions have a passage before them; it is read once, although the others share only the header."""
    header, passage = random_prompts(tiny_model, lengths=(20, 100))
    ends = random_prompts(tiny_model, lengths=(3, 4, 5, 6))
    prompts = [header + end for end in ends] + [header + passage + end for end in ends]
    groups = [(shared, len(rows)) for shared, rows in _groups([Request(p) for p in sorted(prompts)])]
    assert (120, 4) in groups
    needed = sum(map(len, prompts)) - sum(shared * (rows - 1) for shared, rows in groups)
    for order in (prompts, prompts[::-1]):
        read, run = [], type(tiny_model.backend.network).run
        with monkeypatch.context() as patch:
            patch.setattr(
                type(tiny_model.backend.network),
                "run",
                lambda self, x, *rest, read=read, run=run: read.append(len(x)) or run(self, x, *rest),
            )
            together = tiny_model.backend.generate([Request(p, None, 8) for p in order])
        assert sum(read[:2]) == needed < 300
        assert together == [tiny_model.backend.generate([Request(p, None, 8)])[0] for p in order]


def test_what_a_row_draws_does_not_depend_on_its_neighbours(tiny_model):
    requests = [Request(p, None, 12 + 3 * i, temperature=1.0, seed=i) for i, p in enumerate(random_prompts(tiny_model))]
    requests += [Request(p, None, 9) for p in random_prompts(tiny_model)]
    together = tiny_model.backend.generate(requests)
    assert together == [tiny_model.backend.generate([r])[0] for r in requests]
    assert together == tiny_model.backend.generate(requests[::-1], rows=3)[::-1]
    assert (
        together[0] != tiny_model.backend.generate([Request(requests[0].tokens, None, 12, temperature=1.0, seed=99)])[0]
    )


def test_answers_are_the_same_whatever_memory_is_left_for_their_cache(tiny_model, monkeypatch):
    requests = [Request(p, None, 9) for p in random_prompts(tiny_model)]
    together = tiny_model.backend.generate(requests)
    monkeypatch.setattr(type(tiny_model.backend.network), "working_bytes", 1)
    assert tiny_model.backend.generate(requests) == together


@pytest.mark.parametrize("tokens", [1, 70, 150])
def test_long_prompts_are_read_a_few_at_a_time_with_the_same_results(tiny_model, monkeypatch, tokens):
    stack = random_stack(tiny_model, 2)
    prompts = random_prompts(tiny_model, shared=40)
    requests = [Request(p, adapter, 9, draft=(4, 5)) for p in prompts for adapter in (None, 0, 1)]
    together = tiny_model.backend.generate(requests, stack)
    read, run = [], type(tiny_model.backend.network).run
    monkeypatch.setattr(
        type(tiny_model.backend.network), "run", lambda self, x, *rest: read.append(len(x)) or run(self, x, *rest)
    )
    monkeypatch.setattr("selfedit.model.packed.generate.PREFILL_TOKENS", tokens)
    assert tiny_model.backend.generate(requests, stack) == together
    assert max(read) <= max(tokens, 40 + 30 + 2)


@pytest.mark.parametrize("queries", [1, 7])
def test_long_prompts_look_back_a_few_tokens_at_a_time_with_the_same_results(tiny_model, monkeypatch, queries):
    stack = random_stack(tiny_model, 2)
    prompts = random_prompts(tiny_model, shared=40)
    requests = [Request(p, adapter, 9, draft=(4, 5)) for p in prompts for adapter in (None, 0, 1)]
    together = tiny_model.backend.generate(requests, stack)
    looked, attention = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, *rest, **more: looked.append(q.shape[-2]) or attention(q, *rest, **more),
    )
    assert tiny_model.backend.generate(requests, stack) == together
    largest = max(looked)
    looked.clear()
    monkeypatch.setattr("selfedit.model.packed.generate.QUERIES", queries)
    assert tiny_model.backend.generate(requests, stack) == together
    shape = tiny_model.backend.network.shape
    assert max(looked) <= max(queries * shape.heads // shape.kv_heads, 40) < largest


def test_a_prompt_that_does_not_fit_the_positions_is_refused(tiny_model):
    with pytest.raises(ValueError, match="positions"):
        tiny_model.backend.generate([Request((1,) * 500, max_new_tokens=13)])


@pytest.mark.embedded
@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS], ids=["one row", "ragged rows"])
def test_the_embedded_model_says_what_transformers_says(embedded_model, questions):
    reference = reference_model(embedded_model.folder)
    prompts = [tuple(embedded_model.chat.ask(q)) for q in questions]
    answers = embedded_model.backend.generate([Request(p, max_new_tokens=32) for p in prompts])
    for prompt, answer in zip(prompts, answers):
        assert_greedy(reference, embedded_model.chat.ends, prompt, answer, 32, 1e-3)
        assert len(answer) > 2


@pytest.mark.embedded
def test_one_line_is_the_first_line_of_what_would_be_said(embedded_model):
    texts = ["Three rivers:\n- The Rhine\n-", "Sentence: It rained.\nIn other words:", "\n\n"]
    prompts = [tuple(embedded_model.chat.continued(text)) for text in texts]

    def said(one_line: bool) -> list[str]:
        asked = [Request(p, None, 24, 0.7, seed=i, stop=has_line if one_line else None) for i, p in enumerate(prompts)]
        return [embedded_model.chat.decode(tokens) for tokens in embedded_model.backend.generate(asked)]

    whole, short = said(False), said(True)
    assert [text.strip().split("\n")[0] for text in short] == [text.strip().split("\n")[0] for text in whole]
    assert any(len(a) < len(b) for a, b in zip(short, whole)) and all(b.startswith(a) for a, b in zip(short, whole))
