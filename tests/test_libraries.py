"""Tags of memories and versions of questions, lock files of every kind; the lock files in data/locks are real ones."""

import json
from pathlib import Path

import pytest

from selfedit.errors import LibraryError
from selfedit.libraries import Library, Scope, Wanted, applies, mentioned, newest
from selfedit.locks import find_lock, read_lock

LOCKS = Path(__file__).with_name("data") / "locks"


@pytest.mark.parametrize(
    ("text", "name", "specifier", "shown"),
    [
        ("polars@2.0", "polars", ">=2.0,<3", "polars@2.0"),
        ("Polars@2", "polars", ">=2.0,<3", "polars@2.0"),
        ("polars>=2,<3", "polars", ">=2.0,<3", "polars@2.0"),
        ("polars@v2.1.0", "polars", ">=2.1,<3", "polars@2.1"),
        ("polars@2.0rc1", "polars", ">=2.0,<3", "polars@2.0"),
        ("polars==2.0.1", "polars", "==2.0.1", "polars==2.0.1"),
        ("polars>=2", "polars", ">=2.0", "polars>=2.0"),
        ("polars", "polars", "", "polars"),
        ("Flask_SQLAlchemy ~= 3.1", "flask-sqlalchemy", ">=3.1,<4", "flask-sqlalchemy@3.1"),
        ("polars[gpu]==2.1.*", "polars", ">=2.1,<2.2", "polars>=2.1,<2.2"),
        ("pydantic-core@0.20", "pydantic-core", ">=0.20,<0.21", "pydantic-core@0.20"),
        ("npm/react@19", "npm/react", ">=19.0,<20", "npm/react@19.0"),
        ("npm/@types/node@20.1", "npm/@types/node", ">=20.1,<21", "npm/@types/node@20.1"),
    ],
)
def test_a_tag_has_one_spelling(text, name, specifier, shown):
    tag = Library.parse(text)
    assert (tag.name, tag.specifier, str(tag)) == (name, specifier, shown)
    assert Library.parse(str(tag)) == tag == Library(tag.name, tag.specifier)


NO_TAGS = ["", "@2", "polars@", "polars 2", "po lars@2", "polars@latest", "polars@2@3", "polars>=3,<2", "polars<0"]
NO_TAGS += [
    "polars>=2;os_name=='nt'",
    "polars @ https://example.org/x",
    "pola\0rs@2",
    "x" * 300,
    "polars==banana",
    "-x@2",
]


@pytest.mark.parametrize("text", NO_TAGS)
def test_what_is_no_tag_is_one_clear_line(text):
    with pytest.raises(LibraryError) as error:
        Library.parse(text)
    assert "write polars" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["polars>=2", "polars<3", "polars@2,<3", "polars!=2", "", "@2", "polars@x"])
def test_a_question_is_about_one_version(text):
    with pytest.raises(LibraryError):
        Wanted.parse(text)


@pytest.mark.parametrize(
    ("tag", "wanted", "expected"),
    [
        ("polars@2.0", "polars@2", True),
        ("polars@2.0", "polars@2.5.3", True),
        ("polars@2.0", "polars==2.0", True),
        ("polars@2.1", "polars@2", True),  # the newest 2.x
        ("polars@2.1", "polars@2.0", False),
        ("polars@2.1", "polars@2.1", True),
        ("polars@2.0", "polars@1", False),
        ("polars@2.0", "polars@1.99", False),
        ("polars@2.0", "polars==3.0", False),
        ("polars@2.0", "polars@3.0rc1", False),
        ("polars@2.0", "polars@2.0rc1", True),
        ("polars@2.0", "polars==2.0.post1", True),
        ("polars>=1.5,<2", "polars@1", True),
        ("polars<2", "polars@1", True),
        ("polars<2", "polars@2", False),
        ("polars==2.0.1", "polars@2.0.1", True),
        ("polars==2.0.1", "polars@2.0", False),  # the newest 2.0.x may be another one
        ("polars==26.4", "polars@26.4", True),  # a lock file pins so
        ("polars==2.0", "polars@2", False),
        ("polars", "polars@1", True),
        ("polars@2.0", "polars", True),
        ("polars@0.20", "polars@0.20", True),
        ("polars@0.20", "polars@0.21", False),
        ("polars@2.0", "pandas@2", False),
        ("npm/react@19", "npm/react==19.0.0", True),
        ("polars!=2.0.1", "polars@2.0.1", False),
    ],
)
def test_a_tag_applies_to_a_version_if_its_range_contains_it(tag, wanted, expected):
    assert applies(tag, Wanted.parse(wanted)) is expected
    assert applies(Library.parse(tag), Wanted.parse(wanted)) is expected


def test_two_major_versions_never_apply_to_one_question():
    tags = [Library.parse(f"polars@{major}.{minor}") for major in range(1, 4) for minor in range(3)]
    for version in ("1", "2", "3", "1.0", "2.1", "2.9.4", "1.0.0"):
        fitting = {tag.specifier[2] for tag in tags if applies(tag, Wanted("polars", version))}
        assert fitting == {version[0]}


