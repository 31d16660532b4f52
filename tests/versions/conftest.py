"""Tests under this folder need an environment with another transformers; a plain run does not collect them."""

from __future__ import annotations

import pytest

collect_ignore_glob: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oldest-transformers", help="the Python of an environment with the oldest supported transformers"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--oldest-transformers", None):
        collect_ignore_glob.append("test_*.py")
