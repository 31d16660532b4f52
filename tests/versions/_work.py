"""What each version of transformers does: python _work.py make|prune FOLDER."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "families"))

from _making import CAUSAL, Family, make, save_text

from unipruning_core.cli.main import main

EXPECTED = json.loads((HERE / "expected.json").read_text())  # by family, or by family and mode
FAMILIES = tuple(name for name in EXPECTED if " " not in name)
MODES = ("frozen", "feedback")
SPARSITIES = ("60%/global", "50%/row", "2:4")


def save(folder: Path) -> None:
    """Save the checkpoints, as the oldest version lays them out and every later one reads them."""
    for name in FAMILIES:
        make(Family(name, CAUSAL), folder / name)
    save_text(folder / "text.jsonl")


def prune(models: Path, folder: Path) -> None:
    """Search each checkpoint in both modes, project, and write down the exit codes."""
    codes = {}
    data = ["--data", str(models / "text.jsonl"), "--samples", "4", "--seq-len", "64", "--backend", "cpu"]
    sparsities = [word for sparsity in SPARSITIES for word in ("--sparsity", sparsity)]
    for name in FAMILIES:
        for mode in MODES:
            model, run, out = str(models / name), str(folder / "runs" / name / mode), str(folder / name / mode)
            search = ["search", model, "--out", run, "--mode", mode, *data]
            project = ["project", model, run, "--out", out, "--backend", "cpu", *sparsities]
            codes[f"{name} {mode}"] = next((code for words in (search, project) if (code := _code(words))), 0)
    (folder / "codes.json").write_text(json.dumps(codes))


def _code(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:  # of any kind: it counts as a fault
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    what, *folders = sys.argv[1:]
    {"make": save, "prune": prune}[what](*map(Path, folders))
