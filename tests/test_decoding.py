"""Requests that join and leave a running batch get the texts that `generate` writes for them alone."""

import random
import shutil
from dataclasses import replace

import pytest
import torch
from test_generate import random_prompts

from selfedit.errors import AdapterError, ModelError
from selfedit.model.backend import LoraConfig, Request, has_line
from selfedit.model.load import load_model
from selfedit.model.packed import lora
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.shape import MODULES


@pytest.fixture(scope="module")
def models(tiny_folder):
    return [load_model(str(tiny_folder), backend=name, device="cpu") for name in ("packed", "reference")]


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """Six adapters that change what is written: four of one configuration, two of another."""
    shape, made = models[0].backend.network.shape, []
    for rank, count in ((4, 4), (2, 2)):
        batch = LoraBatch(shape, LoraConfig(rank, 2.0 * rank, tuple(MODULES), tuple(range(shape.layers))), count)
        batch.flat.normal_(generator=torch.Generator().manual_seed(rank)).mul_(0.15)
        for row in range(count):
            made.append(tmp_path_factory.mktemp("adapter") / "a")
            models[0].backend.save(batch, row, made[-1], "tiny")
    return made


def random_requests(model, folders, count: int, draw: random.Random) -> list:
    """Requests of every kind, some with a common beginning."""
    prompts = random_prompts(model, (5, 17, 30, 9)) + random_prompts(model, (3, 4, 21), shared=40)
    kinds = [
        {},
        {"temperature": 0.9},
        {"stop": has_line, "temperature": 1.5},
        {"allow": lambda written: [40, 41] if len(written) < 3 else [50, *model.chat.ends]},
        {"adapter_from": 20},
    ]
    return [
        (
            Request(
                draw.choice(prompts),
                max_new_tokens=draw.choice((1, 4, 9, 14)),
                seed=draw.randrange(99),
                **draw.choice(kinds),
            ),
            draw.choice([None, *folders]),
        )
        for _ in range(count)
    ]


def text_alone(backend, request, folder) -> list[int]:
    if folder is None:
        return backend.generate([request])[0]
    return backend.generate([replace(request, adapter=0)], backend.load([folder]))[0]


def events(decoding, arrivals, cancelled=()) -> list[list[tuple[int, int | None]]]:
    """The events of each step. `arrivals[i]` joins before step i; of `cancelled` the pairs (step, key)."""
    steps = []
    while len(steps) < len(arrivals) or decoding.running:
        if len(steps) < len(arrivals):
            decoding.add(arrivals[len(steps)])
        for step, key in cancelled:
            if step == len(steps):
                decoding.cancel(key)
        steps.append(decoding.step())
    assert decoding.step() == []
    return steps


def texts(steps) -> dict[int, list[int | None]]:
    written: dict[int, list[int | None]] = {}
    for key, event in (event for step in steps for event in step):
        written.setdefault(key, []).append(event)
    return written


def in_groups(requests, draw: random.Random) -> list[list]:
    """Up to four requests before each step, sometimes none."""
    arrivals, rest = [], list(requests)
    while rest:
        size = draw.randrange(5)
        arrivals.append(rest[:size])
        rest = rest[size:]
    return arrivals


@pytest.mark.parametrize("seed", range(4))
def test_both_backends_write_the_same_tokens_in_the_same_steps(models, folders, seed):
    draw = random.Random(seed)
    requests = random_requests(models[0], folders[:4], 16, draw)
    arrivals = in_groups(requests, draw)
    cancelled = [(draw.randrange(1, len(arrivals) + 3), draw.randrange(16)) for _ in range(4)]
    packed, reference = (events(m.backend.decoding(), arrivals, cancelled) for m in models)
    assert packed == reference
    assert sum(len(step) for step in packed) > 40


@pytest.mark.parametrize("slots, cached_tokens", [(64, 10**6), (3, 10**6), (64, 150), (1, 1)])
def test_every_text_is_the_one_that_is_written_alone(models, folders, monkeypatch, slots, cached_tokens):
    """More adapters than slots, of two configurations, and a queue that is longer than what fits."""
    backend, draw = models[0].backend, random.Random(slots)
    requests = random_requests(models[0], folders, 40, draw)
    alone = [text_alone(backend, request, folder) for request, folder in requests]
    token_bytes = 2 * 4 * 2 * 16 * 4
    monkeypatch.setattr(type(backend.network), "working_bytes", cached_tokens * token_bytes)
    cancelled = {5: 8, 11: 20, 25: 30}  # key: the step
    decoding = backend.decoding(slots)
    written = texts(events(decoding, in_groups(requests, draw), [(step, key) for key, step in cancelled.items()]))
    for key, text in enumerate(alone):
        if key in cancelled:
            assert written.get(key, []) in [[*text, None], *(text[:n] for n in range(len(text) + 1))]
        else:
            assert written[key] == [*text, None]
    assert len({tuple(text) for text in alone}) > 20


