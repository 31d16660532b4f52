"""Tests under this folder need environments with a broken torch_npu; a plain run of the suite does not collect them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# the tiny model of the core's tests
sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
# environment variables of whoever runs the tests must not mend what is broken on purpose
KEPT = ("PATH", "HOME", "LANG", "CC", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
collect_ignore_glob: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-cann", help="the Python of an environment with torch_npu and no CANN")
    parser.addoption("--other-torch", help="the Python of an environment with a torch_npu built for another torch")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--no-cann", None):
        collect_ignore_glob.append("test_*.py")


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in an environment, by the option that names it, or None for the intact one, as a user would."""

    def call(environment: str | None, *words: str, autoload: bool = True) -> subprocess.CompletedProcess[str]:
        python = request.config.getoption(environment) if environment else sys.executable
        around = {name: os.environ[name] for name in KEPT if name in os.environ}
        if not autoload:
            around[AUTOLOAD] = "0"
        return subprocess.run(
            [os.path.abspath(python), *words], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=600
        )

    return call