def test_the_newest_version_is_the_newest_that_a_tag_names():
    tags = [*map(Library.parse, ("polars@1.30", "polars@2.0", "polars==2.0.1", "polars@2.1", "pandas@3", "numpy"))]
    assert newest("polars", tags) == Wanted("polars", "==2.1")
    assert [str(tag) for tag in tags if tag.name == "polars" and applies(tag, newest("polars", tags))] == [
        "polars@2.0",
        "polars@2.1",
    ]
    assert newest("numpy", tags) == Wanted("numpy") and newest("flask", tags) == Wanted("flask")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I group in Polars 2?", "polars@2"),
        ("polars 1.30: how do I pivot?", "polars@1.30"),
        ("pydantic v2 validators", "pydantic@2"),
        ("Is pydantic version 2.11 faster than polars 2?", "polars@2 pydantic@2.11"),
        ("polars==1.30.0 fails", "polars@1.30.0"),
        ("in polars 2.x", "polars@2"),
        ("scikit learn 1.5 pipelines", "scikit-learn@1.5"),
        ("In react 19, what is use()?", "npm/react@19"),
        ("Can polars read 2 files?", None),
        ("polars 100% faster", None),
        ("my-polars 2", None),
        ("polars", None),
        ("polars 20,000 rows", None),
        ("show me in polars 20 rows", None),
        ("from polars 1.30 to polars 2", "polars@2"),
    ],
)
def test_a_question_names_a_library_with_a_version(text, expected):
    tags = [Library.parse(tag) for tag in ("polars@2.0", "pydantic@2.1", "scikit-learn@1.0", "npm/react@18", "flask")]
    assert mentioned(text, tags) == [Wanted.parse(one) for one in (expected or "").split()]


def test_the_version_of_a_question_is_what_is_named_else_the_projects_else_the_newest():
    tags = [*map(Library.parse, ("polars@1.0", "polars@2.0", "pandas@2.0", "flask"))]

    def hidden(wanted="", text="", **project):
        scope = Scope(Wanted.parse(wanted) if wanted else None, text, project)
        return " ".join(map(str, scope.hidden(tags)))

    assert hidden() == hidden("polars") == "polars@1.0"
    assert hidden("polars@1") == hidden("polars@1", "polars 2") == hidden("polars@1", polars="2.1.0") == "polars@2.0"
    assert hidden(text="In Polars 1.30?") == hidden(text="In Polars 1.30?", polars="2.1.0") == "polars@2.0"
    assert hidden(polars="1.30.0") == hidden("polars", polars="1.30.0") == "polars@2.0"
    assert hidden("polars@3", pandas="1.5") == "polars@1.0 polars@2.0 pandas@2.0"


def test_what_is_not_known_of_a_version_is_told():
    tags = [*map(Library.parse, ("polars@2.0", "polars@2.1", "pandas@2.0"))]
    unknown = lambda wanted, text="": Scope(Wanted.parse(wanted) if wanted else None, text).unknown(tags)  # noqa: E731
    assert unknown("polars@1") == ["only polars 2.0, polars 2.1 is known; nothing is known of polars 1"]
    assert unknown("", "in pandas 1.5") == ["only pandas 2.0 is known; nothing is known of pandas 1.5"]
    assert unknown("polars@2") == unknown("polars") == unknown("", "polars") == []
    assert unknown("numpy@1") == ["nothing known is about numpy@1; `selfedit learn --for numpy@1` tags what you learn"]


@pytest.mark.parametrize("name", ["uv.lock", "pylock.toml", "requirements.txt", "Pipfile.lock", "pyproject.toml"])
def test_real_lock_files_give_their_pins(name):
    before, after = (read_lock(LOCKS / side / name) for side in ("before", "after"))
    assert (before["polars"], after["polars"]) == ("1.30.0", "1.33.1")
    assert "sales" not in before and "tomli" not in before


def test_a_lock_file_of_poetry_gives_what_is_for_this_python(tmp_path):
    package = '[[package]]\nname = "{}"\nversion = "{}"\noptional = false\nmarkers = "{}"\nfiles = []\n\n'
    rows = (("Polars", "1.30.0", "python_version >= '3.9'"), ("tomli", "2.0", "python_version < '3.9'"))
    content = "".join(package.format(*row) for row in rows)
    (tmp_path / "poetry.lock").write_text(f'{content}[metadata]\nlock-version = "2.1"\npython-versions = ">=3.9"\n')
    assert read_lock(tmp_path / "poetry.lock") == {"polars": "1.30.0"}


def test_a_lock_file_of_npm_gives_the_packages_of_the_project():
    before, after = (read_lock(LOCKS / side / "package-lock.json") for side in ("before", "after"))
    assert (before["npm/react"], after["npm/react"]) == ("18.2.0", "19.0.0")
    assert before["npm/@types/node"].startswith("20.")


