"""The certification of a GPU, with parts whose command lines are made and not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _certify import BENCHMARKS, PARTS, load


@pytest.fixture
def certify(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = load(BENCHMARKS / "certify_gpu.py")
    monkeypatch.setattr(module, "why_no_gpu", lambda: None)
    return module


@pytest.fixture
def certificate(certify):
    return sys.modules["_certificate"]


@pytest.fixture
def commands(certify, certificate, monkeypatch):
    """The command lines that a certificate runs, each with its seconds; ``results`` has what becomes of a part."""
    ran, results = [], {}

    def run(command, seconds):
        words = list(map(str, command))
        part = PARTS[len(ran) % len(PARTS)] if not results.get("order") else results["order"][len(ran)]
        ran.append((words, seconds))
        status = results.get(part, 0)
        report = Path(words[-1].removeprefix("--junitxml="))
        if report.suffix == ".xml":
            outcome = "" if status == 0 else "<failure message='wrong in /home/me/there'/>"
            cases = f"<testcase name='one' time='1'>{outcome}</testcase><testcase name='two' time='1'/>"
            report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
        elif status == 0:
            report.write_text("{}")
        return certificate.Ended(status, 2.0, ["the first line", "the last of /home/me/there"])

    monkeypatch.setattr(certificate, "run", run)
    return ran, results
