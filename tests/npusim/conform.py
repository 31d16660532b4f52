"""Hold the npu backend to the contract on the simulation: one process a chip and group of cases, so that a failure in
one cannot poison the next.

conform.py SIMULATION [--soc NAME ...] [--operation NAME ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

SOCS = ("Ascend910B2", "Ascend950")
# each a prefix of the names of the cases; a case that no group takes is caught by comparing the counts
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
    "search or selection or sums_repeat or masks_repeat",
)
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from preload import preload
preload(sys.argv[2])
from unipruning_core.testing.runner import run
sys.exit(run("npu", ["-q", "-k", sys.argv[3]]))
"""


def conform(folder: Path, soc: str, group: str) -> tuple[int, str]:
    """pytest's exit status and closing line for one group on one chip."""
    environment = {**os.environ, "NPUSIM_SOC": soc, "TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), group]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
    return done.returncode, lines[-1] if lines else "no output"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("simulation", type=Path, help="the folder build.sh has built")
    parser.add_argument("--soc", nargs="+", default=SOCS)
    parser.add_argument("--group", nargs="+", default=GROUPS)
    arguments = parser.parse_args()
    failed = 0
    for soc in arguments.soc:
        for group in arguments.group:
            status, summary = conform(arguments.simulation, soc, group)
            failed += status != 0
            sys.stdout.write(f"{soc} {group}: {summary}\n")
            sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
