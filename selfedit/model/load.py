"""A model's name → a model that is ready to run: fp32 on a CPU, bf16 on a GPU.

A CPU that multiplies in bf16 computes large products twice (AVX-512 BF16) or four times (AMX) as fast (docs/LOG.md,
study 15): on such a CPU training uses bf16, and so do the answers to a few-shot task and their scores, unless
SELFEDIT_PRECISION is fp32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from selfedit.errors import ModelError
from selfedit.model.backend import BACKENDS, Adapters, Backend, OnStep, Request, has_line, no_steps
from selfedit.model.catalog import CATALOG, Notify, resolve
from selfedit.model.chat import Chat
from selfedit.model.packed.backend import PackedBackend
from selfedit.model.packed.network import Network
from selfedit.model.shape import Shape, check_weights, one_line, read_object, reason
from selfedit.model.weights import WeightFiles, transformers_model
from selfedit.model.writer import WriteRequest


@dataclass(frozen=True)
class Model:
    """A language model with its tokenizer; `backend` runs it. It is also a Writer (model/writer.py)."""

    name: str
    folder: Path
    backend: Backend
    chat: Chat

    @property
    def fingerprint(self) -> str:
        return self.backend.fingerprint

    @property
    def rate(self) -> float:
        """The learning rate for a memory: measured for a model of the catalog, else 3e-3 × (576 / width)³, at most
        3e-3. A rate that suits a width of 576 harms a wider model: at a width of 896, 1.2e-3 ends 15 % to 23 % fewer
        everyday sentences right, and 5e-4 learns as much (docs/LOG.md)."""
        known = CATALOG[self.name].rate if self.name in CATALOG else None
        return known or 3e-3 * min(1.0, 576 / self.backend.hidden_size) ** 3

    @property
    def reads_well(self) -> bool:
        """Whether it answers more from a passage in its prompt than the sentence of it that shares most words with the
        question: Qwen2.5-Coder-0.5B does, with a width of 896, SmolLM2-135M with 576 does not (docs/LOG.md)."""
        return self.backend.hidden_size >= 800

    @property
    def max_passages(self) -> int:
        """Passages that are read for a question at most. A model that reads well chooses the one that the question is
        likeliest about, since the one that fits best by words is often not the right one (docs/LOG.md)."""
        return 3 if self.reads_well else 1

    def identity(self) -> dict[str, str]:
        """What results depend on: for the settings of a run folder."""
        backend = {} if self.backend.name == "packed" else {"backend": self.backend.name}
        return {"model": self.name, "weights": self.fingerprint, "precision": self.backend.precision} | backend

    def prompt(self, request: WriteRequest) -> tuple[int, ...]:
        encode = self.chat.continued if request.continues else self.chat.ask
        return tuple(encode(request.prompt + request.opening))

    def write(
        self, requests: Sequence[WriteRequest], on_token: OnStep = no_steps, *, editor: Adapters | None = None
    ) -> list[str]:
        """As in Writer. `editor`: a single adapter that writes instead of the untouched model."""
        row = None if editor is None else 0
        prompts = [
            Request(
                self.prompt(r),
                row,
                r.max_new_tokens,
                r.temperature,
                seed=r.seed,
                stop=has_line if r.one_line else r.stop,
            )
            for r in requests
        ]
        written = self.backend.generate(prompts, editor, on_token=on_token)
        return [self._whole(r.opening, tokens) for r, tokens in zip(requests, written)]

    def _whole(self, opening: str, tokens: Sequence[int]) -> str:
        """The text; behind an opening the line that both make, in which the opening's last word may go on."""
        if not opening:
            return self.chat.decode(tokens)
        begun = self.chat.encode(self.chat.plain(opening))
        return self.chat.decode([*begun, *tokens]).partition("\n")[0].strip()

    def fits(self, request: WriteRequest, answers: Sequence[str] = ()) -> bool:
        longest = max([request.max_new_tokens, *(len(self.chat.encode(answer)) for answer in answers)])
        return len(self.prompt(request)) + longest <= self.backend.max_positions


def load_model(
    name: str,
    *,
    backend: str = "packed",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    notify: Notify = lambda m: None,
) -> Model:
    """Loads a model by any name that `catalog.resolve` knows, to be run by `backend` (`packed` or `reference`).

    `device` and `dtype`: a GPU in bf16 if there is one, else the CPU in fp32. `precision`, of an fp32 model on a CPU:
    `fp32`, or `mixed` for training in bf16; by default what the environment says and the machine is fast in.
    Raises ModelError.
    """
    if backend not in BACKENDS:
        raise ModelError(f"unknown backend {backend!r}; give {' or '.join(BACKENDS)}")
    folder = resolve(name, notify)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    try:
        chat = Chat(folder)
        if backend == "packed":
            return Model(name, folder, _packed(folder, chat, device, dtype, precision), chat)
        try:
            from selfedit.model.reference import ReferenceBackend
        except ImportError as error:
            raise ModelError(f"the reference backend needs {error.name}; pip install 'selfedit[bench]'") from error
        model = transformers_model(folder, device, dtype)
        chat.check_vocabulary(model.get_input_embeddings().weight.shape[0])
        return Model(name, folder, ReferenceBackend(model, chat, WeightFiles(folder).fingerprint()), chat)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{one_line(folder)}: damaged ({reason(error)}); delete it and fetch it again") from error
    except ModelError as error:
        raise ModelError(f"{one_line(folder)}: {error}") from error


def _packed(folder: Path, chat: Chat, device: str, dtype: torch.dtype, precision: str | None) -> PackedBackend:
    shape = Shape.from_config(read_object(folder / "config.json"))
    weights = WeightFiles(folder, device, dtype)
    check_weights(shape, weights.table)
    chat.check_vocabulary(shape.vocab)
    network = Network(shape, weights)
    head = weights.pop("lm_head.weight", None) if shape.tied else None
    if head is not None and not head.data.equal(network.embedding.data):
        raise ModelError("tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight")
    fingerprint = weights.fingerprint()
    if device == "cpu" and dtype == torch.float32 and _checked(precision or default_precision()) == "mixed":
        network.use_bf16()
    return PackedBackend(network, chat, fingerprint)


def default_precision() -> str:
    """`mixed` where training on the CPU takes its large products in bf16, else `fp32`."""
    multiplies_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return os.environ.get("SELFEDIT_PRECISION") or ("mixed" if multiplies_bf16 else "fp32")


def _checked(precision: str) -> str:
    if precision not in ("fp32", "mixed"):
        raise ModelError(f"precision (SELFEDIT_PRECISION) is {precision!r}; give fp32 or mixed")
    return precision
