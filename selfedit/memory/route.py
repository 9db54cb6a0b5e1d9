"""Which memory answers a question: query → the id of the memory that knows, or None (the untouched model answers).

A score decides whether any memory answers, and BM25 decides which of those with the highest scores.

Score: the share of the question's weight that the words of the best stretch of 120 words of a memory cover. The weight
of a word must make sense with one memory as with a thousand, so it comes from the language and not from the store
alone: at most 0.5 for the commonest English words, 1 for any other, more for a name, less where many memories have it.
Stretches make a long document comparable to a short one; the best of many is higher by chance, so the threshold grows
with their number. The question is read in the language of each memory (its stems, its common words), so its
own language need not be recognized.

BM25 (Robertson and Zaragoza, *The Probabilistic Relevance Framework*, 2009) over words and pairs of neighbouring words:
passages of one document share most of its words, and there the number of times a word occurs, the length of the passage
and the order of the words tell them apart. Of 167 questions that people ask about seven documents in one store, the
right passage of 123 is found for 151 by it, for 134 by the score alone (`selfedit bench documents`).

Recall of the right memory / false accepts among 1, 5, 20 and 60 memories: .993/.020, .990/.037, .977/.039, .957/.033
(means of SQuAD train199 passages and fictional public65 documents, 596 to 3,538 queries; false: 800 questions of
TriviaQA, NQ, other SQuAD articles, GSM8K and CommonsenseQA; `pytest -s tests/test_route.py`).

Index: FTS5 in the store's database finds the memories that have a word; `index_memories` has the words of each stretch,
with which the few memories that can reach the threshold are scored exactly. Triggers keep FTS5 equal to the memories in
the table `active`, so its counts are those of the memories that may answer. Words are stored as hashes, which depend on
the model and the language: each pair is an index of its own. `Router.of_texts` scores every stretch of a few texts in
memory; it is also the reference with which the index is compared.
"""

from __future__ import annotations

import sqlite3
from base64 import b32encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import nlargest
from itertools import pairwise
from math import inf, log
from typing import Protocol

from selfedit.text import compound_parts, language, terms, weight

FORMAT = 3
"""Of the index: to be raised with any change of its tables or of what counts as a word, a stem or a stretch."""
_STRETCH = 120  # words
_NAME_BONUS = 0.7  # for a capital letter that does not begin the query
_MISSING = 2.0  # weight that is never covered, so that one or two matching words are not yet evidence
_RARITY = 0.3  # a word that m memories have weighs m ** -0.3 of its weight
_THRESHOLD, _PER_STRETCH = 0.13, 0.032  # + this much for each factor e in the number of stretches
_LEAST = 0.19  # else one uncommon word of a short question would do where there is only one memory
_DOUBTFUL = 0.6  # share of the threshold from which a score tells at least that the query may be about it
_ROUNDING = 1e-9
_RANKED, _NEAR = 20, 0.5  # BM25 compares so many memories at most, if they have this share of the best score
_K1, _B = 0.6, 0.75  # BM25: when further occurrences of a word stop to count, and how much length does
_BATCH = 500  # parameters of one statement

_TABLES = """
CREATE TABLE index_memories(
    number INTEGER PRIMARY KEY, memory_id TEXT NOT NULL UNIQUE, model_hash TEXT NOT NULL, language TEXT NOT NULL,
    stretches INTEGER NOT NULL, active INTEGER NOT NULL DEFAULT 0, words TEXT NOT NULL
);
CREATE TABLE index_totals(
    model_hash TEXT NOT NULL, language TEXT NOT NULL, stretches INTEGER NOT NULL, PRIMARY KEY(model_hash, language)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE index_words USING fts5(
    words, content='index_memories', content_rowid='number', detail='none', columnsize=0, tokenize='ascii'
);
CREATE VIRTUAL TABLE index_counts USING fts5vocab('index_words', 'row')
"""
_COUNT_STRETCHES = """
INSERT INTO index_totals SELECT model_hash, language, {sign}stretches FROM index_memories
    WHERE memory_id = {id} AND active = {before}
    ON CONFLICT(model_hash, language) DO UPDATE SET stretches = stretches + excluded.stretches;
UPDATE index_memories SET active = 1 - active WHERE memory_id = {id} AND active = {before};
"""
_ACTIVATE = (
    "INSERT INTO index_words(rowid, words) "
    "SELECT number, words FROM index_memories WHERE memory_id = {id} AND active = 0;"
    + _COUNT_STRETCHES.replace("{sign}", "").replace("{before}", "0")
)
_DEACTIVATE = (
    "INSERT INTO index_words(index_words, rowid, words) "
    "SELECT 'delete', number, words FROM index_memories WHERE memory_id = {id} AND active = 1;"
    + _COUNT_STRETCHES.replace("{sign}", "-").replace("{before}", "1")
)


