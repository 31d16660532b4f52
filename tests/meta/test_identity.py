"""The comparison of two versions' outputs: one case made twice is the same, and nothing that differs is passed over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "identity.py"
RECORD = {
    "schema": "unipruning-identity-1",
    "environment": {"unipruning_core": "abc", "torch": "1"},
    "results": {"llama/drift": {"dual": "12ab", "loss/0": 4.0, "loss/1": float("nan")}, "gpt2/drift": {"dual": "34cd"}},
}


def identity(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def compared(folder: Path, change: Callable[[dict[str, Any]], object]) -> subprocess.CompletedProcess[str]:
    """A record beside a changed copy of it."""
    changed = json.loads(json.dumps(RECORD))
    change(changed)
    for name, record in (("before", RECORD), ("after", changed)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    return identity("compare", folder / "before.json", folder / "after.json")


def test_what_is_made_is_every_file_and_number_of_a_case(tmp_path: Path) -> None:
    done = identity("make", tmp_path / "a.json", "--models", "tiny", "--only", "gpt2/frozen-wanda")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert set(results) == {"gpt2/given", "gpt2/frozen-wanda"}
    folders = ("50", "60", "60-row", "70-global", "2-4", "2-4+dense-at-45", "budget", "owl")
    files = {f"{folder}/{name}" for folder in folders for name in ("masks", "model.safetensors")}
    made = results["gpt2/frozen-wanda"]
    assert {name for name, value in made.items() if isinstance(value, str)} == {"dual", "inputs", *files}
    assert made["threshold/transformer.h.1.mlp.c_fc.weight"] > 0
    assert len({made[name] for name in files}) == len(files)


def test_the_same_is_the_same_whatever_made_it(tmp_path: Path) -> None:
    done = compared(tmp_path, lambda record: record["environment"].update(unipruning_core="def"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3].split() == ["all", "2", "2", "0"]
    assert done.stdout.splitlines()[4] == "beside the results differ: unipruning_core abc and def"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda results: results["llama/drift"].update(dual="56ef"), 'llama/drift/dual: "12ab" before, "56ef" after'),
        (lambda results: results["llama/drift"].update({"loss/0": 4.5}), "llama/drift/loss/0: 4.0 before, 4.5 after"),
        (lambda results: results["llama/drift"].pop("loss/1"), "llama/drift/loss/1: NaN before, nothing after"),
        (lambda results: results.pop("gpt2/drift"), 'gpt2/drift/dual: "34cd" before, nothing after'),
        (lambda results: results.update({"new": {"masks": "78"}}), 'new/masks: nothing before, "78" after'),
    ],
)
def test_a_difference_is_named_and_fails(change: Callable[[Any], object], says: str, tmp_path: Path) -> None:
    done = compared(tmp_path, lambda record: change(record["results"]))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2] == f"different: {says}"


def test_two_empty_records_are_no_proof(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps({**RECORD, "results": {}}))
    done = identity("compare", tmp_path / "empty.json", tmp_path / "empty.json")
    assert done.returncode == 2
    assert "make it anew" in done.stderr
