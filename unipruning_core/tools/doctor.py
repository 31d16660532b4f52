"""A report of what this machine can do and whether it does it right, which names no person or place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unipruning_core.extensions import REMEDY
from unipruning_core.registry import Catalogue
from unipruning_core.tools.environment import environment, without_paths

SCHEMA = "unipruning-doctor-1"
MARKS = {True: "ok", False: "FAIL", None: "-"}
GIB = 2**30
# part of the conformance suite: every operation against the reference, ties, repeatability and a small search
VECTORS = "manifest or repeat or ties or the_reference or what_matches or what_is_there"
LONGEST = 300.0  # time limit in seconds for the vectors of one backend: a device that hangs must not hang the doctor
COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True)
class Check:
    """One finding about the machine."""

    name: str
    ok: bool | None  # None for a fact, which is neither right nor wrong
    detail: str


@dataclass(frozen=True)
class Report:
    """All findings about the machine."""

    checks: tuple[Check, ...]
    environment: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether everything that should work does."""
        return not any(check.ok is False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"schema": SCHEMA, "ok": self.ok, "checks": checks, "environment": self.environment}


def examine(extensions: Mapping[str, str] | None = None) -> Report:
    """Examine the machine in seconds, and each backend that can run in less than a minute.

    ``extensions`` are torch's failing extensions with the reason, from ``load_extensions``.
    """
    catalogue = Catalogue()
    probes = {name: catalogue.probe(spec) for name, spec in sorted(catalogue.specs.items())}
    available = [name for name, probe in probes.items() if probe.available]
    surroundings = environment({name: probes[name].detail for name in available})
    checks = [
        Check("python", None, f"{platform.python_implementation()} {surroundings['python']}"),
        Check("torch", None, f"{surroundings['packages']['torch']}, {surroundings['threads']} threads"),
        Check("accelerator", None, surroundings["accelerator"] or "none visible to torch"),
        Check("compiler", None, compiler()),
        Check("memory", None, memory()),
        Check("disk", None, f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free in the current folder"),
        Check("model cache", None, model_cache()),
    ]
    for name, reason in (extensions or {}).items():
        checks.append(Check(f"torch with {name}", False, f"cannot be imported: {reason}; {REMEDY}"))
    for name, probe in probes.items():
        checks.append(Check(f"backend {name}", True if probe.available else None, probe.detail))
    for name, error in sorted(catalogue.broken.items()):
        checks.append(Check(f"backend {name}", False, f"its plugin failed to load: {type(error).__name__}: {error}"))
    if not available:
        checks.append(Check("backends", False, "none can run here; the reasons are above"))
    checks += conformance(available)
    return Report(tuple(Check(c.name, c.ok, without_paths(c.detail)) for c in checks), surroundings)


def conformance(backends: list[str]) -> Iterator[Check]:
    """Run the vectors of each backend in a separate process, so that a crashing driver does no harm."""
    if find_spec("pytest") is None:
        yield Check("vectors", None, "not run: they need pytest, which is not installed; pip install pytest")
        return
    for name in backends:
        with tempfile.TemporaryDirectory() as folder:
            yield _vectors(name, Path(folder) / "vectors.xml")


def _vectors(name: str, results: Path) -> Check:
    command = [sys.executable, "-m", "unipruning_core.cli", "conform", "--backend", name, "--"]
    command += ["-q", "-k", VECTORS, f"--junitxml={results}"]
    label = f"vectors {name}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return Check(label, False, f"timed out after {LONGEST:.0f} s")
    if not results.exists():
        last_line = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return Check(label, False, f"exited with {done.returncode} before any result: {last_line}")
    suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    ran, bad = int(suite.get("tests", 0)), int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    if bad:
        first = next(case.get("name", "") for case in suite.iter("testcase") if len(case))
        return Check(
            label, False, f"{bad} of {ran} fail, the first is {first}; see unipruning conform --backend {name}"
        )
    return Check(label, ran > 0 and done.returncode == 0, f"{ran} pass in {float(suite.get('time', 0)):.0f} s")


def compiler() -> str:
    """Return the version line of the C compiler that a backend would find."""
    for command in filter(None, (os.environ.get("CC"), *COMPILERS)):
        if path := shutil.which(command):
            output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            return (output.splitlines() or ["prints no version"])[0]
    return f"none of {', '.join(COMPILERS)} was found"


def memory() -> str:
    """Describe the free memory of the host and, if there is one, of the accelerator."""
    from unipruning_core.models.memory import free_bytes

    devices = ["cpu"]
    if torch.accelerator.is_available() and (device := torch.accelerator.current_accelerator()):
        devices.append(device.type)
    free_by_device = {device: free_bytes(device) for device in devices}
    return ", ".join(
        f"{device} {free / GIB:.1f} GiB free" if free is not None else f"{device} unknown"
        for device, free in free_by_device.items()
    )


def model_cache() -> str:
    """Describe how many models the hub's cache holds, without naming them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    if not cache.is_dir():
        return "empty"
    try:
        free = shutil.disk_usage(cache).free
        return f"{len(list(cache.glob('models--*')))} models, {free / GIB:.1f} GiB free there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
