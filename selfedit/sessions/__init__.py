"""A conversation → what the user stated, corrected and asked to forget → passages to learn.

    changes = updated(known, turns, session="monday", date="2026-01-13")
    for statement in changes.added: print("I would remember:", statement.text)
    pages = passages(changes.statements, "ada")

Pure functions without a model: rules of English decide, a few milliseconds per session. Only what the user asserts
counts; sentences in other languages are kept as facts.
"""

from selfedit.sessions.changes import Changes, updated
from selfedit.sessions.forget import transcript_without
from selfedit.sessions.passages import line, passages
from selfedit.sessions.statements import Statement

__all__ = ["Changes", "Statement", "line", "passages", "transcript_without", "updated"]
