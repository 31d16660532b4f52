"""A piece of a pretrained model on the simulated card, beside the same commands on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from _jobs import COMMANDS, difference, project, prune, same_files

BLOCKS = 1  # of the thirty of SmolLM2
Run = Callable[..., str]


@pytest.fixture(scope="module")
def pretrained(simulated: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pretrained")
    size = ["--samples", "2", "--seq-len", "128", "--dtype", "float32", "--backend"]
    commands = [
        *(prune(home, backend, "frozen", "ria", *size, backend) for backend in ("cpu", "npu")),
        project(home, "cpu-run", "mixed", "--backend", "npu"),
    ]
    simulated(COMMANDS.format(make=f"make_pretrained(Path({str(home)!r}), {BLOCKS})", commands=json.dumps(commands)))
    return home


def test_projection_of_a_pretrained_model_is_the_same_bytes_on_both(pretrained: Path) -> None:
    assert same_files(pretrained / "cpu", pretrained / "mixed")


def test_a_search_of_a_pretrained_model_differs_by_rounding_alone(pretrained: Path) -> None:
    found = difference(pretrained / "cpu", pretrained / "npu")
    assert found.dual < 1e-6, found
    assert found.gap < 1e-6, found
    assert max(found.masks.values()) <= 1e-5 * found.weights, found
