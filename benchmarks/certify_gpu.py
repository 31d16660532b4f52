"""Certify a GPU: the tests that need one, doctor and bench on it, into one folder of JSON to attach to a report."""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit with 0 where all is right, 1 where something is wrong, and 2 where nothing can be certified."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "certificate", help="a new folder")
    parser.add_argument("--model", default="llama-2-7b", help="whose layers are measured (default: %(default)s)")
    options = parser.parse_args(arguments)
    if missing := why_no_gpu():
        return refuse(f"a certificate needs a GPU that the backend {BACKEND} can use, but {missing}")
    if options.out.exists():
        return refuse(f"{options.out} already exists; give another folder with --out, or remove it")
    options.out.mkdir(parents=True)
    bench = (*UNIPRUNING, "bench", "--backend", BACKEND, "--baseline", "released", "--model", options.model)
    statuses = {
        "tests": run_tests(options.out / "tests.json", "-m", "gpu", "tests/gpu"),
        "doctor": subprocess.call((*UNIPRUNING, "doctor", "--json", str(options.out / "doctor.json"))),
        "bench": subprocess.call((*bench, "--json", str(options.out / "bench.json"))),
    }
    ok = not any(statuses.values())
    write(options.out / SUMMARY, {"schema": SCHEMA, "ok": ok, "exit statuses": statuses})
    print(f"\n{'all is right' if ok else 'something is wrong'}; attach the folder {options.out}")
    return 0 if ok else 1


def why_no_gpu() -> str | None:
    catalogue = Catalogue()
    spec = catalogue.specs[BACKEND]
    probe = catalogue.probe(spec)
    if not probe.available:
        return probe.detail
    return "TRITON_INTERPRET is set; unset it" if spec.device_type == "cpu" else None


def refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def run_tests(report: Path, *words: str) -> int:
    """Run pytest, without the plugins that a machine happens to have, and write what became of each test."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        status = subprocess.call(
            (sys.executable, "-m", "pytest", *words, f"--junitxml={results}"), cwd=ROOT, env=environment
        )
        tests = outcomes(results) if results.is_file() else []
    write(report, {"exit status": status, "tests": tests})
    return status


def outcomes(results: Path) -> list[dict[str, Any]]:
    """Of each test its name, what became of it and why, and what it measured."""
    found = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        ended = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        found.append(
            {
                "test": case.get("name"),
                "outcome": "passed" if ended is None else ended.tag,
                "why": None if ended is None else without_paths(ended.get("message", "")),
                "seconds": float(case.get("time", 0)),
                "measured": {part.get("name"): part.get("value") for part in case.iter("property")},
            }
        )
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
