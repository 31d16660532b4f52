"""The recipe and the commands of docs/recipes.md, pasted in order, with a tiny model for MODEL."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from _checkpoints import save_home

from unipruning_core.cli.main import build_parser, main
from unipruning_core.cli.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPE = re.search(r"^```yaml\n# recipe.yaml\n(.*?)^```$", PAGE, re.S | re.M)[1]
COMMANDS = [
    line for block in re.findall(r"^```\n(unipruning .*?)^```$", PAGE, re.S | re.M) for line in block.splitlines()
]
REFUSALS = re.findall(r"^(recipe.yaml:(\d+): .*)$", PAGE, re.M)
SMALL = {"1024": "16", "64": "4"}  # a tiny model has few positions, and a test little time


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    save_home(tmp_path)
    (tmp_path / "model").rename(tmp_path / "MODEL")
    text = (tmp_path / "text.txt").read_text()
    for name in ("web.jsonl", "books.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "recipe.yaml").write_text(re.sub(r"\b(1024|64)\b", lambda found: SMALL[found[0]], RECIPE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, capsys):
    line, _, file = line.partition(" > ")
    words = [SMALL.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    few = ["--samples", "4"] if "--dump-config" in words or "--preset" in words else []
    capsys.readouterr()
    assert main([*words, *few]) == 0, line
    if file:
        Path(file).write_text(capsys.readouterr().out)


def test_every_command_runs_after_those_above_it(pasted, capsys):
    assert len(COMMANDS) == 9
    for line in COMMANDS:
        run(line, capsys)
    assert {"run", "run-1", "pruned", "run-fast", "again", "pruned-again", "pruned-60", "paper"} <= {
        path.name for path in pasted.iterdir()
    }
    same = (pasted / "run", pasted / "again"), (pasted / "pruned" / "2-4", pasted / "pruned-again")
    for first, again in same:
        for path in filter(Path.is_file, first.rglob("*")):
            assert (again / path.relative_to(first)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("told", "line"), REFUSALS)
def test_what_the_page_shows_of_a_refusal_is_said(told, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    key, value = re.search(r"option '(\w+)'", told), re.search(r"--(\w+) must be .* not '(\w+)'", told)
    wrong = f"{key[1]}: 64" if key else f"{value[1]}: {value[2]}"
    Path("recipe.yaml").write_text("\n" * (int(line) - 1) + wrong + "\n")
    assert main(["search", "--config", "recipe.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_the_page_names_every_preset_and_the_commands_that_have_them():
    assert re.findall(r"^\| `([\w:-]+)` \|", PAGE, re.M) == list(PRESETS)
    found = build_parser().commands
    assert [name for name, parser in found.items() if parser.has("preset")] == ["prune", "search", "compare"]
