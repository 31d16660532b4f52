"""Certify a GPU: run the tests that need one, doctor, bench and the cost of whole searches, into a folder of JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipruning_core.registry import Catalogue
from unipruning_core.tools.environment import without_paths

ROOT = Path(__file__).parents[1]
SCHEMA = "unipruning-certificate-1"
SUMMARY = "certificate.json"
UNIPRUNING = (sys.executable, "-m", "unipruning_core.cli")
BACKEND = "cuda"
SMALL = "smollm2-135m"  # where launches, not the device's speed, decide a search's cost


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if everything passed, 1 if something failed, 2 if nothing can be certified."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "certificate", help="a new folder (default: build/certificate)"
    )
    parser.add_argument("--model", default="llama-2-7b", help="the model whose layers are timed (default: %(default)s)")
    options = parser.parse_args(arguments)
    if missing := why_no_gpu():
        return refuse(f"a certificate needs a GPU that the backend {BACKEND} can use, but {missing}")
    if options.out.exists():
        return refuse(f"{options.out} already exists; pass another folder with --out, or remove it")
    options.out.mkdir(parents=True)
    bench = (*UNIPRUNING, "bench", "--backend", BACKEND, "--baseline", "released", "--model", options.model)
    cost = (sys.executable, str(ROOT / "benchmarks" / "search_cost.py"), "--backend", BACKEND, "--profile")
    statuses = {
        "tests": run_tests(options.out / "tests.json", "-m", "gpu", "tests/gpu"),
        "doctor": subprocess.call((*UNIPRUNING, "doctor", "--json", str(options.out / "doctor.json"))),
        "bench": subprocess.call((*bench, "--json", str(options.out / "bench.json"))),
        **{
            f"cost {model}": subprocess.call(
                (*cost, "--model", model, "--seq-len", tokens, "--json", str(options.out / f"cost-{model}.json"))
            )
            for model, tokens in ((options.model, "2048"), (SMALL, "512"))
        },
    }
    ok = not any(statuses.values())
    write(options.out / SUMMARY, {"schema": SCHEMA, "ok": ok, "exit statuses": statuses})
    print(f"\n{'everything passed' if ok else 'something failed'}; attach {options.out} to your report")
    return 0 if ok else 1


def why_no_gpu() -> str | None:
    """Return why no GPU can be certified here, or None if one can."""
    catalogue = Catalogue()
    spec = catalogue.specs[BACKEND]
    probe = catalogue.probe(spec)
    if not probe.available:
        return probe.detail
    return "TRITON_INTERPRET is set; unset it" if spec.device_type == "cpu" else None


def refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def run_tests(report: Path, *arguments: str) -> int:
    """Run pytest, without the plugins that a machine happens to have, and write the outcome of each test."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = (sys.executable, "-m", "pytest", *arguments, f"--junitxml={results}")
        status = subprocess.call(command, cwd=ROOT, env=environment)
        tests = outcomes(results) if results.is_file() else []
    write(report, {"exit status": status, "tests": tests})
    return status


def outcomes(results: Path) -> list[dict[str, Any]]:
    """Return the name, the outcome with its reason, and the measurements of each test."""
    tests = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
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
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
