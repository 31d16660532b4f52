"""The version is set in setup.py alone; the changelog and the citation agree with it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r"^## (\d+\.\d+\.\d+)(?: \((?:unreleased|not released)\)| - (\d{4}-\d{2}-\d{2}))$", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def headings() -> list[tuple[str, str]]:
    """Version and date of every section of the changelog, newest first; the date of an unreleased one is empty."""
    return HEADING.findall(text_of("CHANGELOG.md"))


@pytest.fixture(scope="module")
def version() -> str:
    calls = [node for node in ast.walk(ast.parse(text_of("setup.py"))) if isinstance(node, ast.Call)]
    (setup,) = (call for call in calls if ast.unparse(call.func) == "setup")
    (written,) = (keyword.value for keyword in setup.keywords if keyword.arg == "version")
    return str(ast.literal_eval(written))


def test_changelog_begins_with_the_version_of_the_package(version):
    assert headings()[0][0] == version


def test_citation_has_the_version_of_the_package(version):
    assert re.findall(r"^version: (.+)$", text_of("CITATION.cff"), re.MULTILINE) == [version]


def test_citation_has_the_date_of_the_release_once_there_is_one():
    dates = re.findall(r"^date-released: (.+)$", text_of("CITATION.cff"), re.MULTILINE)
    assert dates == [date for _, date in headings()[:1] if date]


def test_every_section_of_the_changelog_has_a_version_and_falls_in_order():
    assert len(headings()) == len(re.findall(r"^## ", text_of("CHANGELOG.md"), re.MULTILINE))
    versions = [tuple(map(int, number.split("."))) for number, _ in headings()]
    assert versions == sorted(set(versions), reverse=True)


def test_nobody_is_told_to_install_it_from_an_index():
    """A name that is free there could become anybody's; what is installed comes from a checkout or a wheel."""
    from_index = re.compile(r"pip install\b[^`\n]*[ '\"]unipruning(?![-_\w])")
    folders = ("unipruning", "unipruning_core", "backends", "kernels", "examples", "benchmarks", "docs")
    pages = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    texts = [path for path in pages if path.suffix in (".py", ".md", ".toml", ".sh", ".sbatch", ".yaml")]
    assert len(texts) > 200
    said = [path for path in texts if from_index.search(path.read_text(encoding="utf-8"))]
    assert said == []


def test_the_oldest_python_is_the_same_everywhere():
    setup, tools = text_of("setup.py"), text_of("pyproject.toml")
    (oldest,) = re.findall(r'python_requires=">=3\.(\d+)"', setup)
    assert re.findall(r"3\.\{minor\}\" for minor in range\((\d+),", setup) == [oldest]
    assert re.findall(r'^target-version = "py3(\d+)"$', tools, re.MULTILINE) == [oldest]
    assert re.findall(r'^python_version = "3\.(\d+)"$', tools, re.MULTILINE) == [oldest]
    assert f"with Python 3.{oldest} to 3." in text_of("README.md")


@pytest.mark.parametrize("folder", ["unipruning_core", "backends", "kernels"])
def test_no_module_has_a_version_of_its_own(folder):
    own = re.compile(r"^(__version__|VERSION)\b.*=", re.MULTILINE)
    found = [path for path in (ROOT / folder).rglob("*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert not found, "importlib.metadata knows the version"