@pytest.mark.parametrize("slots, cached_tokens", [(3, 10**6), (64, 300)])
def test_requests_begin_in_the_order_of_their_arrival(models, folders, monkeypatch, slots, cached_tokens):
    """Whatever they wait for: a row, memory, or the end of the adapters of another configuration."""
    monkeypatch.setattr(type(models[0].backend.network), "working_bytes", cached_tokens * 2 * 4 * 2 * 16 * 4)
    prompts = random_prompts(models[0], (5, 90, 9, 30))
    requests = [(Request(prompts[i % 4], max_new_tokens=2 + i % 5), folders[i * 5 % 6]) for i in range(20)]
    decoding = models[0].backend.decoding(slots)
    first = {}
    for number, step in enumerate(events(decoding, [[request] for request in requests])):
        for key, _ in step:
            first.setdefault(key, number)
        cache = decoding._decoder.keys[0]
        assert cache.shape[0] <= max(1, min(slots, cached_tokens // cache.shape[2]))
    assert [first[key] for key in range(20)] == sorted(first.values())


def test_an_adapter_is_read_once_and_requests_in_the_queue_need_its_folder_no_more(
    models, folders, tmp_path, monkeypatch
):
    backend, reads = models[0].backend, []
    copies = [shutil.copytree(folder, tmp_path / str(i)) for i, folder in enumerate(folders)]
    request = Request(random_prompts(models[0])[0], max_new_tokens=6)
    alone = [[*text_alone(backend, request, folder), None] for folder in copies]
    read = lora.read_adapter
    monkeypatch.setattr(lora, "read_adapter", lambda folder: reads.append(folder) or read(folder))
    decoding = backend.decoding(2)
    for _ in range(2):
        decoding.add([(request, folder) for folder in copies])
        decoding.add([(request, copies[0])])
    assert reads == copies
    for folder in copies:
        shutil.rmtree(folder)
    written = texts(events(decoding, []))
    assert [written[key] for key in range(14)] == [*alone, alone[0]] * 2
    last = copies[5]  # of the two slots of its configuration
    decoding.add([(request, last)])
    assert [event for step in events(decoding, []) for _, event in step] == alone[5]
    assert reads == copies and not decoding._unplaced


def test_nothing_joins_if_one_request_does_not_fit(models, folders, tmp_path):
    good = Request((5, 6, 7), max_new_tokens=3)
    for model in models:
        decoding = model.backend.decoding()
        for bad, error in (
            ((Request((5,) * 510, max_new_tokens=3), None), ModelError),
            ((Request(()), None), ModelError),
            ((good, tmp_path), AdapterError),
        ):
            with pytest.raises(error):
                decoding.add([(good, folders[0]), bad])
        assert decoding.running == 0 and decoding.step() == []


def test_an_adapter_that_computes_nan_harms_no_other_request(models, folders, tmp_path):
    """Nor one that gets its row of the cache later."""
    backend = models[0].backend
    broken = backend.load([folders[0]]).subset([0])
    broken.flat.fill_(1e30)  # finite, as a folder must be; its products are not
    backend.save(broken, 0, tmp_path / "nan", "tiny")
    prompts = random_prompts(models[0])
    long = (Request(prompts[2], max_new_tokens=30, allow=lambda written: [40]), tmp_path / "nan")
    others = [(Request(p, max_new_tokens=n), f) for p, n, f in zip(prompts, (3, 12, 20, 8), [None, *folders])]
    decoding = backend.decoding()
    decoding.add([long])
    for _ in range(3):
        decoding.step()
    assert decoding._decoder.keys[-1].isnan().any()
    written = texts(events(decoding, [others[:2], *[[]] * 33, others[2:]]))
    for key, (request, folder) in enumerate(others, start=1):
        assert written[key] == [*text_alone(backend, request, folder), None]
    assert not any(cache.isnan().any() for cache in (*decoding._decoder.keys, *decoding._decoder.values))


def test_requests_that_join_together_read_a_common_beginning_once(models, folders, monkeypatch):
    prompts = random_prompts(models[0], (3, 4, 5), shared=100)
    read, network = [], type(models[0].backend.network)
    embed = network.embed
    monkeypatch.setattr(network, "embed", lambda self, tokens: read.append(len(tokens)) or embed(self, tokens))
    decoding = models[0].backend.decoding()
    decoding.add([(Request(p, adapter_from=100), folder) for p in prompts for folder in (None, *folders[:2])])
    assert len(decoding.step()) == decoding.running == 9
    assert sum(read) == 100 + 3 * (3 + 4 + 5)
