"""What differs between two versions of a store, and between two memories, for people and programs.

In: a store. Out: plain values, which the command line prints and the server sends to its page.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import chain, zip_longest

from selfedit.errors import MemoryStoreError
from selfedit.memory.store import MemoryStore
from selfedit.memory.versions import START
from selfedit.types import MemoryEntry

SESSION = "session:"
"""Begins the source of a memory that names a conversation; its name follows."""
Side = list[dict]
"""A line, in parts: `text`, and whether it is `changed`. Empty where there is no line."""


def session_names(sources: set[str]) -> list[str]:
    return sorted(source.removeprefix(SESSION) for source in sources if source.startswith(SESSION))


def between_versions(store: MemoryStore, old: int | None = None, new: int | None = None) -> dict:
    """The memories that were `added`, `removed` or `replaced` (`before`, `after`), and
    `other_adapter`, the ids of those that answer from another adapter.

    By default, the present version and what undoing it would lead to. A version that replaces something is one change
    with the keeping of what came instead, and a shared adapter with what the same job kept. Raises MemoryStoreError on
    a version that does not exist."""
    states = {0: START | {"active": [], "adapters": {}}} | {line["version"]: line for line in store.history()}
    new = max(states) if new is None else new
    for number in (old or 0, new):
        if number not in states:
            raise MemoryStoreError(f"there is no version {number}; those to compare are v0 to v{max(states)}")
    if old is None:
        undoes = states[new]["action"] in ("supersede", "consolidate")
        old = states[new]["undo_to"] if undoes else max((number for number in states if number < new), default=0)
    before, after = states[old], states[new]
    gone, come = ([id for id in a["active"] if id not in b["active"]] for a, b in ((before, after), (after, before)))
    entries, sources = {entry.id: entry for entry in store.remaining([*gone, *come])}, store.sources()
    pairs = _replaced([entries[id] for id in gone if id in entries], [entries[id] for id in come if id in entries])
    paired = {*chain.from_iterable(pairs)}

    def record(id: str) -> dict:
        if id not in entries:
            return {"id": id, "forgotten": True}
        return entries[id].record() | {"sessions": session_names(sources.get(id, set()))}

    stay = [id for id in after["active"] if id in before["active"]]
    return {
        "from": old,
        "to": new,
        "changes": [
            {key: line[key] for key in ("version", "time", "action")}
            for number, line in states.items()
            if old < number <= new
        ],
        "added": [record(id) for id in come if id not in paired],
        "removed": [record(id) for id in gone if id not in paired],
        "replaced": [{"before": record(a), "after": record(b)} for a, b in pairs],
        "other_adapter": [id for id in stay if before["adapters"].get(id) != after["adapters"].get(id)],
    }


def _replaced(gone: list[MemoryEntry], come: list[MemoryEntry]) -> list[tuple[str, str]]:
    """Pairs of ids: memories of the same passage, else of the same place in their source."""
    pairs, left = [], list(come)
    for key in (
        lambda entry: (entry.model_hash, entry.passage.id),
        lambda entry: (entry.model_hash, entry.passage.source, entry.passage.title, entry.passage.index),
        lambda entry: (entry.model_hash, entry.passage.source, entry.passage.title),
    ):
        for old in gone:
            if match := next((new for new in left if key(new) == key(old)), None):
                pairs.append((old.id, match.id))
                left.remove(match)
        gone = [entry for entry in gone if entry.id not in {old for old, _ in pairs}]
    return pairs


def between_memories(store: MemoryStore, a: str, b: str) -> dict:
    """The `passage`s of two memories and what was `studied`, as rows of `side_by_side`, and both `memories`.
    A memory is named by its id, or by a source or a day if that means one memory."""
    entries = [store.get(_one(store, which)) for which in (a, b)]
    edits = [[example for edit in store.edits(entry.id) for example in edit.examples] for entry in entries]
    studied = ["\n".join(f"{x.prompt} → {x.text}" if x.prompt else x.text for x in examples) for examples in edits]
    sources = store.sources()
    return {
        "memories": [entry.record() | {"sessions": session_names(sources.get(entry.id, set()))} for entry in entries],
        "passage": side_by_side(*(entry.passage.text for entry in entries)),
        "studied": side_by_side(*studied),
    }


def _one(store: MemoryStore, which: str) -> str:
    ids = store.find(which)
    if len(ids) > 1:
        raise MemoryStoreError(f"{which!r} fits {len(ids)} memories ({', '.join(ids)}); give the id of one")
    return ids[0]


def side_by_side(before: str, after: str) -> list[tuple[Side, Side]]:
    """Two texts line by line; what changed within a line is marked by words."""
    rows: list[tuple[Side, Side]] = []
    for left, right in _aligned(before.splitlines(), after.splitlines()):
        if left == right:
            rows += [([_part(line, False)], [_part(line, False)]) for line in left]
        else:
            rows += [_changed_line(*pair) for pair in zip_longest(left, right, fillvalue="")]
    return rows


def _changed_line(left: str, right: str) -> tuple[Side, Side]:
    sides: tuple[Side, Side] = ([], [])
    for words in _aligned(re.findall(r"\s+|\S+", left), re.findall(r"\s+|\S+", right)):
        for side, some in zip(sides, words):
            if some:
                side.append(_part("".join(some), words[0] != words[1]))
    return sides


def _aligned(a: list[str], b: list[str]) -> list[tuple[list[str], list[str]]]:
    """Both lists in runs that are the same on both sides, or differ."""
    codes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [(a[i:j], b[k:m]) for _, i, j, k, m in codes]


def _part(text: str, changed: bool) -> dict:
    return {"text": text, "changed": changed}
