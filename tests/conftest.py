"""Tests on a real GPU run only where ``-m gpu`` asks for them; elsewhere they are left out, as the last line says.

Signals mean in every test what they mean to a command in a terminal.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from unipruning_core.registry import Catalogue

ROOT = Path(__file__).parents[1]
NO_GPU = 2  # the exit status of a run that asks for a GPU where none is


# a shell lets commands in the background ignore some, and so would the tests and all that they start
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def asked_for(config: pytest.Config) -> bool:
    return "gpu" in str(config.option.markexpr)


# last, when -m has taken out what it does not want
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not asked_for(config):
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if item not in on_gpu]
    elif on_gpu and (missing := why_no_gpu()):
        pytest.exit(f"these tests need a GPU that the backend cuda can use, but {missing}", returncode=NO_GPU)


def why_no_gpu() -> str | None:
    catalogue = Catalogue()
    if (spec := catalogue.specs.get("cuda")) is None:
        return "it is not known to this Python, where unipruning is not installed; pip install --no-deps -e ."
    probe = catalogue.probe(spec)
    if not probe.available:
        return probe.detail
    return "TRITON_INTERPRET is set; unset it" if spec.device_type == "cpu" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # the conformance suite, which a backend's author runs, finds this file too when it starts from here
    if config.rootpath == ROOT and not asked_for(config):
        terminalreporter.write_line("tests on a GPU were left out; pytest -m gpu runs them where there is one")
