"""The certificate, written where there is no card: its parts, and that it certifies nothing that failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "certify_npu.py"


def certify(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    called = [sys.executable, SCRIPT, *words, "--json", folder / "c.json", "--shape", "8x32"]
    done = subprocess.run(called, capture_output=True, text=True, cwd=folder)
    written = json.loads((folder / "c.json").read_text())
    assert json.loads(done.stdout) == written
    return done.returncode, written


def test_a_backend_that_passes_is_certified_with_counts_and_times(tmp_path: Path) -> None:
    code, written = certify(tmp_path, "nm_mask", "--backend", "cpu", "--only", "manifest")
    assert (code, written["ok"], written["schema"]) == (0, True, "unipruning-npu-certificate-1")
    suite = written["conformance"]
    assert suite["tests"] > 0
    assert (suite["part"], suite["failures"], suite["skipped"], suite["not passed"]) == ("manifest", 0, 0, [])
    assert {line["operation"] for line in written["timing"]["lines"]} == {"nm_mask"}
    assert all(line["median"] > 0 for line in written["timing"]["lines"])
    assert "torch" in written["timing"]["environment"]["packages"]
    assert set(written["device"]) == {"torch_npu", "chip", "devices", "cann", "memory"}


def test_a_backend_that_cannot_run_is_not_certified_and_the_reason_is_kept(tmp_path: Path) -> None:
    code, written = certify(tmp_path, "nm_mask", "--backend", "npu", "--only", "manifest")
    assert (code, written["ok"]) == (1, False)
    assert "torch_npu is not installed" in written["timing"]["said"]
