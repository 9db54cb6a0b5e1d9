import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint

from selfedit import thread_waiting

thread_waiting.choose_by_load()
import torch  # noqa: E402  reads how its threads wait when it is imported

os.environ["SELFEDIT_PRECISION"] = "fp32"  # on any machine; the tests of mixed precision ask for it
os.environ["SELFEDIT_READER"] = "rules"  # at once, with any model; the tests of the reader ask for it

from selfedit.bench.baselines import load_base  # noqa: E402
from selfedit.model.load import load_model  # noqa: E402

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are "
    "helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_TEXT = (
    "The river rises in the hills and reaches the sea. A system user asks; the assistant answers. Who, what, where?"
)
TINY_SIZES = dict(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=128,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    initializer_range=0.1,
)


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the benchmark data folder {folder} is not on this machine")
    return folder


def ask(model, store, questions, *, arm="weights", **options):
    """The answers of one arm."""
    from selfedit.answers.answerer import Answerer, Ask

    return Answerer(model, store).answer([Ask(question, arm, **options) for question in questions])


def each(learn_one):
    """`learn_passages` made of a function that learns one passage."""

    def learn_passages(model, passages, store, config, **options):
        for passage in passages:
            yield learn_one(model, passage, store, config, **options)

    return learn_passages


def wait_until(condition: Callable[[], object], seconds: float = 300.0, pause_s: float = 0.02) -> None:
    """Waits for the condition to hold, for much longer than that takes on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition does not hold after {seconds:g} s"
        time.sleep(pause_s)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a hub that refuses every connection
    return tmp_path / "cache" / "models"


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Where nobody answers: the port is taken, so that no other process can listen on it, but nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def write_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer of about 300 tokens in Hugging Face form; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TINY_TEXT], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def arc_json(task) -> dict:
    """A few-shot task in ARC's form."""
    return {
        name: [{"input": p.input} | ({} if p.output is None else {"output": p.output}) for p in getattr(task, name)]
        for name in ("train", "test")
    }


def write_tiny_model(folder: Path, kind: str = "llama", **settings) -> Path:
    """A random model of a few layers, written by transformers; norms and biases are random too, so that none can be
    left out unnoticed.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    name = kind.capitalize()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=write_tokenizer(folder), **(TINY_SIZES | ({"head_dim": 16} if kind == "qwen3" else {}) | settings)
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, *((-0.5, 0.5) if key.endswith("bias") else (0.5, 1.5)))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    return load_model(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def embedded_model():
    """Fetched once into the user's own cache (SELFEDIT_CACHE is respected), so that a second run starts at once."""
    return load_model("smollm2-135m", device="cpu")


def reference_model(folder: Path):
    """The same model as `transformers` runs it."""
    return load_base(folder, "cpu", torch.float32).eval()


def double_reference(folder: Path):
    """In double precision throughout."""
    return with_exact_norms(reference_model(folder).double())


def with_exact_norms(model):
    """A model of `transformers` whose norms compute in double precision: its own round to single."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if name.endswith("norm"):
                exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
                exact.weight = norm.weight
                setattr(parent, name, exact)
    return model


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder):
    return reference_model(tiny_folder)


@pytest.fixture(scope="session")
def environment():
    """The Python of the tests, with the library `packaging`."""
    import sys

    from selfedit.environments import Environment
    from selfedit.sandbox import SandboxError, isolation

    try:
        isolation()
    except SandboxError as error:
        pytest.skip(f"code cannot be run safely here: {error}")
    return Environment(Path(sys.executable), "packaging", "26.0")
