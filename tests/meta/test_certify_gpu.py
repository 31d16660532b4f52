"""The certification of a GPU, as far as it can be tried without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from _certify import BENCHMARKS, PARTS, load, result_of
from _pytest.config import _prepareconfig

ROOT = BENCHMARKS.parent
SCRIPT = BENCHMARKS / "certify_gpu.py"
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


def test_without_a_gpu_one_sentence_says_so_and_nothing_is_written(tmp_path):
    out = tmp_path / "certificate"
    words = [sys.executable, SCRIPT, "--out", out]
    done = subprocess.run(words, capture_output=True, text=True, env=NO_GPU, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("a certificate needs a GPU that the backend cuda can use, but ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_python_without_the_backend_is_told_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr("unipruning_core.registry.Catalogue", lambda: SimpleNamespace(specs={}))
    assert load(SCRIPT).main(["--out", str(tmp_path / "out")]) == 2
    assert "where unipruning is not installed; pip install --no-deps -e ." in capsys.readouterr().err


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


def test_a_run_writes_each_part_and_says_what_became_of_it(certify, commands, tmp_path, capsys):
    ran, _ = commands
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out)]) == 0
    assert len(ran) == len(PARTS)
    assert {seconds for _, seconds in ran} == {inf}
    assert result_of(out) == (True, dict.fromkeys(PARTS, "passed"))
    assert {path.name for path in out.iterdir()} == {"certificate.json", *(f"{part}.json" for part in PARTS)}
    assert [test["outcome"] for test in json.loads((out / "tests.json").read_text())["tests"]] == ["passed"] * 2
    assert "6 passed; the folder is" in capsys.readouterr().out
    assert certify.main(["--out", str(out)]) == 0
    assert len(ran) == len(PARTS), "parts that passed are not run again"


# the last words differ from run to run: the file that is written
def test_every_command_of_a_certificate_is_one_that_its_program_takes(certify, certificate, commands, tmp_path):
    from unipruning_core.cli.main import build_parser

    sys.modules.pop("search_cost", None)
    from search_cost import parser as cost_parser  # beside the certificate

    ran, _ = commands
    certify.main(["--out", str(tmp_path / "certificate")])
    seen = []
    for words, _ in ran:
        assert words[0] == sys.executable
        if words[1:3] == ["-m", "unipruning_core.cli"]:
            options = build_parser().parse_args(words[3:])
            seen.append(words[3])
            assert getattr(options, "backend", "cuda") == "cuda"
            if words[3] == "conform":
                known_to_pytest(options.pytest_options)
        elif words[1:3] == ["-m", "pytest"]:
            known_to_pytest(words[3:])
            seen.append("pytest")
        else:
            assert Path(words[1]) == BENCHMARKS / "search_cost.py"
            options = cost_parser().parse_args(words[2:])
            assert (options.backend, options.profile) == ("cuda", True)
            seen.append(options.model)
    assert seen == ["conform", "doctor", "pytest", "llama-2-7b", "smollm2-135m", "bench"]


def known_to_pytest(words):
    """Let pytest read its options, and find the tests that are named."""
    config = _prepareconfig([*words, "-p", "no:cacheprovider", "-c", os.devnull])
    try:
        for name in [*config.args, *(config.option.deselect or ())]:
            path, _, test = name.partition("::")
            assert (ROOT / path).exists()
            assert not test or f"def {test}(" in (ROOT / path).read_text()
    finally:
        config._ensure_unconfigure()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_fails_loses_no_other_and_is_not_run_again(certify, commands, tmp_path, part, capsys):
    ran, results = commands
    results[part] = 1
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out)]) == 1
    assert result_of(out) == (False, {name: "failed" if name == part else "passed" for name in PARTS})
    kept = json.loads((out / "certificate.json").read_text())["parts"][part]
    assert kept["said"] == ["the first line", "the last of there"]
    assert kept["not passed"] == (["one"] if part in ("conformance", "tests") else [])
    assert "5 passed, 1 failed" in capsys.readouterr().out
    assert certify.main(["--out", str(out)]) == 0
    assert len(ran) == len(PARTS)
    results.clear()
    results["order"] = [*PARTS, part]
    assert certify.main(["--out", str(out), "--only", part, "--again"]) == 0
    assert result_of(out) == (True, dict.fromkeys(PARTS, "passed"))


def test_a_part_that_ran_out_of_time_is_run_again_and_those_after_it_were_not_lost(certify, commands, tmp_path, capsys):
    ran, results = commands
    results["tests"] = None
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out), "--part-seconds", "30"]) == 1
    assert {seconds for _, seconds in ran} == {30.0}
    assert result_of(out) == (False, {name: "timed out" if name == "tests" else "passed" for name in PARTS})
    assert json.loads((out / "tests.json").read_text())["tests"], "what it had written is kept"
    assert "5 passed, 1 timed out; the same command without --only runs what is left" in capsys.readouterr().out
    results.clear()
    results["order"] = [*PARTS, "tests"]
    assert certify.main(["--out", str(out)]) == 0
    assert len(ran) == len(PARTS) + 1
    assert result_of(out)[0]


def test_a_certificate_in_two_commands_is_whole(certify, commands, tmp_path, capsys):
    ran, results = commands
    results["order"] = ["doctor", "tests", "conformance", "cost-llama-2-7b", "cost-smollm2-135m", "bench"]
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out), "--only", "tests", "doctor"]) == 0
    assert result_of(out) == (False, {"doctor": "passed", "tests": "passed"})
    assert "2 passed, 4 not run; the same command without --only runs what is left" in capsys.readouterr().out
    assert certify.main(["--out", str(out)]) == 0
    assert len(ran) == len(PARTS)
    assert result_of(out) == (True, dict.fromkeys(PARTS, "passed"))


def test_a_command_ends_within_its_time(certify, certificate, commands, tmp_path, monkeypatch):
    ran, _ = commands
    clock = [0.0]
    monkeypatch.setattr(certify.time, "monotonic", lambda: clock[0])
    run = certificate.run

    def slow(command, seconds):
        clock[0] += 100.0
        return run(command, seconds)

    monkeypatch.setattr(certificate, "run", slow)
    out = tmp_path / "certificate"
    assert certify.main(["--out", str(out), "--seconds", "210", "--part-seconds", "150"]) == 0
    assert [seconds for _, seconds in ran] == [150.0, 110.0], "ten seconds are too few for a third"
    assert list(result_of(out)[1]) == PARTS[:2]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "exists and holds no certificate.json to go on with"),
        ("[]", "exists and holds no certificate.json to go on with"),
        ('{"schema": "unipruning-certificate-1"}', "holds a certificate of the schema 'unipruning-certificate-1'"),
        ('{"schema": "unipruning-certificate-2", "model": "qwen2.5-7b"}', "holds a certificate of other model"),
    ],
)
def test_a_folder_that_cannot_be_gone_on_with_stays_as_it_is(certify, commands, tmp_path, capsys, content, sentence):
    (tmp_path / "mine.txt").write_text("mine")
    if content is not None:
        (tmp_path / "certificate.json").write_text(content)
    assert certify.main(["--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
    assert commands[0] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--only", "bnech"], f"--only takes {', '.join(PARTS)}, not 'bnech'"),
        (["--seconds", "0"], "--seconds must be positive, not 0"),
        (["--part-seconds", "nan"], "--part-seconds must be positive, not nan"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(certify, commands, tmp_path, capsys, words, sentence):
    assert certify.main(["--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"
    assert not (tmp_path / "out").exists()


def test_the_list_of_parts_runs_none(certify, commands, tmp_path, capsys):
    assert certify.main(["--out", str(tmp_path / "out"), "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == PARTS
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize(("folder", "outcome"), [("gpu", "1 passed"), ("core", "1 failed")])
def test_a_warning_fails_a_test_unless_it_is_one_on_a_gpu(tmp_path, folder, outcome):
    (tmp_path / "gpu").mkdir()
    (tmp_path / "core").mkdir()
    shutil.copy(ROOT / "tests" / "gpu" / "conftest.py", tmp_path / "gpu")
    warns = "import warnings\n\ndef test_warns():\n    warnings.warn('a prototype feature')\n"
    (tmp_path / folder / "test_warns.py").write_text(warns)
    words = ["-q", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, cwd=tmp_path)
    assert outcome in done.stdout.splitlines()[-1]


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
