"""What the command says where torch_npu is broken or missing, and that the CPU goes on working there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from _checkpoints import content, save_home

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CLI = ("-m", "unipruning_core.cli")
NO_CANN = (
    "torch_npu is installed but finds no CANN (libhccl.so: cannot open shared object file: No such file or directory); "
    "source the set_env.sh of the CANN that matches it, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to work without an NPU"
)
OTHER_TORCH = (
    f"torch_npu 2.14.0 is built for torch 2.14, but torch {version('torch')} is installed; install the pair that "
    "matches the CANN of this server, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to work without an NPU"
)
CUDA_TORCH = (
    "torch_npu does not load where torch finds a CUDA device; install the CPU build of torch to use an NPU, or set "
    "TORCH_DEVICE_BACKEND_AUTOLOAD=0 to work without an NPU"
)
NOT_INSTALLED = "torch_npu is not installed; on an Ascend server, install the torch-npu for its CANN"
EXTENSION = (
    "torch's device extension torch_npu (libhccl.so: cannot open shared object file: No such file or directory); "
    "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to run without it"
)
# the doctor, with fewer vectors: how it reaches them is what is tested here
DOCTOR = """
import sys
from unipruning_core import extensions
load = extensions.load_extensions
def load_and_shorten():
    failed = load()
    from unipruning_core.tools import doctor
    doctor.VECTORS = "manifest"
    return failed
extensions.load_extensions = load_and_shorten
from unipruning_core.cli.main import main
sys.exit(main(["doctor", "--json", "doctor.json"]))
"""
# the real torch_npu asks this function, and refuses what it answers where a CUDA build of torch finds a GPU
AS_CUDA = """
import os, sys
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import torch
torch._C._get_accelerator = lambda *_: torch.device("cuda")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "1"
from unipruning_core.cli.main import main
sys.exit(main(["backends", "--json"]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_home(tmp_path_factory.mktemp("home"))


def prune(home: Path, *words: str) -> list[str]:
    asked = [*CLI, "prune", str(home / "model"), "--data", str(home / "text.txt"), "--samples", "2", "--seq-len", "16"]
    return [*asked, "--sparsity", "50%", "--out", "pruned", *words]


def told(printed: str) -> dict[str, str]:
    return {row["name"]: row["detail"] for row in json.loads(printed)["backends"]}


def test_without_torch_npu_the_listing_says_so(run: Run) -> None:
    listed = run(None, *CLI, "backends", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert told(listed.stdout)["npu"] == NOT_INSTALLED
    assert json.loads(listed.stdout)["extensions"] == {}


def test_without_cann_the_listing_says_why_and_how_to_go_on(run: Run) -> None:
    listed = run("--no-cann", *CLI, "backends")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert f" {NO_CANN}\n" in listed.stdout
    assert listed.stdout.splitlines()[-1] == f"every command that computes fails with {EXTENSION}"


def test_without_cann_a_command_that_computes_costs_one_sentence(run: Run, home: Path) -> None:
    failed = run("--no-cann", *prune(home))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: torch cannot be imported because a device extension fails (libhccl.so")
    assert "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to run without it" in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("autoload", [True, False])
def test_without_cann_the_doctor_says_why_and_examines_the_rest(run: Run, tmp_path: Path, autoload: bool) -> None:
    examined = run("--no-cann", "-c", DOCTOR, autoload=autoload)
    checks = {check["name"]: check for check in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert checks["backend npu"]["detail"] == NO_CANN
    assert checks["vectors cpu"]["ok"] is True, checks["vectors cpu"]
    # whoever has asked for no extensions is well without this one
    assert examined.returncode == (1 if autoload else 0)
    assert ("torch with torch_npu" in checks) == autoload
    if autoload:
        assert checks["torch with torch_npu"]["ok"] is False
        assert checks["torch with torch_npu"]["detail"].endswith(EXTENSION.partition("(")[2].replace("); ", "; "))


@pytest.mark.parametrize("environment", ["--no-cann", "--other-torch"])
def test_the_cpu_prunes_as_ever_once_extensions_are_off(run: Run, home: Path, tmp_path: Path, environment: str) -> None:
    there = run(environment, *prune(home), autoload=False)
    assert there.returncode == 0, there.stderr
    pruned = content(tmp_path / "pruned")
    here = run(None, *prune(home, "--overwrite", "--run", "another-run"))
    assert here.returncode == 0, here.stderr
    intact = content(tmp_path / "pruned")
    assert {name: pruned[name] == intact[name] for name in intact if name.endswith((".safetensors", ".masks"))} == {
        "unipruning.masks": True,
        "model.safetensors": True,
    }


@pytest.mark.parametrize(("environment", "says"), [("--no-cann", NO_CANN), ("--other-torch", OTHER_TORCH)])
def test_a_broken_npu_asked_for_by_name_is_refused_with_the_reason(
    run: Run, home: Path, environment: str, says: str
) -> None:
    refused = run(environment, *prune(home, "--backend", "npu"), autoload=False)
    assert refused.returncode == 2
    assert refused.stderr.strip() == f"error: backend 'npu' cannot run here: {says}"


def test_another_torch_is_named_with_the_one_that_is_wanted(run: Run) -> None:
    listed = run("--other-torch", *CLI, "backends", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert told(listed.stdout)["npu"] == OTHER_TORCH


def test_a_torch_that_finds_a_gpu_is_named(run: Run) -> None:
    listed = run("--no-cann", "-c", AS_CUDA)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert told(listed.stdout)["npu"] == CUDA_TORCH
