"""Whole commands on the simulated card, beside the same commands on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from _jobs import COMMANDS, difference, project, prune, same_files

MODES = [("frozen", "wanda"), ("frozen", "ria"), ("drift", "stochria"), ("feedback", "stochria")]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def tiny(simulated: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every mode searched on both devices, and each search of the CPU projected on the card."""
    home = tmp_path_factory.mktemp("tiny")
    commands = []
    for mode, metric in MODES:
        name = f"{mode}-{metric}"
        for backend in ("cpu", "npu"):
            # in one dtype on both: a CPU may be slow in the stored one and take another
            size = ["--samples", "4", "--seq-len", "32", "--backend", backend, "--dtype", "bfloat16"]
            commands.append(prune(home, f"{name}-{backend}", mode, metric, *size))
        commands.append(project(home, f"{name}-cpu-run", f"{name}-mixed", "--backend", "npu"))
    simulated(COMMANDS.format(make=f"make_tiny(Path({str(home)!r}))", commands=json.dumps(commands)))
    return home


@pytest.mark.parametrize(("mode", "metric"), MODES)
def test_projection_of_one_search_is_the_same_bytes_on_both(tiny: Path, mode: str, metric: str) -> None:
    assert same_files(tiny / f"{mode}-{metric}-cpu", tiny / f"{mode}-{metric}-mixed")


@pytest.mark.parametrize("metric", ["wanda", "ria"])
def test_a_search_that_moves_no_weight_gives_the_bytes_of_the_cpus(tiny: Path, metric: str) -> None:
    """The devices add up in different orders, so V agrees to a few units in the last place only."""
    assert same_files(tiny / f"frozen-{metric}-cpu", tiny / f"frozen-{metric}-npu")
    assert difference(tiny / f"frozen-{metric}-cpu", tiny / f"frozen-{metric}-npu").dual < 1e-6


@pytest.mark.parametrize(("mode", "share"), [("drift", 0.001), ("feedback", 0.02)])
def test_a_search_that_moves_weights_gives_nearly_the_masks_of_the_cpus(tiny: Path, mode: str, share: float) -> None:
    """Where a gradient is nearly zero rounding decides its sign, and AdamW's first steps take little but the sign.

    The weights in half precision carry that on, and in ``feedback`` the masks of the search itself do.
    """
    found = difference(tiny / f"{mode}-stochria-cpu", tiny / f"{mode}-stochria-npu")
    assert max(found.masks.values()) <= share * found.weights, found
