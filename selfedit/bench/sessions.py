"""`selfedit bench sessions`: users talk over months; what is known of them in a fresh session, and what is not made up?

In: users with dated sessions and questions (tasks/sessions.py). Out: `results.json`, `results.md`, a plot, the homes
with the memories, and `answers.jsonl`. Each question is asked in a fresh session after the session that it names:

- `base`: the untouched model, without memory;
- `history`: all sessions so far in the prompt, the oldest turns left out where they do not fit;
- `retrieval`: the best turns of the user by BM25 in the prompt;
- `remembered`: as `selfedit chat` answers right after a session, when the user's statements are in force as texts;
- `memory`: as it answers after the process in the background has learned them;
- `memory-weights`: likewise, from the weights alone.

A reply is right if an accepted form stands in its first line and no wrong value does, or as the data says. `wrong` is
the share of replies that assert such a value, `refused` the share that say that it is not known. `tokens` are read
and written per question. Intervals are 95 % bootstraps over users; differences are paired.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from selfedit.answers.answerer import AUTO, WEIGHTS, Answerer
from selfedit.answers.choose import rule_name
from selfedit.bench.conditions import Retriever, check_conditions
from selfedit.bench.measure import peak_gb
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.bench.tallies import add, difference, interval, matrix, share
from selfedit.config import LearnConfig
from selfedit.conversations import Conversations
from selfedit.edits.quiz import with_passage
from selfedit.learn import learn
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json, write_text
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Request
from selfedit.model.load import Model, load_model
from selfedit.sessions import reader_of
from selfedit.tasks.sessions import Session, SessionQuestion, User, refuses
from selfedit.text import count_words
from selfedit.types import Message, Passage, Progress, Question, Task, no_progress, text_hash

CONDITIONS = ("base", "history", "retrieval", "remembered", "memory", "memory-weights")
_TEXTS = {"remembered": AUTO}
_LEARNED = {"memory": AUTO, "memory-weights": WEIGHTS}
"""Condition → arm."""
LEARN = LearnConfig()
READ_BY = ("conversations.py", "sessions/*.py", "sessions/heads/*")
"""The files of the package that decide, beside those of all answers, what is known after a session."""
REPLY_TOKENS = 64
RETRIEVED = 5
"""Turns of the user in the prompt under `retrieval`."""


def run(
    model_name: str,
    users: Sequence[User],
    out: Path,
    *,
    conditions: Sequence[str] = CONDITIONS,
    config: LearnConfig = LEARN,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json. Raises SelfeditError, before any work, on an unknown
    condition."""
    from selfedit.bench.plots import pyplot, sessions_plot

    check_conditions(conditions, CONDITIONS)
    pyplot()
    model = load_model(model_name, notify=notify)
    bench = _Bench(model, out, config, progress)
    records: list[dict] = []
    for index, user in enumerate(users):
        progress("users", index, len(users))
        records += bench.answers(user, conditions)
    progress("users", len(users), len(users))
    sides = {name: _side([r for r in records if r["condition"] == name]) for name in conditions}
    rows = [_row(name, [r for r in records if r["condition"] == name], sides) for name in conditions]
    result = {
        "model": model_name,
        "precision": model.backend.precision,
        "users": len(users),
        "sessions": sum(len(user.sessions) for user in users),
        "rows": rows,
        "sessions_learned": bench.costs,
        "command": command,
        "software": software(out),
    }
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    sessions_plot(result, out)
    return result


