"""`selfedit bench inner-loop`: the speed of turning self-edits into adapters, beside two baselines.

In: the name of a model, and passages of invented facts. Each passage has a self-edit (hand-written lines, and questions
made from the sentences of the passage as in `learn`) and other questions for judging. Out: one result, also written as
`inner-loop.json` and `inner-loop.md`. Three implementations train on the same sequences, in one run on one machine:
`published` (SEAL's recipe; a few steps are timed and the rest is extrapolated, so its quality is not known), `fair`
(the same libraries used well, in full) and `ours` (`model.train` with its defaults, many adapters at once). `recites`
is what `learn` does: it studies the passage alone, until it can recite it. Then the adapters of fair and ours answer
the same questions with the same code, closed book; those of `recites` recite, and the answer is read from that, as in
`ask`. The unit of the speed is one fully trained adapter. With `out`, each finished part is stored there and not run
again.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from selfedit.bench.intervals import paired_interval
from selfedit.bench.measure import Parts, clock, matmul_rate, train_flops
from selfedit.bench.tables import with_interval
from selfedit.config import LearnConfig, TrainConfig
from selfedit.edits.quiz import find_supporting_sentence, questions_as_edit
from selfedit.edits.spans import keyword_questions
from selfedit.errors import SelfeditError
from selfedit.loop.journal import software, write_json, write_text
from selfedit.tasks.records import elements, expect, field, read_jsonl
from selfedit.thread_waiting import spinning
from selfedit.types import Example, Passage, Question, no_progress, stable_seed, text_hash

PASSAGES = Path(__file__).with_name("passages.jsonl")
QUESTIONS_PER_SENTENCE = 1
LOAD_MARGIN = 0.5
"""A load that exceeds the number of threads by more than this means that other processes use the cores."""


@dataclass(frozen=True)
class Entry:
    """A passage, the self-edit to train on, and the questions that test whether the passage was learned."""

    title: str
    context: str
    questions: tuple[Question, ...]
    edit: tuple[str, ...]

    @property
    def passage(self) -> Passage:
        return Passage(self.title, self.context, "", "")

    def examples(self) -> list[Example]:
        """Returns SEAL's training sequences (title before each line, passage last) and questions in chat form."""
        questions = keyword_questions(self.passage, QUESTIONS_PER_SENTENCE, stable_seed("inner-loop", self.title))
        return [Example(f"{self.title}\n{text}") for text in (*self.edit, self.context)] + list(
            questions_as_edit(questions).examples
        )


def read_entries(file: Path, count: int) -> list[Entry]:
    """Reads the first `count` passages of a JSON-lines file. Raises SelfeditError."""
    entries = [_entry(item, at) for at, item in read_jsonl(file)]
    if without := [entry.title for entry in entries if not entry.questions]:
        raise SelfeditError(f"{file}: {without[0]!r} has no questions")
    if not 1 <= count <= len(entries):
        raise SelfeditError(f"{file} has {len(entries)} passages, but {count} were requested")
    return entries[:count]


def _entry(item: object, at: str) -> Entry:
    title, context = (field(item, name, str, at) for name in ("title", "context"))
    questions = (
        _question(field(question, "question", str, where), field(question, "answer", str, where), context)
        for where, question in elements(item, "questions", at, may_be_empty=True)
    )
    edit = (expect(line, str, where) for where, line in elements(item, "edit", at, may_be_empty=True))
    return Entry(title, context, tuple(questions), tuple(edit))


def _question(text: str, answer: str, context: str) -> Question:
    question = Question(text, (answer,))
    return replace(question, sentence=find_supporting_sentence(Passage("", context, "", ""), question))


