"""What an installed library offers, what a piece of code gets wrong about it, and code that names nothing else."""

import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model

from selfedit.environments import Environment
from selfedit.errors import LibraryError
from selfedit.installed.api import Api, installed_api
from selfedit.installed.names import Guard, problems
from selfedit.model import sampling
from selfedit.model.backend import Request
from selfedit.model.load import load_model
from selfedit.model.sampling import Continuation, choose
from selfedit.sandbox import SandboxError, isolation

USE = "import io\nfrom datetime import date\n\nfrom packaging.version import Version, parse\n"
RIGHT = """\
from packaging import requirements, version as v
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
import packaging.markers


class Known:
    def __init__(self, names):
        self.by_name = {name: canonicalize_name(name, validate=True) for name in names}

    def first(self):
        return self.by_name.popitem()


def f(texts, file, one=None):
    versions = sorted(v.parse(text) for text in texts if text.strip())
    newest = versions[-1]
    found = [x.release for x in versions if not x.is_prerelease and x.local is None]
    if newest.is_devrelease and str(newest.public).startswith("1"):
        found.append(v.Version("1.2").release)
    with open(file) as stream:
        lines = stream.read().splitlines()
    wanted = requirements.Requirement(lines[0])
    print(wanted.name, wanted.specifier.contains("1.0", prereleases=True), wanted.marker.evaluate())
    marker = packaging.markers.Marker("python_version > '3'")
    known = Known(lines).first()
    return SpecifierSet(">=1").filter(found), marker.evaluate({"python_version": "3.9"}), known
"""
WRONG = [
    ("Version('1').as_tuple()", "`Version` of packaging 26 has no `as_tuple`"),
    ("parse('1').as_tuple()", "`parse` of packaging 26 has no `as_tuple`"),
    ("x = parse('1')\nx.as_tuple()", "`x` of packaging 26 has no `as_tuple`"),
    ("def f(x):\n    return x.as_tuple()", "nothing in packaging 26 has `as_tuple`"),
    ("from packaging.version import is_final", "`packaging.version` of packaging 26 has no `is_final`"),
    ("from packaging.utils import canonical_name", "has no `canonical_name` (similar: canonicalize_name"),
    ("import packaging.version as v\nv.parse_all(['1'])", "`v` of packaging 26 has no `parse_all`"),
    (
        "from packaging.utils import canonicalize_name as c\nc('a', strict=True)",
        "`c` of packaging 26 takes no `strict`",
    ),
    ("def f(x):\n    return x.contains('1', pre=True)", "`contains` of packaging 26 takes no `pre`"),
    ("Version('1'", "it is no Python: '(' was never closed"),
]


@pytest.fixture(scope="module")
def api() -> Api:
    try:
        isolation()
    except SandboxError as error:
        pytest.skip(f"code cannot be run safely here: {error}")
    return installed_api(Environment(Path(sys.executable), "packaging", "26"), ["io", "datetime"])


def written(guard: Guard, text: str) -> str:
    """What of a text can be written letter by letter."""
    steps = accumulate(text)
    before = ""
    for step in steps:
        if not guard.accepts(before, step):
            return before
        before = step
    return text


@pytest.mark.parametrize("code, message", WRONG)
def test_what_the_library_does_not_have_is_named(api, code, message):
    (problem,) = problems(code, api, USE)
    assert message in str(problem)


@pytest.mark.parametrize("code", [RIGHT, USE + "io.BytesIO().getvalue()\ndate.today().isoformat()\n", "x = (1).real\n"])
def test_right_code_has_no_problem_and_can_be_written(api, code):
    assert problems(code, api) == []
    assert written(Guard(api, "", ""), code) == code


