"""Where a search is laid out otherwise: its state in the host's memory or on disk, and two ranks as far as they go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from _jobs import COMMANDS

HERE = Path(__file__).parent
SIZE = ["--samples", "4", "--seq-len", "32", "--backend", "npu", "--dtype", "bfloat16"]
RANK = """
import sys
sys.path.insert(0, {here!r})
from preload import preload
preload({simulation!r})
from unipruning_core.cli.main import main
sys.exit(main({words!r}))
"""


def searched(home: Path, name: str, *words: str) -> list[str]:
    return ["search", str(home / "model"), "--data", str(home / "text.jsonl"), "--out", str(home / name), *words, *SIZE]


@pytest.fixture(scope="module")
def home(simulated: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, searched in two modes with the state on the card, in the host's memory and on disk, and projected."""
    home = tmp_path_factory.mktemp("layout")
    commands = [
        searched(home, f"{mode}-{place}", "--mode", mode, "--offload", place)
        for mode in ("feedback", "frozen")
        for place in ("none", "cpu", "disk")
    ]
    commands.append(projected(home, "alone"))
    simulated(COMMANDS.format(make=f"make_tiny(Path({str(home)!r}))", commands=json.dumps(commands)))
    return home


def projected(home: Path, out: str) -> list[str]:
    words = ["project", str(home / "model"), str(home / "feedback-none"), "--out", str(home / out)]
    return [*words, "--sparsity", "60%/global", "--sparsity", "2:4", "--backend", "npu"]


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Callable[[Sequence[str]], list[tuple[int, str, str]]]:
    """Run a command on two ranks; return the exit code and both streams of each."""

    def run(words: Sequence[str]) -> list[tuple[int, str, str]]:
        code = RANK.format(here=str(HERE), simulation=request.config.getoption("--npusim"), words=list(words))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "UNIPRUNING_RANK_TIMEOUT": "60"}
        common |= {"ASCEND_LAUNCH_BLOCKING": "1", "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]
        try:
            ended = [process.communicate(timeout=200) for process in started]
        finally:
            for process in started:
                process.kill()
        return [(process.returncode, *streams) for process, streams in zip(started, ended, strict=True)]

    return run


@pytest.mark.parametrize("place", ["cpu", "disk"])
@pytest.mark.parametrize("mode", ["feedback", "frozen"])
def test_a_state_that_lies_elsewhere_gives_the_same_bytes(home: Path, mode: str, place: str) -> None:
    on_card, elsewhere = (home / f"{mode}-{name}" / "dual.safetensors" for name in ("none", place))
    assert on_card.read_bytes() == elsewhere.read_bytes()


def test_two_ranks_project_to_the_same_bytes(home: Path, ranks) -> None:
    """Whole numbers alone pass between them, through gloo."""
    ended = ranks(projected(home, "shared"))
    assert [code for code, *_ in ended] == [0, 0], ended
    for name in ("60-global/model.safetensors", "2-4/model.safetensors"):
        assert (home / "shared" / name).read_bytes() == (home / "alone" / name).read_bytes()


def test_two_ranks_measure_a_perplexity(home: Path, ranks) -> None:
    words = ["perplexity", str(home / "model"), "--data", str(home / "text.jsonl"), "--seq-len", "32", "--json"]
    first, second = ranks([*words, "--backend", "npu", "--dtype", "bfloat16"])
    assert (first[0], second[0]) == (0, 0), (first, second)
    # torch_npu prints warnings there too
    measured = json.loads(first[1].splitlines()[-1])
    assert measured["windows"] == len(measured["per_window_nll"]) == 18
    assert "perplexity" not in second[1]


def test_two_ranks_that_search_go_as_far_as_the_first_call_of_hccl(home: Path, ranks) -> None:
    """The simulation has no HCCL: they meet, read their parts of the model, and end with a sentence about it."""
    ended = ranks(searched(home, "over-ranks", "--mode", "feedback", "--batch-size", "2"))
    assert [code for code, *_ in ended] == [2, 2]
    errors = [line for *_, err in ended for line in err.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(" stops, since " in error for error in errors), errors
    assert any("HcclGetRootInfo" in error or "HCCL" in error for error in errors), errors
    assert not list((home / "over-ranks").glob("run.json"))
