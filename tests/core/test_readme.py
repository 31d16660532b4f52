"""The commands of README.md, pasted in order, with a tiny model for MODEL and few calibration samples."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from _checkpoints import save_home

from unipruning_core.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHELL, PYTHON = (
    re.search(rf"## Prune your own model\n.*?```{kind}\n(.*?)```", README, re.S)[1] for kind in ("", "python")
)


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    """A folder in which MODEL is a tiny model, and every data set of the hub the same texts."""
    import datasets

    save_home(tmp_path)
    config = tmp_path / "model" / "config.json"
    # so that samples are as short as the model is small, without an option
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 32}))
    (tmp_path / "model").rename(tmp_path / "MODEL")
    text = datasets.Dataset.from_dict({"text": [(tmp_path / "text.txt").read_text()] * 2})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, streaming=False, **__: text.to_iterable_dataset() if streaming else text
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs_after_those_above_it(pasted, commands):
    install, *lines = [words for line in SHELL.splitlines() if (words := shlex.split(line, comments=True))]
    assert install == ["pip", "install", "."]
    assert {words[0] for words in lines} == {"unipruning"}
    for words in lines:
        few = ["--samples", "4"] if words[1] in ("prune", "compare") else []
        assert main([*words[1:], *few]) == 0, words
    assert {"prune", "project", "perplexity", "compare"} <= {words[1] for words in lines}


def test_the_python_runs(pasted):
    exec(PYTHON.replace("tokenizer, sparsity", "tokenizer, samples=4, sparsity"), {})
    assert (pasted / "pruned-in-memory" / "model.safetensors").is_file()
