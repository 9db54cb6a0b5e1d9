"""How well `selfedit.sessions` does on invented users: python tests/sessions_measure.py FILE [MODEL] [-v].

Without a model by rules alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter

from selfedit.model.load import load_model
from selfedit.sessions import Reader, Statement, reader_of, updated
from selfedit.sessions.wording import sentences
from selfedit.types import Message


def has(text: str, value: str) -> bool:
    """Whether the value stands in the text as whole words, whatever the case."""
    pattern = r"(?<![\w.,-])" + re.escape(value.lower()) + r"(?![\w-]|[.,]\d)"
    return re.search(pattern, text.lower().replace("’", "'")) is not None


def notes(user: dict, reader: Reader | None) -> list[tuple[Statement, ...]]:
    """What is known after each session."""
    known: tuple[Statement, ...] = ()
    history = []
    for number, session in enumerate(user["sessions"]):
        turns = [Message(turn["role"], turn["content"]) for turn in session["turns"]]
        known = updated(known, turns, f"s{number}", session["date"], reader=reader).statements
        history.append(known)
    return history


def verdicts(user: dict, history: list[tuple[Statement, ...]]):
    """Yields (kind of the check, whether it holds, the question, what is known of it) for each question."""
    for question in user["questions"]:
        known = history[question["after_session"]]
        kind, answers, wrong = question["kind"], question["answers"], question.get("wrong") or []
        text = "\n".join(statement.text for statement in known)
        held = any(has(text, answer) for answer in answers)
        clean = not any(has(text, value) for value in wrong)
        gold = question["gold_turn"]
        if kind in ("single", "updated", "two-facts", "date"):
            yield f"{kind}: answer known", held, question
            yield (
                f"{kind}: gold turn kept",
                any((s.session, s.turn) == (f"s{gold[0]}", gold[1]) for s in known),
                question,
            )
        if kind in ("updated", "forgotten", "not-said"):
            yield f"{kind}: no wrong value", clean, question
        if kind == "not-said" and not any(a.lower() in ("i don't know", "none", "no") for a in answers):
            yield "not-said: true value known", held, question
        if kind == "preference-use":
            marked = any((s.session, s.turn, s.kind) == (f"s{gold[0]}", gold[1], "preference") for s in known)
            yield "preference-use: marked", marked, question
        if kind == "general" and "must_not_match" in question:
            yield "pasted: not remembered", not re.search(question["must_not_match"], text), question


def measure(path: Path, reader: Reader | None = None) -> tuple[dict[str, list], dict[str, float]]:
    """The verdicts by kind, and the counts of what is kept."""
    users = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
    table: dict[str, list] = defaultdict(list)
    kept = sessions = told = 0
    began = perf_counter()
    histories = [notes(user, reader) for user in users]
    seconds = perf_counter() - began
    for user, history in zip(users, histories):
        for kind, holds, question in verdicts(user, history):
            table[kind].append((holds, user["id"], question))
        kept += len(history[-1])
        sessions += len(history)
        told += sum(len(sentences(t["content"])) for s in user["sessions"] for t in s["turns"] if t["role"] == "user")
    per_session = {
        "kept per session": kept / sessions,
        "share of sentences": kept / told,
        "ms per session": 1000 * seconds / sessions,
    }
    return dict(table), per_session


if __name__ == "__main__":
    table, counts = measure(
        Path(sys.argv[1]), reader_of(load_model(sys.argv[2])) if sys.argv[2:] and sys.argv[2] != "-v" else None
    )
    for kind, rows in sorted(table.items()):
        print(f"{kind:32} {sum(row[0] for row in rows)}/{len(rows)} = {sum(row[0] for row in rows) / len(rows):.3f}")
        if "-v" in sys.argv:
            for holds, user, question in rows:
                if not holds:
                    print(
                        "      ",
                        user,
                        question["after_session"],
                        question["question"],
                        question["answers"][:1],
                        question.get("wrong"),
                    )
    print({key: round(value, 2) for key, value in counts.items()})
