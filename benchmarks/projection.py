"""A projection beside copying the checkpoint and one pass of selection over its scores.

    python benchmarks/projection.py MODEL RUN [--sparsity 60%] [--times 3]

Seconds elapsed and of the processor, of all threads, and the peak of memory above what the process held before.  What
is copied is synced to disk, as what a projection writes is.  RUN is a run folder of MODEL; of a checkpoint without one,
``unipruning search MODEL --mode frozen --metric magnitude --samples 1 --out RUN`` makes it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import times
from pathlib import Path

import torch

from unipruning_core.jobs.results import project
from unipruning_core.search.run_folder import Run
from unipruning_core.selection.radix import kth_largest
from unipruning_cpu.backend import CpuBackend


@contextmanager
def timed(name: str, elapsed: dict[str, float]) -> Iterator[None]:
    """Print what the block took, of the processor its children's time too."""
    began, before = time.perf_counter(), sum(times()[:4])
    yield
    elapsed[name] = time.perf_counter() - began
    print(f"{name:14} {elapsed[name]:7.2f} s, processor {sum(times()[:4]) - before:7.2f} s", flush=True)


def select(run: Run, ratio: float) -> None:
    """Read every score, and find the threshold and the mask of its matrix."""
    backend = CpuBackend()
    for target in run.targets:
        score = run.score(target.name)
        found = kth_largest(lambda held=score: [held], round(score.numel() * (1 - ratio)), backend)
        backend.threshold_mask(score, found.threshold, torch.tensor(found.ties_per_tensor[0]))


def memory(field: str) -> int:
    """Return a line of the process's status in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sparsity", default="60%")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run, shares = Run.open(options.run), []
    for _ in range(options.times):
        with tempfile.TemporaryDirectory(dir=options.run.parent) as folder:
            elapsed: dict[str, float] = {}
            copy, out = Path(folder, "copy"), Path(folder, "out")
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before = memory("VmRSS")
            with timed("project", elapsed):
                project(options.model, options.run, sparsity=options.sparsity, out=out, progress=False)
            print(f"peak {memory('VmHWM') - before} MiB above {before}")
            shutil.rmtree(out)
            with timed("cp and sync", elapsed):
                subprocess.run(["cp", "-r", options.model, copy], check=True)
                subprocess.run(["sync", "-f", copy], check=True)
            with timed("selection", elapsed):
                select(run, 0.6)
            shares.append((elapsed["cp and sync"] + elapsed["selection"]) / elapsed["project"])
            print(f"share {shares[-1]:.2f}", flush=True)
    print(f"share of cp and selection in the time of a projection, median: {sorted(shares)[len(shares) // 2]:.2f}")


if __name__ == "__main__":
    main()
