"""What a piece of code names and the installed library does not have."""

from dataclasses import replace

import pytest

from selfedit.errors import LibraryError
from selfedit.installed.names import Api, installed_api, problems

RIGHT = """\
import io, packaging.markers
from packaging import requirements, version as v
from packaging.specifiers import *
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from .packaging import anything


class Known(v.Version):
    limit = 3

    def first(self):
        return self.by_name.popitem(), Known.limit, v.Version.__name__


def f(texts, file, one=None):
    versions = sorted(v.parse(text) for text in texts if text.strip())
    try:
        found = [x.release for x in versions if not x.is_prerelease and x.no_such_attribute is None]
    except v.InvalidVersion as canonicalize_name:
        canonicalize_name.anything()
    match one:
        case SpecifierSet(name=requirements):
            requirements.anything()
    wanted = requirements.Requirement(io.StringIO().getvalue())
    print(wanted.name, wanted.specifier.contains("1.0", prereleases=True), wanted.marker.evaluate())
    return SpecifierSet(specifiers=">=1", prereleases=None).filter(found), packaging.markers.Marker("a").anything
"""
WRONG = [
    ("import packaging.version as v\nv.parse_all(['1'])", "`v` of packaging 26 has no `parse_all`"),
    (
        "from packaging import version\nversion.parse.nope()\nversion.Parse('1')",
        "`version` of packaging 26 has no `Parse`",
    ),
    ("from packaging.version import Version\nVersion.as_tuple(1)", "`Version` of packaging 26 has no `as_tuple`"),
    ("from packaging.version import is_final", "`packaging.version` of packaging 26 has no `is_final`"),
    ("def f():\n    from packaging.utils import canonical_name", "no `canonical_name` (similar: canonicalize_name"),
    (
        "from packaging.utils import canonicalize_name as c\nc('a', strict=True)",
        "`c` of packaging 26 takes no `strict`",
    ),
    ("from packaging.version import Version\nVersion(text='1')", "`Version` of packaging 26 takes no `text`"),
    ("import packaging.versions", "packaging 26 has no module `packaging.versions` (similar: packaging.version"),
    ("from packaging.versioning import Version", "packaging 26 has no module `packaging.versioning`"),
]


@pytest.fixture(scope="module")
def api(environment) -> Api:
    return installed_api(replace(environment, version="26"), RIGHT)


@pytest.mark.parametrize("code, message", WRONG)
def test_what_the_library_does_not_have_is_named(api, code, message):
    (problem,) = problems(code, api)
    assert message in str(problem)


def test_right_code_has_no_problem(api):
    assert problems(RIGHT, api) == []


def test_the_imports_of_the_file_are_known(api):
    assert problems("    v.parse_all()\n", api, "import packaging.version as v\ndef f():\n") != []
    assert problems("v.parse_all()\n", api) == []


def test_what_the_file_imports_is_not_checked(api):
    before = "from packaging.versions import parse_all\nfrom packaging.version import parse_some\n"
    assert problems("parse_all('1')\n", api, before) == [] and len(problems(f"{before}parse_all('1')\n", api)) == 2


def test_what_could_not_be_read_of_a_library_is_not_missing():
    entry = {"members": {"known": None}, "parameters": None}
    told = {"modules": {"lib": 0}, "listed": ["lib", "lib._private", "lib.late"], "opened": ["lib"], "entries": [entry]}
    api = Api("lib", "1.0", told)
    right = "import lib._private.sub\nfrom lib._private.sub import a\nfrom lib import late\nimport lib.late.sub as s\n"
    assert problems(f"{right}lib.late.x(lib._private.sub.y, s.z, late.a, lib.known)\n", api) == []
    assert len(problems("import lib.nowhere.sub\nlib.nothing\nfrom lib import nobody\n", api)) == 3


@pytest.mark.parametrize(
    "code", ["Version('1'", "\0", "x" + ".y()" * 400, "(" * 300 + ")" * 300, "'\\d'", "🙂", "return 1"]
)
def test_what_is_no_code_has_no_problem(api, code):
    assert problems(f"from packaging.version import Version\n{code}", api) == []


def test_a_library_that_cannot_be_imported_is_one_line(environment):
    with pytest.raises(LibraryError, match="no-such-library 1 cannot be imported: .*it has no module") as error:
        installed_api(replace(environment, library="no-such-library", version="1"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        {"modules": {"a": 1}, "listed": [], "opened": [], "entries": [{"members": None, "parameters": None}]},
        {"modules": {"a": True}, "listed": [], "opened": [], "entries": [{"members": None, "parameters": None}] * 2},
        {"modules": {}, "listed": [1], "opened": [], "entries": []},
        {"modules": {}, "listed": [], "opened": [1], "entries": []},
        {"modules": {}, "listed": [], "opened": [], "entries": [{"members": {"a": -1}, "parameters": None}]},
        {"modules": {}, "listed": [], "opened": [], "entries": [{"members": None, "parameters": [1]}]},
        {"modules": {}, "listed": [], "opened": [], "entries": [{"members": None}]},
    ],
)
def test_a_library_that_tells_something_else_is_one_line(told):
    with pytest.raises(LibraryError, match="evil 1 does not tell what it offers"):
        Api("evil", "1", told)
