"""Hold the npu backend to the contract on the simulation: a few groups of cases a process, and where one fails each of
them again by itself, so that a failure that poisons the next is told from it.

conform.py SIMULATION [--soc NAME ...] [--group NAME ...] [--processes N]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOCS = ("Ascend910B2", "Ascend950")
# each what the names of its cases start with; that every case is in exactly one group is checked by counting
GROUPS = (
    "manifest",
    "accumulate_sumsq",
    "abs_sums",
    "mirror_step",
    "feedback",
    "mask_weight",
    "remask_weight",
    "magnitude_histogram",
    "threshold_mask",
    "topk_mask",
    "nm_mask",
    "nm_prox",
    "adamw_step",
    "search selection sums_repeat masks_repeat",
)
TOGETHER = 3  # groups of a process, which takes seconds to start
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from preload import preload
preload(sys.argv[2])
from unipruning_core.testing.runner import run
sys.exit(run("npu", ["-q", "-k", " or ".join("test_" + name + "_" for name in sys.argv[3].split())]))
"""


def conform(folder: Path, soc: str, groups: Sequence[str]) -> tuple[int, dict[str, int]]:
    """pytest's exit status and the counts of its closing line, for some groups in one process on one chip."""
    environment = {**os.environ, "NPUSIM_SOC": soc, "TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), " ".join(groups)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    closing = done.stdout.strip().splitlines()[-1:] or [""]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", closing[0])}
    output = done.stdout + done.stderr if done.returncode else ""
    sys.stdout.write(f"{output}{soc} {', '.join(groups)}: {counts.get('passed', 0)} passed\n")
    sys.stdout.flush()
    return done.returncode, counts


def hold(folder: Path, soc: str, groups: Sequence[str], processes: int) -> bool:
    """All groups on one chip; every case must have run and passed."""
    batches = [groups[start : start + TOGETHER] for start in range(0, len(groups), TOGETHER)]
    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(lambda batch: conform(folder, soc, batch), batches))
    for batch, (status, _) in zip(batches, results, strict=True):
        if status and len(batch) > 1:
            sys.stdout.write(f"{soc}: a failure among {', '.join(batch)}; each of them by itself:\n")
            for group in batch:
                conform(folder, soc, [group])
    passed = sum(counts.get("passed", 0) for _, counts in results)
    # of the last one, which has deselected what the others ran
    words = ("passed", "failed", "skipped", "error", "errors", "deselected")
    total = sum(results[-1][1].get(word, 0) for word in words)
    sys.stdout.write(f"{passed} passed of {total} cases on {soc}\n")
    whole = passed == total or tuple(groups) != GROUPS
    return whole and not any(status for status, _ in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("simulation", type=Path, help="the folder build.sh has built")
    parser.add_argument("--soc", nargs="+", default=SOCS)
    parser.add_argument("--group", nargs="+", default=GROUPS)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once")
    arguments = parser.parse_args()
    # every chip is held, whether or not one before it failed
    held = [
        hold(arguments.simulation, soc, tuple(arguments.group), max(1, arguments.processes)) for soc in arguments.soc
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
