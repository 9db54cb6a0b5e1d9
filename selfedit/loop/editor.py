"""The editor: an adapter that has learned to write self-edits, and the style it writes in; a folder, versioned like a memory.

In a folder: PEFT's adapter files (none where no edit was worth finetuning on: the untouched model writes) and
`editor.json`, written last: the fields of Editor. Never changed once written.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from selfedit.disk import file_hash
from selfedit.errors import AdapterError
from selfedit.loop.journal import plain_errors, read_back, write_json
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.model.peft_folder import WEIGHTS_FILE

FILE = "editor.json"


@dataclass(frozen=True)
class Editor:
    model: str
    model_hash: str
    style: str
    """What it writes in, as it has found to pay best."""
    round: int = 0
    """Rounds of the outer loop behind it."""
    adapter_hash: str = ""
    """SHA-256 of the adapter's weights; empty: the untouched model writes."""
    parent: str = ""
    """The editor it was trained from, by its adapter_hash."""
    contexts: tuple[str, ...] = ()
    """Passages, by their ids, or few-shot tasks, by their keys, that chose what it studied: it is not to be judged on them."""

    @property
    def id(self) -> str:
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def summary(self) -> dict:
        """For reports: all but the contexts."""
        return {key: value for key, value in asdict(self).items() if key != "contexts"} | {"id": self.id}


def save_editor(folder: Path, editor: Editor, model: Model, stack: Adapters | None) -> Editor:
    """The editor as it lies on disk now; `stack`: its adapter in row 0."""
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if stack is not None:
            model.backend.save(stack, 0, folder, editor.model)
            editor = Editor(**asdict(editor) | {"adapter_hash": file_hash(folder / WEIGHTS_FILE)})
    write_json(folder / FILE, asdict(editor))
    return editor


def load_editor(folder: Path, model: Model) -> tuple[Editor, Adapters | None]:
    """From an editor's folder, or from a run of `train-editor`: its last finished round. Raises AdapterError."""
    found = folder if (folder / FILE).exists() else last_editor(folder)
    if found is None:
        raise AdapterError(f"{folder}: no editor there; `selfedit train-editor --out {folder}` makes one")
    try:
        editor = Editor(**json.loads((found / FILE).read_text()))
        editor = replace(editor, contexts=tuple(editor.contexts))
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(f"{found / FILE}: not an editor's record ({error})") from error
    if editor.model_hash != model.fingerprint:
        raise AdapterError(
            f"{found}: an editor for {editor.model}, not for the weights of {model.name}; give --model {editor.model}"
        )
    if not editor.adapter_hash:
        return editor, None
    if not (found / WEIGHTS_FILE).exists() or file_hash(found / WEIGHTS_FILE) != editor.adapter_hash:
        raise AdapterError(f"{found}: its weights are missing or not those it was kept with; run that round again")
    return editor, model.backend.load([found])


def last_editor(run: Path) -> Path | None:
    """The editor's folder of the last finished round of a run."""
    rounds = _rounds(run)
    return run / f"round-{max(rounds)}" / "editor" if rounds else None


def later_rounds(run: Path, number: int) -> list[dict]:
    """The summaries of a run's finished rounds behind that one."""
    return [read_back(run / f"round-{later}" / "round.json") for later in sorted(_rounds(run)) if later > number]


def _rounds(run: Path) -> list[int]:
    """The numbers of the finished ones."""
    names = (f.parent.name.removeprefix("round-") for f in run.glob("round-*/round.json"))
    return [int(name) for name in names if name.isdecimal()]
