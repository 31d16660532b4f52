"""Outputs without a last name of their own, such as the current folder or the whole disk, in every command."""

from __future__ import annotations

import os

import pytest
from _folders import SEARCH, succeed

import unipruning
from unipruning_core.errors import OutputError

COMMANDS = {
    "search": ("search", "{model}", "{text}", "--out"),
    "prune": ("prune", "{model}", "{text}", "--sparsity", "50%", "--out"),
    "project": ("project", "{model}", "{run}", "--sparsity", "50%", "--out"),
    "several": ("project", "{model}", "{run}", "--sparsity", "50%", "--sparsity", "2:4", "--out"),
    "compare-sparsegpt": ("compare-sparsegpt", "{model}", "{text}", "--sparsity", "50%", "--out"),
    "compare": ("compare", "{model}", "{text}", "--methods", "wanda", "--sparsity", "50%", "{eval}", "--out"),
}
FILES = {
    "allocate": ("allocate", "{model}", "{run}", "--scheme", "owl", "--sparsity", "60%", "--overwrite", "--out"),
    "plan": ("plan", "{model}", "--seq-len", "16", "--json"),
}


@pytest.fixture
def words(home, finished, tmp_path, monkeypatch, commands):
    """The words of a command, run in an empty folder ``here``."""
    text = str(home / "text.txt")
    lists = {
        "{model}": [str(home / "model")],
        "{text}": ["--data", text, *SEARCH[:4]],
        "{run}": [str(finished / "0")],
        "{eval}": ["--eval-data", text, "--windows", "2", "--eval-seq-len", "16"],
    }
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda parts: [word for part in parts for word in lists.get(part, [part])]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", [".", "", "sub/", "./sub/."])
def test_the_current_folder_and_trailing_slashes_are_outputs(words, command, out, tmp_path):
    succeed(*words(COMMANDS[command]), out)
    assert os.listdir(tmp_path / "here" / out)
    beside = ["here-run"] if command == "prune" and out in (".", "") else []
    assert sorted(os.listdir(tmp_path)) == sorted(["here", *beside])


@pytest.mark.parametrize("command", COMMANDS | FILES)
@pytest.mark.parametrize("out", ["/", "//"])
def test_the_whole_disk_is_refused_in_one_sentence(words, command, out, refused):
    error = refused(*words((COMMANDS | FILES)[command]), out)
    assert "'/'" in error or "'//'" in error
    assert "; choose " in error
    assert "PosixPath" not in error


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize("out", [".", "", ".."])
def test_a_folder_is_no_file_to_write(words, command, out, refused):
    assert "; choose another file" in refused(*words(FILES[command]), out)


@pytest.mark.parametrize("command", ["search", "prune", "project", "compare-sparsegpt", "compare"])
def test_the_folder_above_is_refused_where_something_is_in_it(words, command, refused):
    assert "; choose " in refused(*words(COMMANDS[command]), "..")
    assert os.listdir("..") == ["here"]


def test_the_python_function_keeps_the_search_beside_the_current_folder_too(home, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = {"data": home / "text.txt", "samples": 2, "seq_len": 16, "mode": "frozen", "progress": False}
    unipruning.prune(home / "model", sparsity="50%", out=".", **options)
    assert sorted(os.listdir(tmp_path)) == ["here", "here-run"]
    with pytest.raises(OutputError, match="output '/' is the whole disk; choose a folder in it"):
        unipruning.prune(home / "model", sparsity="50%", out="/", **options)
