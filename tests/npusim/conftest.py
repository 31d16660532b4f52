"""Tests under this folder need torch_npu and the built simulation; a plain run of the suite does not collect them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# torch_npu lives in an environment of its own, and there these tests are what is run
collect_ignore_glob = [] if find_spec("torch_npu") else ["test_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--npusim", help="the folder into which build.sh has built the simulation")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--npusim", default=None)
    if folder is not None:
        from preload import preload

        preload(folder)