def run(
    model_name: str,
    *,
    passages: int = 8,
    published_steps: int = 3,
    threads: int | None = None,
    seeds: int = 1,
    adapters: int = 8,
    data: Path | None = None,
    out: Path | None = None,
    on_progress: Callable[[str], None] = lambda part: None,
) -> dict:
    """Runs the benchmark and returns its result.

    `adapters`: the maximum number of adapters that are trained at once. `seeds`: how often fair and ours train on each
    passage. `on_progress(part)` is called before each part that is not finished yet. Raises SelfeditError if `out`
    holds a run with other settings.
    """
    counts = dict(published_steps=published_steps, threads=threads, seeds=seeds, adapters=adapters)
    command = ["selfedit", "bench", "inner-loop", "--model", model_name]
    for name, value in {"passages": passages, **counts, "data": data, "out": out}.items():
        command += [] if value == run.__kwdefaults__[name] else [f"--{name.replace('_', '-')}", str(value)]
    for name, value in counts.items():
        if value is not None and value < 1:
            raise SelfeditError(f"{name} is {value}; it must be at least 1")
    entries = read_entries(data or PASSAGES, passages)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(
            model_name, entries, published_steps, threads, seeds, adapters, out or Path(scratch), on_progress
        )
        result = bench.run() | {"command": shlex.join(command)}
    if out:
        write_json(out / "inner-loop.json", result)
        write_text(out / "inner-loop.md", table(result))
    return result