class _Bench:
    def __init__(self, model: Model, out: Path, config: LearnConfig, progress: Progress):
        self.model, self.out, self.config, self.progress = model, out, config, progress
        settings = {"config": asdict(config), "rule": rule_name(*READ_BY)}
        self._lock = lock_run_folder(out, model.identity() | settings)
        self._journal = Journal(out / "answers.jsonl")
        self._known = {(r["condition"], r["user"], r["question"], r["depends"]): r for r in self._journal.records}
        self.costs: list[dict] = []
        """For each session that was learned: `user`, `session`, `words` of the user's turns, `passages`, how many of
        them are `in_weights`, `seconds` to learn those that are new, `peak_gb` of the process that ended it."""

    def answers(self, user: User, conditions: Sequence[str]) -> list[dict]:
        """The record of each question under each condition: its `reply`, and whether it is right, wrong or refused."""
        records: list[dict] = []
        for condition in conditions:
            if condition in ("base", "history", "retrieval"):
                records += self._without_memory(user, condition)
        for kind, arms in (("texts", _TEXTS), ("learned", _LEARNED)):
            if chosen := [condition for condition in conditions if condition in arms]:
                records += self._from_memory(user, kind, {condition: arms[condition] for condition in chosen})
        return records

    # Without memory

    def _without_memory(self, user: User, condition: str) -> list[dict]:
        requests = [self._request(user, question, condition) for question in user.questions]
        depends = [text_hash(str(request.tokens))[:12] for request in requests]

        def write(todo: Sequence[int]) -> list[dict]:
            chosen = [requests[i] for i in todo]
            stage = lambda done, total: self.progress(condition, done, total)  # noqa: E731
            written = self.model.backend.generate(chosen, on_token=stage)
            return [
                {"reply": self.model.chat.decode(tokens).strip(), "tokens": len(request.tokens) + len(tokens)}
                for request, tokens in zip(chosen, written)
            ]

        return self._kept(user, condition, user.questions, depends, write)

    def _request(self, user: User, question: SessionQuestion, condition: str) -> Request:
        before = user.sessions[: question.after_session + 1]
        asked = Question(question.question, ())
        if condition == "retrieval":
            asked = with_passage(_retrieved(before, asked), asked)
        history = _dated(before) if condition == "history" else []
        tokens = self.model.chat.prompt(asked, history)
        while len(tokens) + REPLY_TOKENS > self.model.backend.max_positions and history:
            history = history[2:]  # a turn of the user and its reply
            tokens = self.model.chat.prompt(asked, history)
        return Request(tuple(tokens), max_new_tokens=REPLY_TOKENS)

    # From memory

    def _from_memory(self, user: User, kind: str, arms: dict[str, str]) -> list[dict]:
        """Lets the user talk, session after session, and asks after each. `arms`: condition → arm."""
        home = self.out / "homes" / text_hash(user.id)[:16] / kind
        names = [f"{i:02}-{_said_until(user, i)}" for i in range(len(user.sessions))]
        done = [home.with_name(f"{kind}-{name}.json") for name in names]
        conversations = Conversations(home, reader_of(self.model))
        asked = [(name, user.id, q.question, names[q.after_session]) for name in arms for q in user.questions]
        finished = {name for name, file in zip(names, done) if file.exists()}
        is_ahead = any(key not in self._known and key[-1] in finished for key in asked)
        has_others = not set(names).issuperset(conversations.names())  # sessions in which other things were said
        if home.exists() and (is_ahead or has_others):
            shutil.rmtree(home)
        if not home.exists():
            for file in home.parent.glob(f"{kind}-*.json"):
                file.unlink()
        store = MemoryStore(home)
        answerer, records = Answerer(self.model, store), []
        costs: list[dict] = []
        for i, (session, name) in enumerate(zip(user.sessions, names)):
            questions = [q for q in user.questions if q.after_session == i]
            if not done[i].exists():
                if name not in conversations.names():
                    conversations.add(name, session.turns, session.date)
                conversations.accept(name, self.model, store)
                learned = costs[-1]["passage_ids"] if costs else []
                cost = self._learn(user, i, conversations, store, learned) if kind == "learned" else {}
            for condition, arm in arms.items():
                write = partial(self._asked, condition, arm, questions, conversations, answerer)
                records += self._kept(user, condition, questions, [name] * len(questions), write)
            if not done[i].exists():
                write_json(done[i], cost)
            costs += [cost] if (cost := read_back(done[i])) else []
        self.costs += [{key: value for key, value in cost.items() if key != "passage_ids"} for cost in costs]
        return records

    def _asked(
        self,
        condition: str,
        arm: str,
        questions: Sequence[SessionQuestion],
        conversations: Conversations,
        answerer: Answerer,
        todo: Sequence[int],
    ) -> list[dict]:
        asks = [conversations.ask(questions[i].question, arm=arm, max_new_tokens=REPLY_TOKENS) for i in todo]
        stage = lambda done, total: self.progress(condition, done, total)  # noqa: E731
        answers = answerer.answer(asks, on_token=stage)
        return [{"reply": a.answer, "tokens": a.tokens, "from": a.arm, "score": round(a.score, 3)} for a in answers]

    def _learn(
        self, user: User, index: int, conversations: Conversations, store: MemoryStore, learned: Sequence[str]
    ) -> dict:
        """Learns what is known after a session. `learned`: the ids of the passages that were known before it."""
        passages = conversations.passages()
        reports = learn(self.model, passages, store, self.config, progress=self.progress).reports if passages else []
        said = [turn.content for turn in user.sessions[index].turns if turn.role == "user"]
        return {
            "user": user.id,
            "session": index,
            "words": sum(map(count_words, said)),
            "passages": len(passages),
            "passage_ids": [report.passage for report in reports],
            "in_weights": sum(report.memory is not None for report in reports),
            "seconds": round(sum(report.seconds for report in reports if report.passage not in learned), 1),
            "peak_gb": peak_gb(),
        }

    # Records

    def _kept(
        self,
        user: User,
        condition: str,
        questions: Sequence[SessionQuestion],
        depends: Sequence[str],
        write: Callable[[Sequence[int]], list[dict]],
    ) -> list[dict]:
        """The records of these questions; those that are missing are written first. `depends`: a hash of what each
        answer depends on."""
        keys = [(condition, user.id, question.question, hash) for question, hash in zip(questions, depends)]
        if todo := [i for i, key in enumerate(keys) if key not in self._known]:
            start = time.perf_counter()
            given = write(todo)
            seconds = round((time.perf_counter() - start) / len(todo), 3)
            for i, one in zip(todo, given):
                record = dict(zip(("condition", "user", "question", "depends"), keys[i])) | one | {"seconds": seconds}
                self._journal.add(record)
                self._known[keys[i]] = record
        judged = []
        for question, key in zip(questions, keys):
            reply = self._known[key]["reply"]
            verdict = {
                "kind": question.kind,
                "right": question.is_right(reply),
                "wrong": question.asserts_wrong(reply),
                "refused": refuses(reply),
            }
            judged.append(self._known[key] | verdict)
        return judged


