"""`selfedit bench routing`: methods that find the memory for a question, compared on stores of several sizes.

In: tasks and unrelated questions. Each passage stands for a memory; passages without questions are distractors. Out:
`results.json`, `results.md`, `routing.png`. The methods are:

- `lexical`: the router of `ask` (memory/route.py, whose docstring says on which parts of these sets it was fitted).
  Memories are ranked in its order, by BM25 among those whose score is near the best; the first has the best score;
- `hidden`: cosine similarity of mean hidden states of the language model after a quarter of its layers. The first token
  is left out, since it is an attention sink. The mean over all passages is subtracted from the vectors of passages, and
  the mean over all unrelated questions from the vectors of questions;
- `sentence`: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), cosine similarity with the best window of
  120 words;
- `lexical+sentence`: the sum of both scores.

Recall@k: the right memory is among the first k. Accepted: the right memory is the first, and its score is above the
threshold that 5 % of the unrelated questions exceed, so all methods are compared at the same rate of false accepts.
Shares are means over memories, with 95 % bootstrap intervals over memories. Stores of one size may share memories: a
memory counts once, with its mean over the stores. Vectors are computed once and stored in files named after their
model.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from selfedit import disk
from selfedit.bench.intervals import mean_interval
from selfedit.bench.tables import between, heading, markdown, number
from selfedit.errors import SelfeditError
from selfedit.loop.journal import lock_run_folder, plain_errors, software, write_json, write_text
from selfedit.memory.route import Router
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model, load_model
from selfedit.types import Progress, Task, no_progress, text_hash

METHODS = ("lexical", "hidden", "sentence", "lexical+sentence")
FALSE_ACCEPTS = 0.05
QUESTIONS = 1000
"""Maximum number of questions per store, and of unrelated questions."""
TIMED = 50
"""Number of questions that are timed one by one."""
SHARES = ("recall_at_1", "recall_at_3", "accepted")
WINDOW = 120  # words, as in memory/route.py
TOKENS = 256  # tokens per text that are read at most: the length that MiniLM was trained with
CHUNK = 256  # texts between two saves


class Finder(Protocol):
    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """Returns the score of each memory for each question, [questions, memories]."""


def run(
    model_name: str,
    tasks: Sequence[Task],
    others: Sequence[str],
    out: Path,
    *,
    memories: Sequence[int] = (30, 300, 3000),
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json.

    `others`: questions that no memory answers. Raises SelfeditError on settings that cannot be run.
    """
    from selfedit.bench.plots import pyplot, routing_plots

    pyplot()
    if not methods:
        raise SelfeditError(f"give methods of {', '.join(METHODS)}")
    if unknown := [m for m in methods if m not in METHODS]:
        raise SelfeditError(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
    if not memories or min(memories) < 2 or not others or not any(task.questions for task in tasks):
        raise SelfeditError("give sizes of at least 2 memories, passages with questions, and unrelated questions")
    _lock = lock_run_folder(
        out,
        {
            "model": model_name,
            "tasks": text_hash(*(task.key for task in tasks)),
            "others": text_hash(*others),
            "seed": seed,
        },
    )
    encoders = {}
    if "hidden" in methods:
        model = load_model(model_name, notify=notify)
        encoders["hidden"] = Vectors(
            lambda texts: hidden_states(model, texts), out / f"hidden-{model.fingerprint[:12]}.npz", progress
        )
    if any("sentence" in method for method in methods):
        encoders["sentence"] = Vectors(SentenceEncoder(notify), out / "sentence.npz", progress)
    rng = random.Random(seed)
    others = rng.sample(list(others), min(len(others), QUESTIONS))
    rows = []
    sizes = sorted({min(size, len(tasks)) for size in memories})
    for step, size in enumerate(sizes):
        progress("sizes", step, len(sizes))
        for store in _stores(tasks, size, rng):
            rows += [_measure(method, _finder(method, store, others, encoders), store, others) for method in methods]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["memories"]), []).append(row)
    result = {
        "model": model_name,
        "command": command,
        "software": software(out),
        "false_accepts": FALSE_ACCEPTS,
        "others": len(others),
        "rows": [_summary(group) for group in groups.values()],
    }
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    routing_plots(result, out)
    return result


