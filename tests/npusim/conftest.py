"""Tests under this folder need torch_npu and the built simulation; a plain run of the suite does not collect them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE

import pytest

# torch_npu lives in an environment of its own, and there these tests are what is run
collect_ignore_glob = [] if find_spec("torch_npu") else ["test_*.py"]

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--npusim", help="the folder into which build.sh has built the simulation")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    folder = request.config.getoption("--npusim")
    if folder is None:
        raise pytest.UsageError("these tests need the folder that build.sh has built; give it with --npusim")
    command = [sys.executable, str(HERE / "_server.py"), folder]
    environment = {**os.environ, "ASCEND_LAUNCH_BLOCKING": "1"}
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        yield process


@pytest.fixture(scope="session")
def simulated(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run Python code on the simulation in a process of its own, and return what it wrote to the file ``OUT``."""
    folder = tmp_path_factory.mktemp("simulated")
    out, printed = folder / "out", folder / "printed"

    def run(code: str, **knobs: str) -> str:
        script = f"from pathlib import Path\nimport torch\nOUT = Path({str(out)!r})\n{code}"
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"code": script, "knobs": knobs, "output": str(printed)}) + "\n")
        status = server.stdout.readline()
        assert status == "0\n", status + printed.read_text(encoding="utf-8")
        return out.read_text(encoding="utf-8")

    return run
