"""The editor: an adapter that has learned to write self-edits, and the style in which it writes; kept as a folder.

The folder has PEFT's adapter files (none if no edit was worth finetuning on: then the untouched model writes) and
`editor.json`, the fields of Editor, which is written last. It is never changed afterwards.
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
    """The style in which it writes: the best one of its last round."""
    round: int = 0
    """Number of the round that trained it."""
    adapter_hash: str = ""
    """SHA-256 of the adapter's weights; empty: the untouched model writes."""
    parent: str = ""
    """The editor it was trained from, by its adapter_hash."""
    contexts: tuple[str, ...] = ()
    """Identifiers of the passages or few-shot tasks that chose what it studied. It must not be judged on them."""

    @property
    def id(self) -> str:
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def summary(self) -> dict:
        """All fields but the contexts, for reports."""
        return {key: value for key, value in asdict(self).items() if key != "contexts"} | {"id": self.id}


def save_editor(folder: Path, editor: Editor, model: Model, adapters: Adapters | None) -> Editor:
    """Returns the editor as it is on disk now. `adapters`: its adapter in row 0."""
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if adapters is not None:
            model.backend.save(adapters, 0, folder, editor.model)
            editor = replace(editor, adapter_hash=file_hash(folder / WEIGHTS_FILE))
    write_json(folder / FILE, asdict(editor))
    return editor


def load_editor(folder: Path, model: Model) -> tuple[Editor, Adapters | None]:
    """Reads an editor's folder, or the last finished round of a run of `train-editor`. Raises AdapterError."""
    path = folder if (folder / FILE).exists() else last_editor(folder)
    if path is None:
        raise AdapterError(f"{folder}: no editor there; `selfedit train-editor --out {folder}` makes one")
    try:
        editor = Editor(**json.loads((path / FILE).read_text()))
        editor = replace(editor, contexts=tuple(editor.contexts))
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(f"{path / FILE}: not an editor's record ({error})") from error
    if editor.model_hash != model.fingerprint:
        raise AdapterError(
            f"{path}: an editor for {editor.model}, not for the weights of {model.name}; give --model {editor.model}"
        )
    if not editor.adapter_hash:
        return editor, None
    if not (path / WEIGHTS_FILE).exists() or file_hash(path / WEIGHTS_FILE) != editor.adapter_hash:
        raise AdapterError(f"{path}: its weights are missing or not those it was kept with; run that round again")
    return editor, model.backend.load([path])


def last_editor(run: Path) -> Path | None:
    """The editor's folder in the last finished round of a run."""
    rounds = _rounds(run)
    return run / f"round-{max(rounds)}" / "editor" if rounds else None


def later_rounds(run: Path, number: int) -> list[dict]:
    """The summaries of a run's finished rounds after this one."""
    return [read_back(run / f"round-{later}" / "round.json") for later in sorted(_rounds(run)) if later > number]


def _rounds(run: Path) -> list[int]:
    """The numbers of the finished rounds."""
    names = (f.parent.name.removeprefix("round-") for f in run.glob("round-*/round.json"))
    return [int(name) for name in names if name.isdecimal()]