def create(connection: sqlite3.Connection) -> None:
    """Creates the tables of an empty index, and the triggers that follow the table `active`."""
    for name, event, row, statements in (
        ("index_activate", "INSERT", "new", _ACTIVATE),
        ("index_deactivate", "DELETE", "old", _DEACTIVATE),
    ):
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        connection.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON active BEGIN {statements.format(id=row + '.memory_id')} END"
        )
    for statement in _TABLES.split(";"):
        connection.execute(statement)


def add(connection: sqlite3.Connection, memory_id: str, model_hash: str, text: str) -> None:
    """Adds one memory to the index, before or after it becomes active. `text`: all that it knows."""
    lang = language(text)
    stretches = list(map(" ".join, _stretches(text, model_hash, lang)))
    connection.execute(
        "INSERT INTO index_memories(memory_id, model_hash, language, stretches, words) VALUES (?, ?, ?, ?, ?)",
        (memory_id, model_hash, lang, len(stretches), "\n".join(stretches)),
    )
    if connection.execute("SELECT 1 FROM active WHERE memory_id = ?", (memory_id,)).fetchone():
        _run(connection, _ACTIVATE, memory_id)


def remove(connection: sqlite3.Connection, memory_id: str) -> None:
    """Removes a memory and every trace of its words; FTS5 keeps deleted words until its segments are merged."""
    _run(connection, _DEACTIVATE, memory_id)
    if connection.execute("DELETE FROM index_memories WHERE memory_id = ?", (memory_id,)).rowcount:
        connection.execute("INSERT INTO index_words(index_words) VALUES ('optimize')")


def _run(connection: sqlite3.Connection, statements: str, memory_id: str) -> None:
    for statement in statements.format(id=":id").split(";")[:-1]:
        connection.execute(statement, {"id": memory_id})


class Connection(Protocol):
    """What a router needs of a database."""

    def execute(self, statement: str, values: Sequence = ..., /) -> Iterable[tuple]: ...


