"""Passages with questions: the editor writes study material, and the reward is what is then answered closed book.

What the published reward and selection lack is added (docs/SEAL.md, §4):

- The reward is the log-probability of the gold answers above that of the passage studied alone, instead of a count of
  five answers. It is measured on the short answers, because whole sentences also reward knowing the passage by heart.
  Every edit is trained with several seeds; their differences are noise.
- An edit is reinforced if it exceeds the untouched model, the passage alone and, where questions made by rule stand
  beside it, those questions alone, each by more than the noise, whether or not it is the best of its context.
- Styles compete: each context gets edits in several; most edits of the next round are in the style that gained most.
- Edits that lose after the first epochs stop there (successive halving). In a few audited contexts none is stopped, to
  measure what stopping costs.
- The editor does not study lines that nearly copy the passage, and a finetuned editor is discarded if it writes far
  fewer usable lines, or far less varied ones, or copies far more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from selfedit.config import RestemConfig
from selfedit.edits.parse import copied
from selfedit.edits.propose import check_styles, write_edits, writing_sequences
from selfedit.edits.styles import STYLES
from selfedit.errors import UnscoredError
from selfedit.judge.evaluate import Query, answers, gold_logprobs, offline_name
from selfedit.loop import selection
from selfedit.loop.outer import Block, Lesson, Round
from selfedit.loop.selection import PASSAGE, ContextTrial, Outcome
from selfedit.loop.trial import QUESTIONS, job, seal_examples, study_sequences, with_questions, writing_style
from selfedit.model.backend import Adapters, Cut, Job, no_steps
from selfedit.model.load import Model
from selfedit.model.writer import Writer
from selfedit.types import Example, Judge, Passage, Progress, SelfEdit, Task, stable_seed, text_hash


@dataclass(frozen=True)
class Row:
    """One adapter of a block's plan."""

    task: Task
    candidate: int | None
    """Position of the edit among those of its task; None: a control."""
    style: str
    """The style of the edit, or the name of the control."""
    seed: int
    """Number of the repetition, from 0."""
    job: Job


@dataclass
class Studied:
    """A block's adapters, one per row of its plan."""

    rows: list[Row]
    adapters: Adapters | None = None
    tokens: list[int] = field(default_factory=list)
    """Tokens that each row was trained on."""
    first: list[float] = field(default_factory=list)
    """Reward of each row when all were compared."""
    stopped: set[int] = field(default_factory=set)
    """Rows of edits that lost the comparison."""
    seconds_comparing: float = 0.0
    gold_logprob: dict[int, float] = field(default_factory=dict)
    """Reward at the end, of the rows that reached it."""
    accuracy: dict[int, float | None] = field(default_factory=dict)
    """Share of right answers, of the rows that were asked."""

    def ranked(self, task: Task) -> list[int]:
        """The candidates of a task, by their mean reward when all were compared, the best first."""
        rewards: dict[int, float] = {}
        for row, reward in zip(self.rows, self.first):
            if row.task is task and row.candidate is not None:
                rewards[row.candidate] = rewards.get(row.candidate, 0.0) + reward
        return sorted(rewards, key=lambda k: -rewards[k] if math.isfinite(rewards[k]) else math.inf)


