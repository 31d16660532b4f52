"""What the tests of the certificate of a GPU share."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ["conformance", "doctor", "tests", "cost-llama-2-7b", "cost-smollm2-135m", "bench"]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result_of(out):
    found = json.loads((out / "certificate.json").read_text())
    return found["ok"], {name: part["result"] for name, part in found["parts"].items()}