class Router:
    """Routes to the memories of one model that are active when it is made, and to texts that are given to it."""

    def __init__(self, connection: Connection | None, model_hash: str = "", least: float = _LEAST):
        """`least`: the lowest threshold; 0 where few texts are compared that are known to be about the subject."""
        self._connection, self._model_hash, self._least = connection, model_hash, least
        self._texts: dict[str, tuple[str, str]] = {}
        self._hidden: frozenset[str] = frozenset()
        self._known_counts: dict[str, int] = {}  # memories that have a word, by its hash
        self._in_memory: dict[str, _InMemory] = {}
        rows = (
            connection.execute("SELECT language, stretches FROM index_totals WHERE model_hash = ?", (model_hash,))
            if connection
            else ()
        )
        self._indexed = {lang: count for lang, count in rows if count}

    @staticmethod
    def of_texts(texts: Mapping[str, str], least: float = _LEAST, language_code: str | None = None) -> Router:
        """A router of texts by their ids. `language_code`: of all of them, where each is too short to tell."""
        router = Router(None, least=least)
        router._add_texts({id: (text, language_code or language(text)) for id, text in texts.items()})
        return router

    def with_text(self, id: str, text: str) -> Router:
        """A router of the same memories and one more."""
        router = self.without(())
        router._add_texts({id: (text, language(text))})
        return router

    def without(self, ids: Iterable[str]) -> Router:
        """A router of the same memories and texts but for these."""
        router = Router(self._connection, self._model_hash, self._least)
        router._hidden = self._hidden.union(ids)
        router._add_texts(self._texts)
        return router

    def _add_texts(self, texts: Mapping[str, tuple[str, str]]) -> None:
        self._texts |= texts
        for id, (text, lang) in texts.items():
            part = self._in_memory.setdefault(lang, _InMemory())
            part.add(id, _stretches(text, self._model_hash, lang))

    @property
    def ids(self) -> list[str]:
        """The memories, in the order in which they became active, then the texts."""
        rows = (
            self._connection.execute(
                "SELECT active.memory_id FROM active JOIN index_memories USING (memory_id) WHERE model_hash = ? "
                "ORDER BY position",
                (self._model_hash,),
            )
            if self._connection
            else ()
        )
        return [id for (id,) in rows if id not in self._hidden] + list(self._texts)

    @property
    def threshold(self) -> float:
        return max(self._least, _THRESHOLD + _PER_STRETCH * log(max(1, self._stretches)))

    @property
    def _stretches(self) -> int:
        return sum(self._indexed.values()) + sum(len(part.owners) for part in self._in_memory.values())

    def route(self, query: str) -> tuple[str | None, float]:
        """The best memory and its score, in [0, 1), or None and a score below `threshold` that some memory has.

        If some memory reaches the threshold, the best one among those with about its score may lie below it."""
        id, score = next(iter(self.best(query, 1, self.threshold)), (None, 0.0))
        if id is None or score < self.threshold:
            return None, score
        return next(iter(self._by_relevance(query, score)), (None, 0.0))

    def ranked(self, query: str) -> list[tuple[str, float]]:
        """The memories that may answer, with their scores; the most relevant first, and at most `_RANKED`."""
        return self._best_between(query, self.threshold, inf)

    def doubtful(self, query: str) -> list[tuple[str, float]]:
        """As `ranked`, where the best score is below the threshold but not far: words do not decide about these."""
        return self._best_between(query, _DOUBTFUL * self.threshold, self.threshold)

    def _best_between(self, query: str, least: float, below: float) -> list[tuple[str, float]]:
        """The memories by relevance, if the best score is at least `least` and below `below`."""
        _, score = next(iter(self.best(query, 1, least)), (None, 0.0))
        return self._by_relevance(query, score) if least <= score < below else []

    def nearest(self, query: str, count: int) -> list[str]:
        """The most relevant memories that share a word with the query, although none of them may answer it."""
        return [id for id, _ in self._by_relevance(query, 0.0)[:count]]

    def _by_relevance(self, query: str, highest: float) -> list[tuple[str, float]]:
        fitting = [(id, score) for id, score in self.best(query, _RANKED, _NEAR * highest) if score >= _NEAR * highest]
        relevance = self._relevance(query, [id for id, _ in fitting]) if len(fitting) > 1 else {}
        return sorted(fitting, key=lambda pair: -relevance.get(pair[0], 0.0))  # equal ones stay in order

    def _relevance(self, query: str, ids: Sequence[str]) -> dict[str, float]:
        """The BM25 of each memory."""
        texts = {id: part.texts[id] for part in self._in_memory.values() for id in ids if id in part.texts}
        langs = {id: lang for lang, part in self._in_memory.items() for id in texts if id in part.texts}
        rows = self._select(
            "SELECT memory_id, language, words FROM index_memories WHERE memory_id IN",
            [id for id in ids if id not in texts],
        )
        for id, langs[id], words in rows:
            texts[id] = [line.split() for line in words.split("\n")]
        lengths = {id: sum(map(len, stretches)) for id, stretches in texts.items()}
        average = sum(lengths.values()) / max(1, len(lengths))
        values = {lang: self._values(query, lang) for lang in set(langs.values())}
        relevance = {}
        for id, stretches in texts.items():
            wanted = values[langs[id]]
            found: Counter[str | tuple[str, str]] = Counter()
            for stretch in stretches:
                places = [place for place, word in enumerate(stretch) if word in wanted]
                found.update(stretch[place] for place in places)
                neighbours = ((stretch[a], stretch[b]) for a, b in pairwise(places) if b == a + 1)
                found.update(pair for pair in neighbours if pair in wanted)
            damping = _K1 * (1 - _B + _B * lengths[id] / average)
            relevance[id] = sum(wanted[word] * n / (n + damping) for word, n in found.items())
        return relevance

    def _values(self, query: str, lang: str) -> dict[str | tuple[str, str], float]:
        """The inverse document frequency of each word of the query, by its hash, and of each pair the mean of both."""
        found = [term for _, term in terms(query, lang)]
        counts, total = self._counts(found, lang), self._stretches
        words = [_hash(term, self._model_hash, lang) for term in found]
        value = {w: log(1 + (total - counts[t] + 0.5) / (counts[t] + 0.5)) for t, w in zip(found, words)}
        return value | {(a, b): (value[a] + value[b]) / 2 for a, b in pairwise(words)}

    def best(self, query: str, count: int, least: float = 0.0) -> list[tuple[str, float]]:
        """So many memories with the highest scores, the highest first; fewer if fewer share a word with the query.

        `least`: memories with lower scores may be left out; in a large store that is much faster.
        """
        scored: list[tuple[float, str]] = []
        for lang in self._indexed.keys() | self._in_memory.keys():
            weights = self._weights(query, lang)
            total = _MISSING + sum(weights.values())
            scores = self._in_memory[lang].covered(weights) if lang in self._in_memory else {}
            if lang in self._indexed:
                scores |= self._covered(weights, count, least * total)
            scored += ((covered / total, id) for id, covered in scores.items() if id not in self._hidden)
        return [(id, score) for score, id in self._ordered(scored, count)]

    def _ordered(self, scored: list[tuple[float, str]], count: int) -> list[tuple[float, str]]:
        """The highest; among equal scores the memory that became active first, and texts in their order."""
        lowest = min(nlargest(count, (score for score, _ in scored)), default=0.0)
        best = [one for one in scored if one[0] >= lowest]
        order = {id: i for i, id in enumerate(self._texts)}
        for id in [id for _, id in best if id not in order] if self._connection else []:
            rows = self._select("SELECT position FROM active WHERE memory_id IN", [id])
            order[id] = next((position for (position,) in rows), 0)  # 0: no longer active since
        return sorted(best, key=lambda one: (-one[0], one[1] in self._texts, order[one[1]]))[:count]

    def _weights(self, query: str, lang: str) -> dict[str, float]:
        """The weight of each different word of the query, in a language; by its hash."""
        weights: dict[str, float] = {}
        for position, (word, term) in enumerate(terms(query, lang)):
            bonus = _NAME_BONUS if position and word[0].isupper() else 0.0
            weights.setdefault(term, weight(term, lang) * (1 + bonus))
        counts = self._counts(weights, lang)
        for term in [term for term in weights if not counts[term]]:
            parts = compound_parts(term, lang)
            counts |= self._counts(parts, lang)
            known = [part for part in parts if counts[part]]
            pairs = [
                [head, tail]
                for head in known
                for tail in known
                if term.startswith(head) and term.endswith(tail) and len(head) + len(tail) <= len(term)
            ]
            chosen = max(pairs, key=lambda pair: len("".join(pair)), default=known[:1])
            value = weights[term]
            for part in chosen:
                weights.setdefault(part, value * len(part) / len(term))
                weights[term] -= value * len(part) / len(term)
        return {
            _hash(term, self._model_hash, lang): value / max(1, counts[term]) ** _RARITY
            for term, value in weights.items()
        }

    def _counts(self, some_terms: Iterable[str], lang: str) -> dict[str, int]:
        """How many memories have each term."""
        hashes = {term: _hash(term, self._model_hash, lang) for term in some_terms}
        counts = self._known_counts
        unknown = [word for word in hashes.values() if word not in counts]
        counts |= dict.fromkeys(unknown, 0)
        counts |= dict(self._select("SELECT term, doc FROM index_counts WHERE term IN", unknown))
        part = self._in_memory.get(lang)
        return {term: counts.get(word, 0) + (part.count(word) if part else 0) for term, word in hashes.items()}

    def _covered(self, weights: Mapping[str, float], count: int, least: float) -> dict[str, float]:
        """The covered weight of indexed memories: of all that may be among the best `count` and reach `least`.

        Words are taken by falling weight. A memory with none of the words taken so far covers at most the weight of the
        rest, so the search ends when that is less than what a memory must reach.
        """
        covered: dict[str, float] = {}
        seen: set[int] = set()
        rest = sum(weights.values())
        for word in sorted(weights, key=weights.__getitem__, reverse=True):
            high = nlargest(count, covered.values())
            if rest < max(least, high[-1] if len(high) == count else 0.0) - _ROUNDING:
                break
            rest -= weights[word]
            assert self._connection  # there is nothing to cover without one
            rows = self._connection.execute("SELECT rowid FROM index_words WHERE index_words MATCH ?", (word,))
            numbers = [number for (number,) in rows if number not in seen]
            seen.update(numbers)
            for id, lines in self._select("SELECT memory_id, words FROM index_memories WHERE number IN", numbers):
                if id not in self._hidden:
                    covered[id] = max(_sum(weights, line) for line in lines.split("\n"))
        return covered

    def _select(self, query: str, values: Sequence) -> Iterable[tuple]:
        if not self._connection:
            return
        for low in range(0, len(values), _BATCH):
            batch = values[low : low + _BATCH]
            yield from self._connection.execute(f"{query} ({','.join('?' * len(batch))})", batch)


