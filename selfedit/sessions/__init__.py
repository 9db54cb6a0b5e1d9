"""A conversation → what the user stated, corrected and asked to forget → passages to learn.

    changes = updated(known, turns, session="monday", date="2026-01-13")
    for statement in changes.added: print("I would remember:", statement.text)
    pages = passages(changes.statements, "ada")

Only what the user asserts counts. What a turn asserts, ends and asks to forget is read by the model, from its hidden
states (`reader`), and by rules of English, which also make each statement readable alone; for a model without heads by
rules alone.
"""

from selfedit.sessions.changes import Changes, updated
from selfedit.sessions.forget import transcript_without
from selfedit.sessions.passages import line, passages
from selfedit.sessions.reader import Reader, reader_of
from selfedit.sessions.statements import Statement

__all__ = ["Changes", "Reader", "Statement", "line", "passages", "reader_of", "transcript_without", "updated"]
