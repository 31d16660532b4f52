"""The parts of a GPU's certificate: what each runs, for how long, and what becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

from unipruning_core.tools.environment import without_paths

ROOT = Path(__file__).parents[1]
UNIPRUNING = (sys.executable, "-m", "unipruning_core.cli")
PYTEST = (sys.executable, "-m", "pytest")
COST = (sys.executable, str(ROOT / "benchmarks" / "search_cost.py"))
BACKEND = "cuda"
SMALL = "smollm2-135m"  # where launches, not the device's speed, decide a search's cost
IN_ITS_OWN_PART = "tests/gpu/test_gpu.py::test_the_whole_conformance_suite_passes_on_the_device"
MOST_WORKERS = 14  # of the conformance suite, which mostly compiles
GRACE = 20.0  # seconds for a part that ran out of time to write what it has
QUOTED = 40  # last lines of a part that did not pass


@dataclass(frozen=True)
class Part:
    """A command that writes its result into one file of the folder."""

    name: str
    does: str
    command: tuple[str, ...]  # without the file
    tests: bool = False  # pytest runs, whose outcomes become the file
    complete: bool = False  # a test that is skipped counts as one that failed

    @property
    def file(self) -> str:
        return f"{self.name}.json"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None  # None if it ran out of time
    seconds: float
    said: list[str]  # its last lines


def parts_of(model: str) -> list[Part]:
    """Return the parts of a certificate; the first compiles, in several processes, most of what the others launch."""
    several = ("-n", str(workers()), "-p", "xdist.plugin") if find_spec("xdist") and workers() > 1 else ()
    bench = ("bench", "--backend", BACKEND, "--baseline", "released", "--model", model)
    named = Path(model).name
    cost = (*COST, "--backend", BACKEND, "--profile")
    return [
        Part(
            "conformance",
            "the whole conformance suite on the device",
            (*UNIPRUNING, "conform", "--backend", BACKEND, "--", "-q", *several),
            tests=True,
            complete=True,
        ),
        Part("doctor", "the machine, and the vectors of each backend", (*UNIPRUNING, "doctor")),
        Part(
            "tests",
            "the tests that need a GPU",
            (*PYTEST, "-m", "gpu", "tests/gpu", "--deselect", IN_ITS_OWN_PART),
            tests=True,
        ),
        Part(f"cost-{named}", "whole samples beside the bare work", (*cost, "--model", model, "--seq-len", "2048")),
        Part(f"cost-{SMALL}", "the same of a small model", (*cost, "--model", SMALL, "--seq-len", "512")),
        Part("bench", "every operation against the released formulation", (*UNIPRUNING, *bench)),
    ]


def workers() -> int:
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - 2))


def run_part(part: Part, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a part for at most so many seconds, and return what the certificate says of it."""
    results = folder / f".{part.name}.xml"
    # the family that has measurements: pytest warns of those in its other, and a warning is an error
    report = (
        ("-o", "junit_family=xunit1", f"--junitxml={results}") if part.tests else ("--json", str(folder / part.file))
    )
    ended = run((*part.command, *report), seconds)
    bad: list[str] = []
    if part.tests:
        tests = outcomes(results) if results.is_file() else []
        results.unlink(missing_ok=True)
        write(folder / part.file, {"exit status": ended.status, "tests": tests})
        accepted = {"passed"} if part.complete else {"passed", "skipped"}
        bad = [str(test["test"]) for test in tests if test["outcome"] not in accepted]
        if ended.status == 0 and not tests:
            bad = ["no test ran"]
    passed = ended.status == 0 and not bad
    found: dict[str, Any] = {
        "result": "passed" if passed else "timed out" if ended.status is None else "failed",
        "exit status": ended.status,
        "seconds": round(ended.seconds, 1),
        "file": part.file if (folder / part.file).is_file() else None,
    }
    return found if passed else {**found, "not passed": bad, "said": [without_paths(line) for line in ended.said]}


def run(command: Sequence[str], seconds: float) -> Ended:
    """Run a command whose output is shown; one that runs out of time is interrupted, and may write what it has."""
    # which plugins of pytest a machine has is no part of a certificate; many processes share the cores
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
    if "-n" in command:
        environment["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    said: deque[str] = deque(maxlen=QUOTED)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=_apart,
    )
    reader = threading.Thread(target=_show, args=(process, said), daemon=True)
    reader.start()
    with _ended_with(process):
        status = _waited(process, seconds)
    reader.join(GRACE)
    return Ended(status, time.monotonic() - began, [line.rstrip("\n") for line in said])


def _apart() -> None:
    """Let a process be interrupted with all that it starts, and alone; it stays in the session."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background


def _show(process: subprocess.Popen[str], said: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.append(line)
            print(line, end="", flush=True)


def _waited(process: subprocess.Popen[str], seconds: float) -> int | None:
    """Return the exit status, or None if the time ran out."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(seconds if seconds < inf else None)
    os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    return None


@contextmanager
def _ended_with(process: subprocess.Popen[str]) -> Iterator[None]:
    """Let nothing of the command outlive the block."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outcomes(results: Path) -> list[dict[str, Any]]:
    """Return the name, the outcome with its reason, and the measurements of each test."""
    tests = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        if case.get("name") is None:  # begun, and then interrupted
            continue
        exception = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        tests.append(
            {
                "test": case.get("name"),
                "outcome": "passed" if exception is None else exception.tag,
                "why": None if exception is None else without_paths(exception.get("message", "")),
                "seconds": float(case.get("time", 0)),
                "measured": {part.get("name"): part.get("value") for part in case.iter("property")},
            }
        )
    return tests


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a document as a whole or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