class Knowledge:
    """The domain of passages with questions (loop/outer.py)."""

    trial_from_json = staticmethod(ContextTrial.from_json)

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        config: RestemConfig,
        *,
        judge: Judge | None = None,
        judge_name: str = "",
        writer: Writer | None = None,
    ):
        """`judge`: the offline one if none is given. `writer`: a larger model, for example, that writes the edits until
        an editor was trained on those that helped. Raises SelfeditError if a style does not exist."""
        check_styles(map(writing_style, config.styles))
        self.model, self.tasks, self.config, self.judge, self.writer = model, tasks, config, judge, writer
        self.style = config.styles[0]
        self.settings = {"judge": judge_name or offline_name(), "prompts": text_hash(*map(repr, STYLES.values()))}
        self.settings |= {"writer": writer.fingerprint} if writer else {}

    @staticmethod
    def candidate_from_json(record: dict) -> SelfEdit:
        return SelfEdit(**record | {"examples": tuple(Example(**example) for example in record["examples"])})

    def styles(self, current: Round) -> list[str]:
        """The style of each edit of a context."""
        ranked = [row["style"] for row in current.previous["styles"]] if current.previous else None
        return edit_styles(self.config, ranked)

    def controls(self, current: Round) -> list[str]:
        """What is studied for comparison with the edits: the passage alone and, if a style has them, questions too."""
        with_rule = any(style != writing_style(style) for style in self.styles(current))
        return [PASSAGE, QUESTIONS] if with_rule else [PASSAGE]

    # propose

    def propose(self, current: Round, tasks: Sequence[Task]) -> list[list[SelfEdit]]:
        """One edit per style; an edit in which nothing is usable has no examples."""
        styles = self.styles(current)
        seeds = [stable_seed(self.config.seed, "edit", current.number, k) for k in range(len(styles))]
        requests = [(t.passage, writing_style(style), seed) for t in tasks for style, seed in zip(styles, seeds)]
        edits = self.write(requests, current.adapters, partial(current.progress, "write"), self._writer(current))
        return [edits[low : low + len(styles)] for low in range(0, len(edits), len(styles))]

    def write(
        self, requests, adapters: Adapters | None, on_token=no_steps, writer: Writer | None = None
    ) -> list[SelfEdit]:
        return write_edits(self.model, requests, adapters, writer=writer, config=self.config.filter, on_token=on_token)

    def _writer(self, current: Round) -> Writer | None:
        return self.writer if current.adapters is None else None

    # study: plan, then run

    def study(self, current: Round, block: Block) -> Studied:
        """Trains every control and every usable edit with every seed, all together; losers stop early."""
        studied = Studied(self.plan(current, block))
        survivors = None if self.audits(block) else self.config.survivors
        cut = Cut(self.config.cut_after, partial(self.compare, studied, block, survivors))
        jobs = [row.job for row in studied.rows]
        on_step = partial(current.progress, "train")
        studied.adapters, logs = self.model.backend.train(jobs, self.config.trial, cut=cut, on_step=on_step)
        studied.tokens = [log.tokens for log in logs]
        return studied

    def plan(self, current: Round, block: Block) -> list[Row]:
        controls = [(None, name, SelfEdit("", "")) for name in self.controls(current)]
        rows = []
        for task, edits in zip(block.tasks, block.candidates):
            candidates = zip(range(len(edits)), self.styles(current), edits)
            for k, style, edit in [*controls, *((k, style, edit) for k, style, edit in candidates if edit.examples)]:
                for seed in range(self.config.seeds):
                    rows.append(Row(task, k, style, seed, self.job(current, task, style, edit, seed)))
        return rows

    def job(self, current: Round, task: Task, style: str, edit: SelfEdit, seed: int) -> Job:
        """All jobs of one context and seed start from equal weights and have the same questions, if they have any."""
        job_seed = stable_seed(self.config.seed, "trial", current.number, seed, task.passage.id)
        if style != writing_style(style):
            edit = with_questions(task.passage, edit, self.config.questions, job_seed)
        examples = seal_examples(task.passage, [edit])
        return job(study_sequences(self.model, task.passage, examples), examples, job_seed)

    def audits(self, block: Block) -> bool:
        return block.start < self.config.audited

    def compare(self, studied: Studied, block: Block, survivors: int | None, adapters: Adapters) -> list[int]:
        """The rows that stop: all but the best `survivors` edits of each context; none if that is None."""
        start = time.perf_counter()
        studied.first = self.gold_logprob([(row.task, i) for i, row in enumerate(studied.rows)], adapters)
        studied.seconds_comparing = time.perf_counter() - start
        if survivors is not None:
            for task in block.tasks:
                losers = set(studied.ranked(task)[survivors:])
                studied.stopped |= {
                    i for i, row in enumerate(studied.rows) if row.task is task and row.candidate in losers
                }
        return sorted(studied.stopped)

    # reward: run, then record

    def reward(self, current: Round, block: Block, studied: Studied) -> list[ContextTrial]:
        rows, untouched = studied.rows, [(task, None) for task in block.tasks]
        finished = [i for i in range(len(rows)) if i not in studied.stopped]
        rewards = self.gold_logprob([(rows[i].task, i) for i in finished], studied.adapters)
        studied.gold_logprob = dict(zip(finished, rewards))
        answering = [i for i in finished if self.audits(block) or self.answers_count(studied, rows[i])]
        pairs = [(rows[i].task, i) for i in answering] + untouched
        accuracy = self.accuracy(pairs, studied.adapters, current.progress)
        studied.accuracy = dict(zip(answering, accuracy))
        before = zip(self.gold_logprob(untouched), accuracy[len(answering) :])
        return [
            ContextTrial(
                task=task.key,
                id=task.id,
                context=task.passage.id,
                title=task.passage.title,
                audited=self.audits(block),
                untouched=Outcome("untouched", gold_logprob=[reward], accuracy=[right]),
                controls={name: self.outcome(studied, task, None, name) for name in self.controls(current)},
                candidates=[self.outcome(studied, task, k, style) for k, style in enumerate(self.styles(current))],
                seconds_comparing=round(studied.seconds_comparing / len(block.tasks), 2),
            )
            for task, (reward, right) in zip(block.tasks, before)
        ]

    def answers_count(self, studied: Studied, row: Row) -> bool:
        """Whether the summary needs the row's answers: the first seed of each control and of the best edit."""
        return row.seed == 0 and (row.candidate is None or row.candidate in studied.ranked(row.task)[:1])

    def outcome(self, studied: Studied, task: Task, candidate: int | None, style: str) -> Outcome:
        key = (candidate, style)
        rows = [i for i, row in enumerate(studied.rows) if row.task is task and (row.candidate, row.style) == key]
        left = (self.config.trial.epochs - self.config.cut_after) / self.config.cut_after
        return Outcome(
            style,
            first=_finite([studied.first[i] for i in rows]),
            gold_logprob=_finite([studied.gold_logprob[i] for i in rows if i in studied.gold_logprob]),
            accuracy=[studied.accuracy[i] for i in rows if i in studied.accuracy],
            tokens=sum(studied.tokens[i] for i in rows),
            spared=round(sum(studied.tokens[i] * left for i in rows if i in studied.stopped)),
        )

    def gold_logprob(self, pairs: Sequence[tuple[Task, int | None]], adapters: Adapters | None = None) -> list[float]:
        """For each (task, adapter), the mean log-probability of the task's short gold answers."""
        questions = [(replace(q, sentence=""), adapter) for task, adapter in pairs for q in task.questions]
        values = iter(gold_logprobs(self.model, questions, adapters))
        return [sum(next(values) for _ in task.questions) / len(task.questions) for task, _ in pairs]

    def accuracy(
        self, pairs: Sequence[tuple[Task, int | None]], adapters: Adapters, progress: Progress
    ) -> list[float | None]:
        """For each (task, adapter), the share of right answers among the scored ones; None if none is scored.

        Raises UnscoredError if the judge leaves more than half unscored: it is out of service, and as the block has not
        been recorded yet, the same command asks again. Other answers that it does not score are in no mean.
        """
        queries = [Query(q, adapter) for task, adapter in pairs for q in task.questions]
        tokens, on_token = self.config.answer_tokens, partial(progress, "test")
        judged = answers(self.model, queries, adapters, judge=self.judge, tokens=tokens, on_token=on_token)
        verdicts = [verdict for _, verdict in judged]
        if (unscored := verdicts.count(None)) > len(verdicts) / 2:
            raise UnscoredError(
                f"the judge left {unscored} of {len(verdicts)} answers unscored; the same command goes on from here"
            )
        left = iter(verdicts)
        scored = [[v for _ in task.questions if (v := next(left)) is not None] for task, _ in pairs]
        return [sum(verdicts) / len(verdicts) if verdicts else None for verdicts in scored]

    # what the editor is finetuned on

    def editor_examples(
        self, current: Round, trials: Sequence[ContextTrial], candidates: Sequence[Sequence[SelfEdit]]
    ) -> Lesson:
        errors, styles = selection.noise(trials), selection.ranking(trials)
        kept = [(i, k) for i, t in enumerate(trials) for k in selection.reinforced(t, errors, self.config.beyond_noise)]
        passages = [current.tasks[i].passage for i, _ in kept]
        uncopied = [self.without_copies(passage, candidates[i][k]) for passage, (i, k) in zip(passages, kept)]
        usable = [(passage, edit) for passage, edit in zip(passages, uncopied) if edit.examples]
        examples, why_not = [], f"{len(usable)} edits to finetune on; at least {self.config.min_kept}"
        if len(usable) >= self.config.min_kept:
            examples = [s for passage, edit in usable for s in writing_sequences(self.model, passage, edit)]
        return Lesson(
            examples=examples,
            edits=len(usable),
            contexts=tuple(task.passage.words_id for task in current.tasks),
            report=self.report(current, trials, [trials[i].candidates[k].style for i, k in kept], errors, styles),
            style=styles[0]["style"],
            why_not=why_not,
            quality=partial(self.writing_quality, current, styles[0]["style"]),
            min_quality=self.config.min_kept_share,
        )

    def report(self, current: Round, trials, kept_styles: Sequence[str], errors: dict, styles: list[dict]) -> dict:
        edits = [edit for t in trials for edit in t.candidates]
        best = [
            max(
                (edit for edit in t.candidates if edit.gold_logprob),
                key=lambda edit: sum(edit.first),
                default=t.controls[PASSAGE],
            )
            for t in trials
        ]
        tokens = sum(o.tokens for t in trials for o in (*t.controls.values(), *t.candidates))
        spared = sum(edit.spared for edit in edits)
        return {
            "writer": writer.name if (writer := self._writer(current)) else "the editor",
            "contexts": len(trials),
            "edits": len(edits),
            "usable": sum(bool(edit.first) for edit in edits),
            "kept": len(kept_styles),
            "kept_styles": {s: kept_styles.count(s) for s in dict.fromkeys(self.styles(current)) if s in kept_styles},
            "noise": {style: error if error < math.inf else None for style, error in errors.items()},
            "reliability": {
                when: selection.reliability(trials, when) for when in ("first", "gold_logprob", "accuracy")
            },
            "styles": styles,
            "untouched": selection.levels(t.untouched for t in trials),
            "controls": {name: selection.levels(t.controls[name] for t in trials) for name in self.controls(current)},
            "best": selection.levels(best),
            "tokens": tokens,
            "tokens_spared": spared / (tokens + spared) if tokens else None,
            "stopping": selection.cost_of_stopping(trials, self.config.survivors),
            "seconds_comparing": round(sum(t.seconds_comparing for t in trials), 1),
        }

    def writing_quality(self, current: Round, style: str, adapters: Adapters | None) -> dict[str, float]:
        """How varied the usable lines of an editor are, how little they copy, and how many there are per edit. Copied
        and invented lines do not count as varied, because they cannot be used."""
        seed = stable_seed(self.config.seed, "guard", current.number)
        tasks = current.tasks[: self.config.guarded]
        edits = self.write([(task.passage, writing_style(style), seed) for task in tasks], adapters)
        copies = [_copied(e, task.passage) for task, edit in zip(tasks, edits) for e in edit.examples]
        return {
            "diversity": selection.diversity([e.text for edit in edits for e in edit.examples]),
            "own words": 1 - sum(copies) / len(copies) if copies else 0.0,
            "usable lines": len(copies) / len(edits),
        }

    def without_copies(self, passage: Passage, edit: SelfEdit) -> SelfEdit:
        """The edit without lines that nearly copy the passage: an editor that studies those ends up copying."""
        examples = [e for e in edit.examples if _copied(e, passage) <= self.config.max_copied]
        return replace(edit, examples=tuple(examples))


def edit_styles(config: RestemConfig, ranked: Sequence[str] | None) -> list[str]:
    """A style for each edit of a context: at first all styles in turn; later the best one for half of the edits, and
    the next ones in turn."""
    if not ranked:
        return [config.styles[k % len(config.styles)] for k in range(config.edits)]
    half = (config.edits + 1) // 2
    return [ranked[0] if k < half else ranked[(k - half + 1) % len(ranked)] for k in range(config.edits)]


def _finite(values: list[float]) -> list[float]:
    """The values, or none of them where training diverged."""
    return values if all(map(math.isfinite, values)) else []


def _copied(example: Example, passage: Passage) -> float:
    return copied(f"{example.prompt} {example.text}", passage)
