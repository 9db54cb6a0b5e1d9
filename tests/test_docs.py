"""The guide builds without a warning, names every command and option, and states what the program does."""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from selfedit.cli import _parser

ROOT = Path(__file__).parent.parent
SOURCES = [p for folder in ("selfedit", "examples", "tools", "tests") for p in (ROOT / folder).rglob("*.py")]


def leaf_commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    children = [
        p
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for p in action.choices.values()
    ]
    return [leaf for child in children for leaf in leaf_commands(child)] if children else [parser]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The pages as plain text, built with the flags of `make docs`."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--builder", "text"]
    built = subprocess.run([*command, ROOT / "docs", out], capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return out


def test_the_command_reference_has_every_command_and_every_option(site):
    page = (site / "commands.txt").read_text()
    leaves = leaf_commands(_parser())
    assert len(leaves) > 20
    for leaf in leaves:
        assert f"\n   {leaf.prog} " in page
        section = re.split(r"\n   selfedit ", page.split(f"\n   {leaf.prog} ")[1])[
            0
        ]  # up to the usage of the next command
        options = {option for action in leaf._actions for option in action.option_strings} - {"-h", "--help"}
        assert [option for option in options if f"\n{option}" not in section] == [], leaf.prog


def test_the_api_page_has_the_documented_functions(site):
    page = (site / "python-api.txt").read_text()
    for name in (
        "load_model",
        "read_documents",
        "learn",
        "Answerer",
        "MemoryStore",
        "LearnConfig",
        "TrainConfig",
        "Passage",
    ):
        assert re.search(rf"\b{name}\b", page), name


def test_a_broken_link_fails_the_build(tmp_path):
    (tmp_path / "conf.py").write_text((ROOT / "docs/conf.py").read_text())
    (tmp_path / "static").mkdir()
    (tmp_path / "index.md").write_text("# Title\n\n[nowhere](missing.md)\n")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "text", tmp_path]
    built = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True)
    assert built.returncode != 0 and "missing.md" in built.stderr


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_documents_that_the_code_cites_are_in_the_repository():
    cited = {
        (path.relative_to(ROOT), name)
        for path in SOURCES
        for name in re.findall(r"\b[A-Za-z/-]*[A-Z]{3,}\.md\b", path.read_text())
    }
    of_packages = {Path(f"tests/test_{name}.py") for name in ("docs", "packages", "versions", "watch")}
    cited = {(path, name) for path, name in cited if path not in of_packages}
    assert len(cited) >= 10
    assert [(path, name) for path, name in cited if not (ROOT / name).is_file()] == []


def test_the_sections_and_studies_that_the_code_cites_exist():
    seal, log = (ROOT / "docs/SEAL.md").read_text(), (ROOT / "docs/LOG.md").read_text()
    text = "\n".join(path.read_text() for path in SOURCES if path.name != "test_docs.py")
    sections = set(re.findall(r"docs/SEAL\.md, §(\d+)", text))
    studies = set(re.findall(r"docs/LOG\.md, study (\d+)", text))
    assert sections and studies
    assert [n for n in sections if f"\n## {n}. " not in seal] == []
    assert [n for n in studies if f"\n## Study {n}: " not in log] == []


def test_every_pinned_dependency_is_explained():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [
        name for names in (settings["dependencies"], *settings["optional-dependencies"].values()) for name in names
    ]
    rows = [line for line in (ROOT / "docs/DEPENDENCIES.md").read_text().splitlines() if line.startswith("| ")]
    for name, version in (requirement.partition(";")[0].split("==") for requirement in pinned if "==" in requirement):
        assert any(name in row.split("|")[1] and version in row.split("|")[2] for row in rows), f"{name} {version}"