def test_requirements_without_a_pin_give_the_lowest_version(tmp_path):
    pins = read_lock(LOCKS / "before" / "pyproject.toml")
    assert pins == {"polars": "1.30.0", "idna": "3.6", "iniconfig": "2.0.0"}
    poetry = '[tool.poetry.dependencies]\npython = "^3.11"\nPolars = "^1.30"\nx = {version = ">=2.1,<3"}\ny = "*"\n'
    (tmp_path / "pyproject.toml").write_text(poetry)
    assert read_lock(tmp_path / "pyproject.toml") == {"polars": "1.30", "x": "2.1"}


@pytest.mark.parametrize(
    ("requirement", "version"),
    [
        ("<2", None),
        ("<=2.0", "2.0"),
        ("!=1.5", None),
        ("<3,>=1", "1.0"),
        ("<3 >=1.2", "1.2"),
        (">=1.2,<3 || >=4", "1.2"),
        ("^1.2,!=1.3", "1.2"),
        (">=1.2,!=1.2.0", "1.2"),
        ("==1.30.0", "1.30.0"),
        ("=1.30.0", "1.30.0"),
        ("~=1.4", "1.4"),
        ("1.*", "1.0"),
        ("^1.30.0", "1.30.0"),
        ("~1.2", "1.2"),
        ("1.2.0", "1.2.0"),
        ("^1.2 || ^2.0", "1.2"),
        ("*", None),
    ],
)
def test_a_requirement_of_poetry_gives_the_lowest_version_that_it_allows(requirement, version, tmp_path):
    (tmp_path / "pyproject.toml").write_text(f'[tool.poetry.dependencies]\npolars = "{requirement}"\n')
    assert read_lock(tmp_path / "pyproject.toml").get("polars") == version


def test_the_groups_of_poetry_are_read(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.poetry.dependencies]\npolars = "^1.30"\n[tool.poetry.group.test.dependencies]\npytest = "^8.1"\n'
        '[tool.poetry.group.docs.dependencies]\nfuro = {version = ">=2024.1,<2026"}\n[tool.poetry.group.empty]\n'
        '[tool.poetry.dev-dependencies]\nruff = "0.5.1"\n'
    )
    found = read_lock(tmp_path / "pyproject.toml")
    assert found == {"polars": "1.30", "pytest": "8.1", "furo": "2024.1", "ruff": "0.5.1"}


def test_requirements_are_read_as_pip_reads_them(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/base.txt").write_text("-r ../requirements.txt\nFlask[async]==3.1.0  # web\n")
    (tmp_path / "requirements.txt").write_text(
        "\ufeff--index-url https://example.org\n-r more/base.txt\n-c=more/base.txt\npolars==2.0.1 \\\n"
        "    --hash=sha256:aa \\\n    --hash=sha256:bb\nold==1 ; python_version < '3'\nfree\nlow>=4,<6\nany==5.*\n"
        "-e .\n./local\ngit+https://example.org/x.git\nnamed @ https://example.org/x-1.0.zip\n# polars==9\n"
        "below<3\nnot>=7,!=7.0\n"
    )
    found = read_lock(tmp_path / "requirements.txt")
    assert found == {"flask": "3.1.0", "polars": "2.0.1", "low": "4.0", "any": "5.0", "not": "7.0"}


def test_the_lock_file_of_a_folder_is_preferred_to_its_requirements(tmp_path):
    assert find_lock(tmp_path) is None
    for name in ("pyproject.toml", "requirements.txt", "uv.lock"):
        (tmp_path / name).write_text("")
        assert find_lock(tmp_path) == tmp_path / name
    with pytest.raises(LibraryError, match="no such file"):
        find_lock(tmp_path / "nowhere")


HOSTILE = {
    "deep.json": '{"packages": ' + "[" * 100_000,
    "Pipfile.lock": '{"_meta": {}, "default": {"x": {"version": "==1; rm"}}}',
    "package-lock.json": json.dumps({"lockfileVersion": 3, "packages": ["node_modules/x"]}),
    "other.json": "{}",
    "uv.lock": 'package = [{name = "x", version = "1", resolution-markers = ["os_name =="]}]',
    "poetry.lock": "[[package]]\nname = 3\nversion = 4\n",
    "pylock.toml": 'lock-version = "9.0"\n',
    "broken.toml": "[[[",
    "pyproject.toml": "project = 3",
    "requirements.txt": "polars == \n",
    "loop.txt": "-r missing.txt\n",
    "empty.lock": "package = [1]",
    "binary.txt": "\x00\x01",
    "many.txt": "".join(f"-r {i}.txt\n" for i in range(60)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_lock_file_is_one_clear_line(name, tmp_path):
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text("x==1\n")
    (tmp_path / name).write_text(HOSTILE[name])
    with pytest.raises(LibraryError) as error:
        read_lock(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_what_is_no_text_is_one_clear_line(tmp_path):
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "requirements.txt", tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(LibraryError):
            read_lock(path)