class _InMemory:
    """The stretches of texts of one language, each scored for every query."""

    def __init__(self):
        self.owners: list[str] = []  # of each stretch
        self.texts: dict[str, list[list[str]]] = {}  # the stretches of each text
        self._stretches: dict[str, list[int]] = defaultdict(list)  # that have the word

    def add(self, id: str, stretches: list[list[str]]) -> None:
        self.texts[id] = stretches
        for words in stretches:
            for word in set(words):
                self._stretches[word].append(len(self.owners))
            self.owners.append(id)

    def count(self, word: str) -> int:
        return len({self.owners[stretch] for stretch in self._stretches.get(word, ())})

    def covered(self, weights: Mapping[str, float]) -> dict[str, float]:
        covered: dict[int, float] = defaultdict(float)
        for word, value in weights.items():
            for stretch in self._stretches.get(word, ()):
                covered[stretch] += value
        best: dict[str, float] = {}
        for stretch, value in covered.items():
            best[self.owners[stretch]] = max(value, best.get(self.owners[stretch], 0.0))
        return best


def _sum(weights: Mapping[str, float], line: str) -> float:
    """The weight that a stretch covers: hashes have one length and no spaces, so each is found as a whole only."""
    return sum([value for word, value in weights.items() if word in line])


def _stretches(text: str, model_hash: str, lang: str) -> list[list[str]]:
    """The hashes of the words of each stretch in order, then those of the parts of compounds."""
    all_terms = [term for _, term in terms(text, lang)]
    stretches = (all_terms[low : low + _STRETCH] for low in range(0, len(all_terms), _STRETCH))
    return [
        [_hash(term, model_hash, lang) for term in (*stretch, *(p for t in stretch for p in compound_parts(t, lang)))]
        for stretch in stretches
    ]


@lru_cache(maxsize=100_000)
def _hash(term: str, model_hash: str, lang: str) -> str:
    digest = blake2b(f"{model_hash}\0{lang}\0{term}".encode(), digest_size=5).digest()
    return b32encode(digest)[:6].decode().lower()