def _said_until(user: User, index: int) -> str:
    """A hash of all that was said up to a session."""
    sessions = user.sessions[: index + 1]
    return text_hash(*(part for s in sessions for turn in s.turns for part in (s.date, *turn)))[:12]


def _dated(sessions: Sequence[Session]) -> list[Message]:
    """All turns; the first one of each session says its day."""
    return [
        turn._replace(content=f"({session.date}) {turn.content}") if index == 0 else turn
        for session in sessions
        for index, turn in enumerate(session.turns)
    ]


def _retrieved(sessions: Sequence[Session], question: Question) -> Passage:
    said = [(session.date, turn.content) for session in sessions for turn in session.turns if turn.role == "user"]
    texts = [f"On {day} the user said: {content}" for day, content in said]
    passages = [Passage("", text, "", "", index) for index, text in enumerate(texts)]
    return Retriever([Task(passage, ()) for passage in passages], RETRIEVED).best(question)


# Results


def _side(records: Sequence[dict]) -> dict:
    """User → what bench/tallies.py describes."""
    side: dict[str, dict] = {}
    for record in records:
        add(side, record["user"], [record["kind"]], record["right"])
    return side


def _row(condition: str, records: Sequence[dict], sides: dict[str, dict]) -> dict:
    side = sides[condition]
    kinds = list(dict.fromkeys(record["kind"] for record in records))

    def part(kind: str) -> dict:
        of_kind = [record for record in records if record["kind"] == kind]
        rates = {name: sum(r[name] for r in of_kind) / len(of_kind) for name in ("wrong", "refused")}
        return {"questions": len(of_kind), "accuracy": share(matrix(side, kind)), **rates}

    return {
        "condition": condition,
        "questions": len(records),
        "accuracy": share(matrix(side)),
        "ci95": interval(matrix(side)),
        **{f"vs_{other}": difference(side, sides.get(other)) for other in ("base", "history")},
        "by_kind": {kind: part(kind) for kind in kinds},
        **{name: sum(r[name] for r in records) / len(records) for name in ("tokens", "seconds")},
    }


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    costs = result["sessions_learned"]
    about = f"{result['users']} users, {result['sessions']} sessions"
    if costs:
        seconds, words = (sum(cost[key] for cost in costs) / len(costs) for key in ("seconds", "words"))
        about += f"; a session of {words:.0f} words of the user takes {seconds:.0f} s to learn, in the background"
    kinds = list(result["rows"][0]["by_kind"]) if result["rows"] else []
    head = ["condition", "accuracy", "− base", "− history", "tokens", "seconds"]
    cells = (
        [
            r["condition"],
            with_interval([r["accuracy"], *(r["ci95"] or (None, None))]),
            with_interval(r["vs_base"], "+.3f"),
            with_interval(r["vs_history"], "+.3f"),
            f"{r['tokens']:.0f}",
            f"{r['seconds']:.2f}",
        ]
        for r in result["rows"]
    )
    lines = [
        *heading("Sessions", result),
        f"{about}. 95 % intervals: paired bootstrap over users.",
        "",
        *markdown(head, cells),
    ]
    for name, title in (
        ("accuracy", "accuracy"),
        ("wrong", "a wrong value asserted"),
        ("refused", "says that it does not know"),
    ):
        counts = [f"{kind} ({result['rows'][0]['by_kind'][kind]['questions']})" for kind in kinds]
        parts = ([r["condition"], *(number(r["by_kind"][kind][name], ".2f") for kind in kinds)] for r in result["rows"])
        lines += ["", *markdown([title, *counts], parts)]
    return "\n".join(lines) + "\n"
