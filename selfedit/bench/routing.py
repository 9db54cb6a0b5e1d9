"""`selfedit bench routing`: which memory knows the answer? Ways to find it, compared over stores of several sizes.

In: tasks (passages, each as if it were a memory; those without questions are there to be confused with) and questions
about other things. Out: `results.json`, `results.md`, `routing.png`. The ways:

- `lexical`: the router of `ask` (memory/route.py); its constants were fitted on parts of the same sets (its docstring says which);
- `hidden`: the mean of the model's own states a quarter of the way up, of a question and of a passage, without the first
  token's (which only gathers attention), less what all passages, and all questions about other things, have in common
  (their means); cosine;
- `sentence`: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), cosine with the best stretch of 120 words;
- `lexical+sentence`: the sum of both scores.

Recall@k: the right memory is among the first k. Accepted: it is the first, and its score is above the one that
5 % of the questions about other things exceed; so all ways are compared at the same rate of false accepts. Shares are
means over memories, with 95 % bootstraps over them. Vectors are computed once and stay in files named by their model.
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
from selfedit.model.load import Model, load_model
from selfedit.types import Progress, Task, no_progress, text_hash

METHODS = ("lexical", "hidden", "sentence", "lexical+sentence")
FALSE_ACCEPTS = 0.05
QUESTIONS = 1000
"""Of each size, at most; and of those about other things."""
TIMED = 50
"""Questions, one at a time."""
SHARES = ("recall_at_1", "recall_at_3", "accepted")
STRETCH = 120  # words, as in memory/route.py
TOKENS = 256  # of a text that are read at most: what MiniLM was trained with
CHUNK = 256  # texts between two saves


class Finder(Protocol):
    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """[questions, memories]"""


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
    """`others`: questions that no memory answers."""
    from selfedit.bench.plots import pyplot, routing_plots

    pyplot()
    if not methods:
        raise SelfeditError(f"give methods of {', '.join(METHODS)}")
    if unknown := [m for m in methods if m not in METHODS]:
        raise SelfeditError(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
    if not memories or min(memories) < 2 or not others or not any(task.questions for task in tasks):
        raise SelfeditError(
            "give sizes of at least 2 memories, passages with questions, and questions about other things"
        )
    _alone = lock_run_folder(
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
    drawn = random.Random(seed)
    others = drawn.sample(list(others), min(len(others), QUESTIONS))
    rows = []
    sizes = sorted({min(size, len(tasks)) for size in memories})
    for step, size in enumerate(sizes):
        progress("sizes", step, len(sizes))
        for draw in _draws(tasks, size, drawn):
            rows += [_measure(method, _finder(method, draw, others, encoders), draw, others) for method in methods]
    result = {
        "model": model_name, "command": command, "software": software(), "false_accepts": FALSE_ACCEPTS, "others": len(others),
        "rows": [_joined([r for r in rows if (r["method"], r["memories"]) == key]) for key in dict.fromkeys((r["method"], r["memories"]) for r in rows)],
    }  # fmt: skip
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    routing_plots(result, out)
    return result


@dataclass(frozen=True)
class Draw:
    """A store, as if: its memories, and questions with the place of the memory that knows."""

    tasks: list[Task]
    questions: list[tuple[str, int]]

    @property
    def texts(self) -> list[str]:
        return [f"{task.passage.title}\n{task.passage.text}" for task in self.tasks]


def _draws(tasks: Sequence[Task], size: int, drawn: random.Random) -> Iterator[Draw]:
    """Small stores several times, so that as many questions are asked as of a large one."""
    for _ in range(max(1, min(5, len(tasks) // size))):
        own = drawn.sample(list(tasks), size)
        questions = [(q.question, i) for i, task in enumerate(own) for q in task.questions]
        if not questions:
            raise SelfeditError(
                f"of {size} passages drawn none has questions; give larger --memories or more passages with questions"
            )
        yield Draw(own, drawn.sample(questions, min(len(questions), QUESTIONS)))


def _finder(method: str, draw: Draw, others: Sequence[str], encoders: dict[str, Vectors]) -> Finder:
    if method == "lexical":
        return Lexical(draw.texts)
    if method == "lexical+sentence":
        return Both(Lexical(draw.texts), Cosine(encoders["sentence"], draw.texts))
    return Cosine(encoders[method], draw.texts, others if method == "hidden" else ())


def _measure(method: str, finder: Finder, draw: Draw, others: Sequence[str]) -> dict:
    asked = [question for question, _ in draw.questions]
    right = np.array([place for _, place in draw.questions])
    scores, foreign = finder.scores(asked), finder.scores(others).max(1)
    own = scores[np.arange(len(right)), right]
    above, alike = (scores > own[:, None]).sum(1), (scores == own[:, None]).sum(1)
    at_1, at_3 = (((k - above) / alike).clip(0, 1) for k in (1, 3))  # of those with one score each may come first
    bound = np.quantile(foreign, 1 - FALSE_ACCEPTS)
    start = time.perf_counter()
    for question in asked[:TIMED]:
        finder.scores([question])
    seconds = time.perf_counter() - start
    found = {
        "method": method,
        "memories": len(draw.tasks),
        "place": right,
        "recall_at_1": at_1,
        "recall_at_3": at_3,
        "accepted": at_1 * (own > bound),
    }
    return found | {"milliseconds": 1000 * seconds / len(asked[:TIMED])}


def _joined(draws: list[dict]) -> dict:
    row = {
        "method": draws[0]["method"],
        "memories": draws[0]["memories"],
        "draws": len(draws),
        "questions": sum(len(d["place"]) for d in draws),
    }
    for name in SHARES:
        shares = [d[name][d["place"] == place].mean() for d in draws for place in np.unique(d["place"])]
        row[name], row[f"{name}_ci95"] = mean_interval(shares)
    return row | {"milliseconds": min(d["milliseconds"] for d in draws)}


class Lexical:
    def __init__(self, texts: Sequence[str]):
        self.router, self.count = Router.of_texts({str(i): text for i, text in enumerate(texts)}), len(texts)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(questions), self.count))
        for row, question in zip(out, questions):
            for id, score in self.router.best(question, 3 if len(questions) == 1 else self.count):
                row[int(id)] = score
        return out


class Cosine:
    def __init__(self, vectors: Vectors, texts: Sequence[str], neutral: Sequence[str] = ()):
        """`neutral`: questions whose mean is taken off a question's vector; then the passages' is taken off theirs."""
        stretches = [
            [" ".join(words[low : low + STRETCH]) for low in range(0, max(1, len(words)), STRETCH)]
            for words in map(str.split, texts)
        ]
        self.vectors, self.starts = vectors, np.cumsum([0, *map(len, stretches)])[:-1]
        found = vectors([one for own in stretches for one in own])
        self.shift = vectors(neutral).mean(0) if neutral else 0.0
        self.found = _unit(found - found.mean(0) if neutral else found)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        return np.maximum.reduceat(_unit(self.vectors(questions) - self.shift) @ self.found.T, self.starts, axis=1)


class Both:
    def __init__(self, *finders: Finder):
        self.finders = finders

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        return sum(finder.scores(questions) for finder in self.finders)


class Vectors:
    """Texts → their vectors [texts, width], each computed once; in a file, so that a stopped run goes on."""

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], file: Path, progress: Progress):
        self.encode, self.file, self.progress = encode, file, progress
        self.known: dict[str, np.ndarray] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as saved:
                self.known = dict(zip(saved["of"].tolist(), saved["vectors"]))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if len(texts) == 1:  # so that it can be timed
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
    """The mean over a text's tokens but the first of the states a quarter of the way up, [texts, hidden]."""
    tokens = [model.chat.encode(text)[:TOKENS] or [0] for text in texts]
    return model.backend.mean_states(tokens, max(1, model.backend.num_layers // 4)).cpu().numpy()


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

        found = []
        with torch.inference_mode():
            for low in range(0, len(texts), 32):
                batch = self.tokenizer(
                    list(texts[low : low + 32]), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
                )
                mask = batch["attention_mask"][..., None]
                found.append(((self.model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(found)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def table(result: dict) -> str:
    """The rows in Markdown, for people."""
    lines = [
        *heading("Routing", result),
        f"Accepted: the right memory is the first, at the score that lets {result['false_accepts']:.0%} of {result['others']:,} questions about other things pass. "
        "95 % bootstrap over memories; milliseconds of one question, alone.",
        "",
        *markdown(
            ["memories", "way", "questions", "recall@1", "recall@3", "accepted", "ms"],
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