class _Bench:
    """The parts of the benchmark; each is a method that measures one thing and returns the record that is stored."""

    def __init__(self, model_name, entries, published_steps, threads, seeds, adapters, out: Path, on_progress):
        import torch

        from selfedit.model.backend import Job, lora_config
        from selfedit.model.load import load_model

        if threads:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.name, self.entries, self.published_steps, self.adapters = model_name, entries, published_steps, adapters
        self.config = TrainConfig()
        self.model = model = load_model(model_name, precision="fp32")  # the precision of the baselines
        self.recitation = LearnConfig().for_rate(model.rate).train
        self.lora = lora_config(model.backend.num_layers, self.config)
        self.seeds = seeds
        self.edits = [(s, entry) for s in range(seeds) for entry in entries]
        """The self-edits; fair and ours train one adapter for each."""
        self.jobs = [
            Job(tuple(map(model.chat.study, entry.examples())), stable_seed("inner-loop", s, entry.title))
            for s, entry in self.edits
        ]
        rows = range(len(self.edits))
        self.waves = [list(rows[low : low + adapters]) for low in range(0, len(rows), adapters)]
        settings = dict(
            model=model_name,
            weights=model.fingerprint,
            data=text_hash(*(repr(entry) for entry in entries), *(repr(job.examples) for job in self.jobs)),
            passages=len(entries),
            published_steps=published_steps,
            threads=self.threads,
            device=model.backend.device.type,
            seeds=seeds,
            adapters=adapters,
            config=text_hash(json.dumps(asdict(self.config))),
            recitation=text_hash(json.dumps(asdict(self.recitation))),
        )
        self.folder = out / "parts"
        self.parts = Parts(self.folder, settings, on_progress)

    def run(self) -> dict:
        from selfedit.bench import decode

        parts = self.parts
        rates = [parts("matmul-before", self.matmul)]
        published = parts("published", self.published)
        fair, ours, recites = [], [], []
        for w, wave in enumerate(self.waves):  # they alternate
            fair += [parts(f"fair-{i}", partial(self.fair, i)) for i in wave]
            ours.append(parts(f"ours-{w}", partial(self.ours, wave)))
            recites.append(parts(f"recites-{w}", partial(self.recites, wave)))
        rates.append(parts("matmul-after", self.matmul))
        stages = parts("stages", self.stages)["rows"]
        self.__dict__.pop("base", None)  # frees its memory
        answers: dict[str, list[dict]] = {
            "untouched": parts("answers-untouched", lambda: self.answers(None, None))["edits"]
        }
        for side in ("fair", "ours"):
            waves = [
                parts(f"answers-{side}-{w}", partial(self.answers, side, wave))["edits"]
                for w, wave in enumerate(self.waves)
            ]
            answers[side] = [edit for edits in waves for edit in edits]
        waves = [
            parts(f"answers-recites-{w}", partial(self.answers_from_recitation, wave))
            for w, wave in enumerate(self.waves)
        ]
        answers["recites"] = [edit for of_wave in waves for edit in of_wave["edits"]]
        reciting = sum(of_wave["seconds"] for of_wave in waves) / len(self.edits)
        decoding = parts("decode", lambda: decode.run(self.name))
        trained = {"fair": fair, "ours": ours, "recites": recites}
        return self.result(rates, published, trained, reciting, stages, answers, decoding)

    # Measurements.

    def matmul(self) -> dict:
        return {"gflops": matmul_rate(self.model.backend.device, self.model.backend.dtype)}

    @cached_property
    def base(self):
        """The model of `transformers`, after a short training as warm-up; loaded only if a part needs it."""
        from selfedit.bench.baselines import base_of, fair

        base = base_of(self.model)
        fair(base, self.jobs[0].examples[:1], 0, None, epochs=2)
        return base

    def published(self) -> dict:
        from selfedit.bench.baselines import published

        pad = min(self.model.chat.ends, default=0)
        with tempfile.TemporaryDirectory() as scratch:
            return published(self.base, self.jobs[0].examples, pad, self.published_steps, Path(scratch))

    def fair(self, i: int) -> dict:
        from selfedit.bench.baselines import EPOCHS, fair

        job = self.jobs[i]
        seconds = fair(self.base, job.examples, job.seed, self.folder / f"fair-{i}")
        return {"seconds": seconds, "tokens": EPOCHS * _tokens(job)}

    def ours(self, wave: list[int]) -> dict:
        jobs = [self.jobs[i] for i in wave]
        self.train([replace(job, examples=job.examples[:1]) for job in jobs], replace(self.config, epochs=1))  # warm-up
        stack, logs, seconds = self.train(jobs, self.config)
        for row, i in enumerate(wave):
            self.model.backend.save(stack, row, self.folder / f"ours-{i}", self.name)
        flops = train_flops(
            self.model.backend.shape,
            self.lora,
            [job.examples for job in jobs],
            [len(log.losses) for log in logs],
            [log.rows for log in logs],
        )
        return {"seconds": seconds, "tokens": sum(log.tokens for log in logs), "flops": flops}

    def recites(self, wave: list[int]) -> dict:
        from selfedit.loop.trial import job, study_examples, study_sequences, train_to_recite

        config, first = self.recitation, self.jobs[wave[0]]
        self.train([replace(first, examples=first.examples[:1])], replace(config, epochs=1))  # warm-up, on another text
        passages = [self.edits[i][1].passage for i in wave]
        start, jobs = clock(self.model.backend.device), []
        for i, passage in zip(wave, passages):
            examples = study_examples(passage, recites=True)
            jobs.append(job(study_sequences(self.model, passage, examples), examples, self.jobs[i].seed))
        stack, logs, _ = train_to_recite(self.model, passages, jobs, config, no_progress)
        seconds = clock(self.model.backend.device) - start
        for row, i in enumerate(wave):
            self.model.backend.save(stack, row, self.folder / f"recites-{i}", self.name, small=True)
        return {"seconds": seconds, "tokens": sum(log.tokens for log in logs)}

    def stages(self) -> dict:
        """Returns the speed of each optimization, measured in one epoch on all layers."""
        all_layers = replace(self.config, first_layer=0.0, epochs=1)
        jobs = [self.jobs[i] for i in self.waves[0]]
        rows = []
        for name, trained, config in (
            ("one adapter, all layers, 1 sequence per step", jobs[:1], replace(all_layers, batch_size=1)),
            ("one adapter, all layers, default batches", jobs[:1], all_layers),
            ("many adapters, all layers, default batches", jobs, all_layers),
        ):
            _, logs, seconds = self.train(trained, config)
            rows.append(
                {"stage": name, "adapters": len(trained), "tokens_per_s": sum(log.tokens for log in logs) / seconds}
            )
        return {"rows": rows}

    def train(self, jobs, config: TrainConfig):

        start = clock(self.model.backend.device)
        stack, logs = self.model.backend.train(jobs, config)
        return stack, logs, clock(self.model.backend.device) - start

    def answers(self, side: str | None, wave: list[int] | None) -> dict:
        """Returns per edit the answers, their verdicts, and the log-probability of the gold answers (nats per token).

        `side`: whose adapters answer, read from their PEFT folders; None: the untouched model, once per passage.
        """
        from selfedit.judge.evaluate import Query, respond

        stack = self.model.backend.load([self.folder / f"{side}-{i}" for i in wave]) if side else None
        entries = [self.edits[i][1] for i in wave] if side else self.entries
        queries = [
            Query(question, row if side else None) for row, entry in enumerate(entries) for question in entry.questions
        ]
        responses = iter(respond(self.model, queries, stack))
        edits = []
        for entry in entries:
            of_entry = [next(responses) for _ in entry.questions]
            edits.append(
                {
                    "answers": [r.text for r in of_entry],
                    "correct": [r.correct for r in of_entry],
                    "gold_logprob": [r.gold_logprob for r in of_entry],
                }
            )
        return {"edits": edits}

    def answers_from_recitation(self, wave: list[int]) -> dict:
        """As `answers`, without texts and log-probabilities; `seconds`: to recite and to read the answers."""
        from selfedit.edits.recitation import recite
        from selfedit.judge.evaluate import read
        from selfedit.model.load import load_model

        model = load_model(
            self.name, precision="fp32"
        )  # `self.model` keeps states from training, which would be faster
        stack = model.backend.load([self.folder / f"recites-{i}" for i in wave])
        entries = [self.edits[i][1] for i in wave]
        start = clock(model.backend.device)
        said = recite(model, [entry.passage for entry in entries], range(len(entries)), stack)
        asked = [(question, text) for entry, text in zip(entries, said) for question in entry.questions]
        verdicts = iter(read(model, asked))
        edits = [{"correct": [next(verdicts) for _ in entry.questions]} for entry in entries]
        return {"edits": edits, "seconds": clock(model.backend.device) - start}

    # Results.

    def result(self, rates, published, trained, reciting, stages, answers, decoding) -> dict:
        from selfedit.bench.baselines import EPOCHS

        def side(name: str, made: list[dict]) -> dict:
            quality = {key: _mean(self.by_passage(answers[name], key)) for key in ("correct", "gold_logprob")}
            row = self.speed(sum(m["tokens"] for m in made), sum(m["seconds"] for m in made))
            return row | {"accuracy": quality["correct"], "gold_logprob": quality["gold_logprob"]}

        steps = EPOCHS * sum(len(job.examples) for job in self.jobs)
        published_row = self.speed(EPOCHS * sum(map(_tokens, self.jobs)), steps * published["seconds_per_step"])
        published_row |= {
            "accuracy": None,
            "steps_timed": published["steps_timed"],
            "padded_to": published["padded_to"],
        }
        ours, recites = trained["ours"], trained["recites"]
        fair_row, our_row = side("fair", trained["fair"]), side("ours", ours)
        recites_row = self.speed(sum(m["tokens"] for m in recites), sum(m["seconds"] for m in recites))
        recites_row |= {
            "accuracy": _mean(self.by_passage(answers["recites"], "correct")),
            "seconds_to_answer": reciting,
        }
        gflops = max(rate["gflops"] for rate in rates)
        differences = {
            key: paired_interval(self.by_passage(answers["ours"], key), self.by_passage(answers["fair"], key))
            for key in ("correct", "gold_logprob")
        }
        loads = self.parts.loads()
        busy = [f"{part} (load {load:.1f})" for part, load in loads.items() if load > self.threads + LOAD_MARGIN]
        first = {"stage": "fair: PEFT, one adapter, all layers, 1 sequence per step", "adapters": 1}
        last = {"stage": "ours: the defaults, all epochs", "adapters": len(self.waves[0])}
        return {
            "published": published_row,
            "fair": fair_row,
            "ours": our_row,
            "recites": recites_row,
            "untouched": {
                "accuracy": _mean(_mean(edit["correct"]) for edit in answers["untouched"]),
                "gold_logprob": _mean(_mean(edit["gold_logprob"]) for edit in answers["untouched"]),
            },
            "speedup_vs_published": our_row["edits_per_hour"] / published_row["edits_per_hour"],
            "speedup_vs_fair": our_row["edits_per_hour"] / fair_row["edits_per_hour"],
            "recites_speedup_vs_fair": recites_row["edits_per_hour"] / fair_row["edits_per_hour"],
            "accuracy_difference": differences["correct"],
            "recites_accuracy_difference": paired_interval(
                self.by_passage(answers["recites"], "correct"), self.by_passage(answers["fair"], "correct")
            ),
            "gold_logprob_difference": differences["gold_logprob"],
            "matmul_gflops": gflops,
            "matmul_share": sum(m["flops"] for m in ours) / our_row["seconds"] / 1e9 / gflops,
            "dtype": str(self.model.backend.dtype).removeprefix("torch."),
            "device": self.device_name(),
            "threads": self.threads,
            "waiting_threads": "spin" if spinning() else "sleep",
            "adapters": self.adapters,
            "passages": len(self.entries),
            "questions": sum(len(entry.questions) for entry in self.entries),
            "seeds": self.seeds,
            "model": self.name,
            "train_config": json.loads(json.dumps(asdict(self.config))),  # lists for tuples, as in the file
            "stages": [
                first | {"tokens_per_s": fair_row["tokens"] / fair_row["seconds"]},
                *stages,
                last | {"tokens_per_s": our_row["tokens"] / our_row["seconds"]},
            ],
            "decode": {key: value for key, value in decoding.items() if key != "load"},
            "loads": loads,
            "software": software(self.folder),
            "warnings": [f"another process used the cores before: {', '.join(busy)}"] if busy else [],
        }

    def speed(self, tokens: int, seconds: float) -> dict:
        return {"tokens": tokens, "seconds": seconds, "edits_per_hour": 3600 * len(self.edits) / seconds}

    def by_passage(self, edits: list[dict], key: str) -> list[float]:
        """Returns per passage the mean over its questions and seeds."""
        means, count = [_mean(edit[key]) for edit in edits], len(self.entries)
        return [_mean(means[p::count]) for p in range(count)]

    def device_name(self) -> str:
        import platform

        import torch

        if self.model.backend.device.type == "cuda":
            return torch.cuda.get_device_name(self.model.backend.device)
        return f"{self.model.backend.device.type} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def _tokens(job) -> int:
    return sum(len(sequence.tokens) for sequence in job.examples)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def table(result: dict) -> str:
    """Returns the result as Markdown."""
    rows = [
        "| | training tokens | seconds | self-edits per hour | accuracy | log-probability of the gold answer |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for side in ("published", "fair", "ours", "recites"):
        r = result[side]
        shown = (f"{r[key]:.3f}" if r.get(key) is not None else "not run" for key in ("accuracy", "gold_logprob"))
        quality = " | ".join(shown)
        rows.append(f"| {side} | {r['tokens']:,} | {r['seconds']:,.1f} | {r['edits_per_hour']:,.1f} | {quality} |")
    rows.append(
        f"| untouched | | | | {result['untouched']['accuracy']:.3f} | {result['untouched']['gold_logprob']:.3f} |"
    )
    stages = ["| | adapters at once | tokens/s |", "|---|--:|--:|"]
    stages += [f"| {r['stage']} | {r['adapters']} | {r['tokens_per_s']:,.0f} |" for r in result["stages"]]
    decode = [
        "| prompts at once | transformers, tokens/s | ours, tokens/s | ratio | same text |",
        "|--:|--:|--:|--:|--:|",
    ]
    for r in result["decode"]["rows"]:
        decode.append(
            f"| {r['rows']} | {r['transformers_tokens_per_s']:,.1f} | {r['ours_tokens_per_s']:,.1f} "
            f"| {r['ratio']:.2f} | {sum(r['same_text'])} of {r['rows']} |"
        )
    lines = [
        f"# Inner loop: {result['model']}",
        "",
        f"`{result['command']}` (selfedit {result['software']})  ",
        f"{result['device']}, {result['threads']} threads ({result['waiting_threads']} while they wait), "
        f"{result['dtype']}; {result['passages']} passages × {result['seeds']} seeds, {result['questions']} questions, "
        f"closed book; at most {result['adapters']} adapters at once.",
        "",
        *rows,
        "",
        f"- Ours is **{result['speedup_vs_published']:.1f}** times as fast as published "
        f"({result['published']['steps_timed']} of its steps are timed, the rest is extrapolated) and "
        f"**{result['speedup_vs_fair']:.1f}** times as fast as fair, in self-edits per hour.",
        f"- Ours − fair, 95 % interval over passages: accuracy {with_interval(result['accuracy_difference'], '+.3f')}, "
        f"log-probability {with_interval(result['gold_logprob_difference'], '+.3f')}.",
        f"- `recites`, what `learn` does, is **{result['recites_speedup_vs_fair']:.1f}** times as fast as fair; "
        f"accuracy {with_interval(result['recites_accuracy_difference'], '+.3f')}. Reciting a passage and reading the "
        f"answers to its questions takes {result['recites']['seconds_to_answer']:.1f} s.",
        f"- Useful arithmetic of ours: {result['matmul_share']:.0%} of the {result['matmul_gflops']:,.0f} GFLOP/s of a "
        "large matrix product.",
        *(f"- **Warning**: {warning}." for warning in result["warnings"]),
        "",
        "## Sources of the speed",
        "",
        *stages,
        "",
        "## Greedy decoding",
        "",
        *decode,
    ]
    return "\n".join(lines) + "\n"