@dataclass(frozen=True)
class Store:
    """A simulated store: its memories, and questions with the index of the memory that answers each."""

    tasks: list[Task]
    questions: list[tuple[str, int]]

    @property
    def texts(self) -> list[str]:
        return [f"{task.passage.title}\n{task.passage.text}" for task in self.tasks]


def _stores(tasks: Sequence[Task], size: int, rng: random.Random) -> Iterator[Store]:
    """Yields random stores of one size; several small ones, so that they have as many questions as a large one."""
    for _ in range(max(1, min(5, len(tasks) // size))):
        sample = rng.sample(list(tasks), size)
        questions = [(q.question, i) for i, task in enumerate(sample) for q in task.questions]
        if not questions:
            raise SelfeditError(
                f"none of {size} sampled passages has questions; give larger --memories or more passages with questions"
            )
        yield Store(sample, rng.sample(questions, min(len(questions), QUESTIONS)))


def _finder(method: str, store: Store, others: Sequence[str], encoders: dict[str, Vectors]) -> Finder:
    if method == "lexical":
        return Lexical(store.texts)
    if method == "lexical+sentence":
        return Both(Lexical(store.texts), Cosine(encoders["sentence"], store.texts))
    return Cosine(encoders[method], store.texts, others if method == "hidden" else ())


def _measure(method: str, finder: Finder, store: Store, others: Sequence[str]) -> dict:
    """Returns the shares of one store per question, the id of its memory, and the milliseconds per question."""
    questions = [question for question, _ in store.questions]
    target = np.array([index for _, index in store.questions])
    scores, other_scores = finder.scores(questions), finder.scores(others).max(1)
    right = scores[np.arange(len(target)), target]
    higher, equal = (scores > right[:, None]).sum(1), (scores == right[:, None]).sum(1)
    at_1, at_3 = (((k - higher) / equal).clip(0, 1) for k in (1, 3))  # ties are broken at random, in expectation
    threshold = np.quantile(other_scores, 1 - FALSE_ACCEPTS)
    start = time.perf_counter()
    for question in questions[:TIMED]:
        finder.scores([question])
    seconds = time.perf_counter() - start
    return {
        "method": method,
        "memories": len(store.tasks),
        "memory": np.array([store.tasks[index].passage.id for index in target]),
        "recall_at_1": at_1,
        "recall_at_3": at_3,
        "accepted": at_1 * (right > threshold),
        "milliseconds": 1000 * seconds / len(questions[:TIMED]),
    }


def _summary(stores: list[dict]) -> dict:
    """Returns the row of one method and size: the means over the memories, each with its mean over all its stores."""
    row = {
        "method": stores[0]["method"],
        "memories": stores[0]["memories"],
        "draws": len(stores),
        "questions": sum(len(s["memory"]) for s in stores),
    }
    for name in SHARES:
        of_memory: dict[str, list[float]] = {}
        for s in stores:
            for id in np.unique(s["memory"]):
                of_memory.setdefault(id, []).append(s[name][s["memory"] == id].mean())
        row[name], row[f"{name}_ci95"] = mean_interval([float(np.mean(shares)) for shares in of_memory.values()])
    return row | {"milliseconds": min(s["milliseconds"] for s in stores)}


class Lexical:
    def __init__(self, texts: Sequence[str]):
        self.router, self.count = Router.of_texts({str(i): text for i, text in enumerate(texts)}), len(texts)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(questions), self.count))
        for row, question in zip(out, questions):
            ordered = self.router.ranked(question) or self.router.doubtful(question)
            if len(questions) > 1 or not ordered:
                for id, score in self.router.best(question, self.count):
                    row[int(id)] = score
            # The scores of those that the router orders by relevance, in that order; equal ones fall by very little.
            values = sorted((score for _, score in ordered), reverse=True)
            for rank, ((id, _), score) in enumerate(zip(ordered, values)):
                row[int(id)] = score - rank * 1e-9
        return out


class Cosine:
    def __init__(self, vectors: Vectors, texts: Sequence[str], neutral: Sequence[str] = ()):
        """`neutral`: questions whose mean is subtracted from the vectors of questions.

        If there are any, the mean of the passages is also subtracted from the vectors of passages.
        """
        windows = [
            [" ".join(words[low : low + WINDOW]) for low in range(0, max(1, len(words)), WINDOW)]
            for words in map(str.split, texts)
        ]
        self.vectors, self.starts = vectors, np.cumsum([0, *map(len, windows)])[:-1]
        encoded = vectors([window for text in windows for window in text])
        self.shift = vectors(neutral).mean(0) if neutral else 0.0
        self.windows = _unit(encoded - encoded.mean(0) if neutral else encoded)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        return np.maximum.reduceat(_unit(self.vectors(questions) - self.shift) @ self.windows.T, self.starts, axis=1)


class Both:
    def __init__(self, *finders: Finder):
        self.finders = finders

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        return sum(finder.scores(questions) for finder in self.finders)


class Vectors:
    """Texts → vectors [texts, width]. Each vector is computed once and stored in a file, so a stopped run resumes."""

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], file: Path, progress: Progress):
        self.encode, self.file, self.progress = encode, file, progress
        self.known: dict[str, np.ndarray] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as saved:
                self.known = dict(zip(saved["of"].tolist(), saved["vectors"]))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if len(texts) == 1:  # never stored, so that a single question can be timed
            return self.encode(texts)
        missing = sorted({text for text in texts if text_hash(text) not in self.known}, key=len)
        for low in range(0, len(missing), CHUNK):
            part = missing[low : low + CHUNK]
            self.known |= zip(map(text_hash, part), self.encode(part))
            with plain_errors(self.file):
                disk.replace(self.file, _saved(self.known))
            self.progress(self.file.stem, min(low + CHUNK, len(missing)), len(missing))
        return np.stack([self.known[text_hash(text)] for text in texts])


