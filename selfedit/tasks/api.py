"""Programming tasks for a version of a library, each checked by running it: JSON lines → ApiTasks.

In: `{id, library, version, section, prompt, starter, reference, stale, test, forbidden, kind}`; bodies are indented by
four spaces, and the program to run is starter + body + test. `section`, `stale`, `forbidden` and `kind` may be missing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfedit.code import CodeTask
from selfedit.errors import DocumentError
from selfedit.libraries import Library
from selfedit.tasks.records import field, optional_id, read_jsonl
from selfedit.text import words
from selfedit.types import Passage

UNCHANGED = "unchanged"
"""The kind of a task whose API is the same in the old version: a model that could do it must not lose it."""


@dataclass(frozen=True)
class ApiTask:
    id: str
    library: str
    version: str
    section: str
    """The heading of the guide that answers it; empty: unknown."""
    prompt: str
    starter: str
    reference: str
    """A right body."""
    stale: str
    """The body that was right in the old version; empty where nothing changed."""
    test: str
    forbidden: tuple[str, ...] = ()
    """Regular expressions that a right body does not contain."""
    kind: str = ""

    def code_task(self, *, names_version: bool = True) -> CodeTask:
        prompt = self.prompt
        if not names_version:
            spelled = re.escape(self.library).replace(r"\-", "[-_ ]")
            prompt = re.sub(rf"(\b{spelled})\s*v?\d+(\.\d+)*", r"\1", prompt, flags=re.IGNORECASE)
        return CodeTask(prompt, self.starter)

    def program(self, body: str) -> str:
        """What is run: also the search for what is forbidden, which may take any time."""
        searched = f"re.search(pattern, {body!r}) for pattern in {list(self.forbidden)!r}"
        forbids = f"\nimport re\nassert not any({searched}), 'forbidden'\n" if self.forbidden else ""
        return f"{self.starter}{body}\n\n{self.test}{forbids}"


def load_api_tasks(files: Sequence[Path]) -> list[ApiTask]:
    """Raises DocumentError that names the line."""
    tasks = []
    for at, item in (line for file in files for line in read_jsonl(file)):
        texts = {
            name: field(item, name, str, at)
            for name in ("library", "version", "prompt", "starter", "reference", "test")
        }
        texts |= {name: field(item, name, str, at) if item.get(name) else "" for name in ("section", "stale", "kind")}
        forbidden = item.get("forbidden", [])
        if not isinstance(forbidden, list) or not all(isinstance(pattern, str) for pattern in forbidden):
            raise DocumentError(f"{at}: `forbidden` is no list of regular expressions")
        try:
            list(map(re.compile, forbidden))
        except (re.error, OverflowError, RecursionError) as error:
            raise DocumentError(f"{at}: `forbidden` is no list of regular expressions ({error})") from None
        texts["starter"] = texts["starter"].rstrip() + "\n"
        if not _is_head(texts["starter"]):
            raise DocumentError(f"{at}: `starter` has no function without a body at its end")
        Library.parse(f"{texts['library']}=={texts['version']}")  # raises LibraryError
        tasks.append(ApiTask(optional_id(item, at) or at, **texts, forbidden=tuple(forbidden)))
    if double := next((id for id, count in Counter(task.id for task in tasks).items() if count > 1), None):
        raise DocumentError(f"{files[0]}: two tasks have the id {double[:80]!r}; give each its own")
    for name in ("library", "version"):
        if len(values := {getattr(task, name) for task in tasks}) > 1:
            some = ", ".join(sorted(values)[:3])
            raise DocumentError(f"{files[0]}: tasks of several {name}s ({some}); give those of one")
    return tasks


def _is_head(starter: str) -> bool:
    try:
        return isinstance(ast.parse(f"{starter}    pass\n").body[-1], ast.FunctionDef | ast.AsyncFunctionDef)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def gold_passages(task: ApiTask, passages: Sequence[Passage], most: int) -> tuple[Passage, ...]:
    """The passages of a document that have what the task needs, the best first: of its section, those that share most
    words with its bodies."""
    heading = set(words(task.section.casefold()))
    of_section = [p for p in passages if heading and heading <= set(words(p.title.casefold()))] or list(passages)
    needed = set(re.findall(r"\w+", f"{task.reference} {task.stale}")) - set(re.findall(r"\w+", task.starter))
    counts = {word: sum(word in re.findall(r"\w+", p.text) for p in of_section) for word in needed}

    def fit(passage: Passage) -> float:
        known = set(re.findall(r"\w+", passage.text))
        return sum(1 / counts[word] for word in needed & known)

    return tuple(sorted(of_section, key=fit, reverse=True)[:most])
