"""Tests under this folder need torch_npu and the built simulation; a plain run of the suite does not collect them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

# torch_npu lives in an environment of its own, and there these tests are what is run
collect_ignore_glob = [] if find_spec("torch_npu") else ["test_*.py"]

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--npusim", help="the folder into which build.sh has built the simulation")


@pytest.fixture(scope="module")
def simulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run Python code on the simulation in a process of its own, and return what it wrote to the file ``OUT``."""
    folder = request.config.getoption("--npusim")
    if folder is None:
        raise pytest.UsageError("these tests need the folder that build.sh has built; give it with --npusim")
    out = tmp_path_factory.mktemp("simulated") / "out"

    def run(code: str, **knobs: str) -> str:
        script = (
            f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom pathlib import Path\nOUT = Path({str(out)!r})\n"
            f"from preload import preload\npreload({folder!r})\nimport torch\n{code}"
        )
        environment = {**os.environ, "ASCEND_LAUNCH_BLOCKING": "1", **knobs}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return out.read_text(encoding="utf-8")

    return run