def _saved(vectors: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, of=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
    return file.getvalue()


def hidden_states(model: Model, texts: Sequence[str]) -> np.ndarray:
    """Returns the mean hidden state after a quarter of the layers, without the first token, [texts, hidden]."""
    tokens = [tuple(model.chat.encode(text)[:TOKENS]) or (0,) for text in texts]
    examples = [TokenizedExample(own, min(1, len(own) - 1)) for own in tokens]
    return model.backend.mean_states(examples, max(1, model.backend.num_layers // 4)).numpy()


class SentenceEncoder:
    def __init__(self, notify: Callable[[str], None]):
        from selfedit.model.catalog import sentence_model

        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise SelfeditError(f"sentence vectors need {error.name}; pip install 'selfedit[bench]'") from error
        folder = sentence_model(notify)
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        vectors = []
        with torch.inference_mode():
            for low in range(0, len(texts), 32):
                batch = self.tokenizer(
                    list(texts[low : low + 32]), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
                )
                mask = batch["attention_mask"][..., None]
                vectors.append(((self.model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    lines = [
        *heading("Routing", result),
        "Accepted: the right memory is the first, with the threshold that accepts "
        f"{result['false_accepts']:.0%} of {result['others']:,} unrelated questions. Intervals: 95 % bootstrap over "
        "memories. Milliseconds: per question, asked one by one.",
        "",
        *markdown(
            ["memories", "method", "questions", "recall@1", "recall@3", "accepted", "ms"],
            (
                [
                    f"{r['memories']:,}",
                    r["method"],
                    f"{r['questions']:,}",
                    *(f"{number(r[name])} {between(r[f'{name}_ci95'])}" for name in SHARES),
                    f"{r['milliseconds']:.2f}",
                ]
                for r in result["rows"]
            ),
            words=2,
        ),
    ]
    return "\n".join(lines) + "\n"