@pytest.mark.parametrize(
    "code",
    [
        "Version('1').|as_tuple|()",
        "Version('1').|release_tuple|",
        "x = parse('1')\nx.micro.real\nx.|as_tuple|()",
        "def f(v, file):\n    file.close()\n    return v.|as_tuple|()",
        "from packaging.version import |parse_all|",
        "from packaging import version as v, |versions|",
        "parse(\n    '1',\n).|as_tuple|()",
        "with open('a.b') as file:\n    text = file.read()\n    try:\n        y = parse(text).|as_tuple|()",
    ],
)
def test_a_name_that_the_library_does_not_have_cannot_be_written(api, code):
    before, name, after = code.split("|")
    guard, whole = Guard(api, USE, ""), before + name + after
    text = written(guard, whole)
    assert text.startswith(before) and len(text) <= len(before + name)
    # A token may have the end of the name, and the begin of a string or a comment.
    for more in ("('a", '("""a', "(f'{a", " # a", "\n", "[1]", ")"):
        assert not guard.accepts(before, before + name + more)
        if not any(other.startswith(name) for other in guard.api.having):
            assert not guard.accepts(before, before + name)


def test_the_task_may_name_what_the_library_does_not_have(api):
    code = "def f(row):\n    return row.total_price"
    assert written(Guard(api, USE, "the sum of `total_price`"), code) == code
    assert written(Guard(api, USE, "the sum"), code) != code


@pytest.mark.parametrize(
    "text", ["Version('1').x 'as.b", "x = '''a.b", "# a.b", "f'{", "def f(", "\x00.a", "x = )]}.a", "🙂.a"]
)
def test_what_is_not_code_is_let_through_or_refused_without_an_error(api, text):
    guard = Guard(api, USE, "")
    for end in range(len(text)):
        assert guard.accepts(text[:end], text[: end + 1]) in (True, False)


def test_a_library_that_cannot_be_imported_is_one_line(api):
    with pytest.raises(LibraryError, match="no-such-library 1 cannot be imported: .*it has no module"):
        installed_api(Environment(Path(sys.executable), "no-such-library", "1"))


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {"modules": {}, "entities": []},
        {"modules": {"a": 1}, "entities": [{"kind": "module"}], "elsewhere": {}},
        {"modules": {"a": 0}, "entities": [{"kind": "module", "members": {"b": "c"}}], "elsewhere": {}},
        {"modules": {"a": 0}, "entities": [{"kind": "module", "members": {"b": [True]}}], "elsewhere": {}},
        {"modules": {"a": 0}, "entities": [{"kind": "function", "gives": [-1]}], "elsewhere": {}},
        {"modules": {"a": 0}, "entities": [{"kind": "function", "parameters": [1]}], "elsewhere": {}},
        {"modules": {}, "entities": [], "elsewhere": {"io": [None]}},
    ],
)
def test_a_library_that_tells_something_else_is_one_line(told):
    with pytest.raises(LibraryError, match="evil 1 does not tell what it offers"):
        Api("evil", "1", told)


# What is drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_refused_token_is_drawn_again(folder, temperature, monkeypatch):
    chat = load_model(str(folder), device="cpu").chat
    tokens = [token for token in range(chat.tokenizer.get_vocab_size()) if chat.decode([token]).isalpha()][-3:]
    logits = torch.full((1, chat.tokenizer.get_vocab_size()), -30.0)
    logits[0, tokens] = torch.tensor([3.0, 2.0, 1.0])
    refused = {chat.decode([token]) for token in tokens[:2]}
    request = Request((1,), temperature=temperature, accepts=lambda before, text: text not in refused)
    assert choose(logits.clone(), [Continuation(request)], chat) == [tokens[2]]
    never = Request((1,), accepts=lambda before, text: False)
    monkeypatch.setattr(sampling, "REFUSED", 2)
    assert choose(logits.clone(), [Continuation(never)], chat) == [tokens[0]]  # it goes on all the same


def test_both_backends_write_only_what_is_accepted(folder):
    models = [load_model(str(folder), device="cpu", backend=backend) for backend in ("packed", "reference")]
    prompt = tuple(models[0].chat.encode("one two three"))
    free = Request(prompt, max_new_tokens=12)
    (text,) = (models[0].chat.decode(tokens) for tokens in models[0].backend.generate([free], None))
    letter = next(letter for letter in text if letter.isalpha())
    bound = Request(prompt, max_new_tokens=12, accepts=lambda before, text: letter not in text[len(before) :])
    texts = [model.chat.decode(*model.backend.generate([bound], None)) for model in models]
    assert letter in text and letter not in texts[0] and texts[0] == texts[1]
