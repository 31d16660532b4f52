"""Hold the npu backend to the contract on the simulation: one process a chip and group of cases, so that a failure in
one cannot poison the next.

conform.py SIMULATION [--soc NAME ...] [--group NAME ...]
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
    "blend_scores",
    "magnitude_histogram",
    "threshold_mask",
    "topk_mask",
    "nm_mask",
    "nm_prox",
    "adamw_step",
    "search selection sums_repeat masks_repeat",
)
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from preload import preload
preload(sys.argv[2])
from unipruning_core.testing.runner import run
sys.exit(run("npu", ["-q", "-k", " or ".join("test_" + name + "_" for name in sys.argv[3].split())]))
"""


def conform(folder: Path, soc: str, group: str) -> tuple[int, dict[str, int]]:
    """pytest's exit status and the counts of its closing line, for one group on one chip."""
    environment = {**os.environ, "NPUSIM_SOC": soc, "TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), group]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
    closing = done.stdout.strip().splitlines()[-1:] or [""]
    return done.returncode, {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", closing[0])}


def hold(folder: Path, soc: str, groups: Sequence[str]) -> bool:
    """All groups on one chip; every case must have run and passed."""
    total, passed, statuses = 0, 0, []
    # a process a group and a thread a processor that waits for it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda group: conform(folder, soc, group), groups)
        for group, (status, counts) in zip(groups, results, strict=True):
            statuses.append(status)
            passed += counts.get("passed", 0)
            words = ("passed", "failed", "skipped", "error", "errors", "deselected")
            total = sum(counts.get(word, 0) for word in words)
            sys.stdout.write(f"{soc} {group}: {counts.get('passed', 0)} passed\n")
            sys.stdout.flush()
    whole = passed == total or tuple(groups) != GROUPS
    sys.stdout.write(f"{soc}: {passed} of {total} cases passed\n")
    return whole and not any(statuses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("simulation", type=Path, help="the folder build.sh has built")
    parser.add_argument("--soc", nargs="+", default=SOCS)
    parser.add_argument("--group", nargs="+", default=GROUPS)
    arguments = parser.parse_args()
    # every chip is held, whether or not one before it failed
    held = [hold(arguments.simulation, soc, tuple(arguments.group)) for soc in arguments.soc]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
