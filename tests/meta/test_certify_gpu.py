"""The certification of a GPU, as far as it can be tried without one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "certify_gpu.py"
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
MIXED = """
import pytest

def test_right(record_property):
    record_property("GB/s of nm_mask", 3.5)

def test_wrong():
    assert 1 == 2

@pytest.mark.skip(reason="one device")
def test_elsewhere():
    pass
"""


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def certify():
    return load(SCRIPT)


def test_without_a_gpu_one_sentence_says_so_and_nothing_is_written(tmp_path):
    out = tmp_path / "certificate"
    words = [sys.executable, SCRIPT, "--out", out]
    done = subprocess.run(words, capture_output=True, text=True, env=NO_GPU, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("a certificate needs a GPU that the backend cuda can use, but ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_tests_on_a_gpu_are_refused_where_none_is():
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(words, capture_output=True, text=True, env=NO_GPU, cwd=ROOT)
    assert done.returncode == 2
    assert "these tests need a GPU" in done.stdout
    assert "passed" not in done.stdout
    assert "skipped" not in done.stdout


def test_tests_on_a_gpu_are_left_out_of_every_other_run():
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not e2e", "tests/gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(words, capture_output=True, text=True, env=NO_GPU, cwd=ROOT)
    assert done.returncode == 5, "pytest's word for a run without a test"
    assert "deselected" in done.stdout
    assert "tests on a GPU were left out; pytest -m gpu runs them where there is one" in done.stdout


def test_the_folder_says_what_became_of_every_test(certify, tmp_path):
    (tmp_path / "test_mixed.py").write_text(MIXED)
    status = certify.run_tests(tmp_path / "tests.json", str(tmp_path), "-q", "-c", os.devnull)
    written = json.loads((tmp_path / "tests.json").read_text())
    assert written["exit status"] == status == 1
    assert {test["test"]: test["outcome"] for test in written["tests"]} == {
        "test_right": "passed",
        "test_wrong": "failure",
        "test_elsewhere": "skipped",
    }
    assert written["tests"][0]["measured"] == {"GB/s of nm_mask": "3.5"}
    assert "assert 1 == 2" in written["tests"][1]["why"]


def test_a_plugin_that_a_machine_happens_to_have_changes_no_certificate(certify, tmp_path, monkeypatch):
    (tmp_path / "test_right.py").write_text("def test_right():\n    pass\n")
    plugin = tmp_path / "plugin"
    (plugin / "loud-1.0.dist-info").mkdir(parents=True)
    (plugin / "loud-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (plugin / "loud-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nloud = loud\n")
    (plugin / "loud.py").write_text("raise SystemExit('a plugin was loaded')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")]))
    assert certify.run_tests(tmp_path / "tests.json", str(tmp_path / "test_right.py"), "-q", "-c", os.devnull) == 0
    assert [test["outcome"] for test in json.loads((tmp_path / "tests.json").read_text())["tests"]] == ["passed"]


@pytest.mark.parametrize(("wrong", "status"), [(None, 0), ("doctor", 1), ("bench", 1), ("smollm2-135m", 1)])
def test_a_certificate_is_right_only_if_everything_is(certify, tmp_path, monkeypatch, wrong, status):
    monkeypatch.setattr(certify, "why_no_gpu", lambda: None)
    monkeypatch.setattr(certify, "run_tests", lambda report, *words: 0)
    monkeypatch.setattr(certify.subprocess, "call", lambda words: int(wrong in words))
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out)]) == status
    assert json.loads((out / "certificate.json").read_text())["ok"] == (wrong is None)
    assert certify.main(["--out", str(out)]) == 2, "an earlier certificate stays as it is"


@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_that_forbids_waiting_ends_with_its_test_and_its_warning_is_none(monkeypatch, fails):
    modes = ["warn"]

    def set_mode(mode):
        modes.append(mode)
        warnings.warn("a prototype feature", UserWarning, stacklevel=2)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    outcome = pytest.raises(RuntimeError, match="waited") if fails else nullcontext()
    with outcome, load(ROOT / "tests" / "gpu" / "test_gpu.py").no_waiting():
        assert modes == ["warn", "error"]
        if fails:
            raise RuntimeError("waited")
    assert modes == ["warn", "error", "warn"]


# pytest-benchmark warns where pytest-xdist splits a run, and here a warning is an error
def test_tests_on_a_gpu_start_beside_a_plugin_that_warns_of_another(tmp_path):
    (tmp_path / "pytest_benchmark-5.0.dist-info").mkdir()
    (tmp_path / "pytest_benchmark-5.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pytest-benchmark\nVersion: 5.0\n"
    )
    (tmp_path / "pytest_benchmark-5.0.dist-info" / "entry_points.txt").write_text(
        "[pytest11]\nbenchmark = warns_of_another\n"
    )
    (tmp_path / "warns_of_another.py").write_text(
        "import warnings\n\ndef pytest_configure(config):\n    warnings.warn('disabled because of another plugin')\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "--collect-only"]
    done = subprocess.run(words, capture_output=True, text=True, env={**NO_GPU, "PYTHONPATH": path}, cwd=ROOT)
    assert "these tests need a GPU" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
