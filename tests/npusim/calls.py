"""Which aclnn functions each operation of the npu backend calls, and how often in one chunk.

calls.py SIMULATION writes golden_calls.json anew, so that a change in what reaches the card shows in the diff.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preload import preload

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

SHAPE = (64, 128)
NUMBERS = {"learning_rate": 1e-4, "exponent": 1.0, "pull": 0.0075}
GOLDEN = Path(__file__).with_name("golden_calls.json")


def cases(backend: Backend) -> dict[str, Callable[[], Any]]:
    """One call of each operation that is a single chunk, on a bfloat16 weight where it takes one."""
    import torch

    rng = torch.Generator().manual_seed(7)
    normal, dual = torch.rand(2, *SHAPE, generator=rng)
    score, weight, dual = normal.npu(), normal.bfloat16().npu(), dual.npu()
    r, p = torch.rand(SHAPE[0], generator=rng).npu(), torch.rand(SHAPE[1], generator=rng).npu()
    tau, prefix = torch.tensor(0.5).npu(), torch.tensor(3, dtype=torch.int32).npu()
    moment, second, sample = weight.clone(), weight.square(), torch.empty(SHAPE[0] * SHAPE[1] // 16).npu()
    kept = torch.full((SHAPE[0], SHAPE[1] // 8), 85, dtype=torch.uint8).npu()
    drift, gradient = (torch.randn(SHAPE, generator=rng).to(dtype).npu() for dtype in (torch.float16, torch.bfloat16))
    nothing = weight[:0], second[:0], drift[:0]
    ties, counts = torch.tensor(5).npu(), torch.zeros(1024, dtype=torch.int64).npu()

    def step(rank: int | None, **options: Any) -> Callable[[], None]:
        return lambda: backend.mirror_step(dual, weight, r, p, p, tau, step_size=0.01, rank=rank, **options)

    def mask(pattern: tuple[int, int] | None) -> Callable[[], Any]:
        state = weight, second, drift, r, p, p, tau, sample
        return lambda: backend.mask_weight(*state, **NUMBERS, first=0, stride=16, pattern=pattern)

    return {
        "accumulate_sumsq": lambda: backend.accumulate_sumsq(weight, p),
        "abs_sums": lambda: backend.abs_sums(weight, p[None], r[None]),
        "mirror_step": step(None),
        "mirror_step with a gradient": step(None, gradient=weight, phi=1.0),
        "mirror_step with a weighed gradient": step(None, gradient=weight, phi=0.5),
        "mirror_step with a rank": step(100),
        "feedback_scores": lambda: backend.feedback_scores(weight, second, drift, r, p, p, **NUMBERS),
        "feedback_scores without rows": lambda: backend.feedback_scores(*nothing, r[:0], p, p, **NUMBERS),
        "mask_weight": mask(None),
        "mask_weight 2:4": mask((2, 4)),
        "mask_weight without rows": lambda: backend.mask_weight(
            *(*nothing, r[:0], p, p, tau, sample[:0]), **NUMBERS, first=0, stride=16, pattern=(2, 4)
        ),
        "remask_weight": lambda: backend.remask_weight(weight, drift, kept, learning_rate=1e-4),
        "remask_weight without rows": lambda: backend.remask_weight(*nothing[::2], kept[:0], learning_rate=1e-4),
        "feedback_step": lambda: backend.feedback_step(second, drift, gradient, tau, decay=0.05),
        "feedback_step without rows": lambda: backend.feedback_step(*nothing[1:], gradient[:0], tau, decay=0.05),
        "magnitude_histogram": lambda: backend.magnitude_histogram(score, prefix, 1, counts),
        "threshold_mask": lambda: backend.threshold_mask(score, tau, ties),
        "topk_mask": lambda: backend.topk_mask(score, 10),
        "nm_mask 2:4": lambda: backend.nm_mask(score, 2, 4),
        "nm_prox 2:4": lambda: backend.nm_prox(weight, 0.1, 2, 4),
        "adamw_step": lambda: backend.adamw_step(
            *(weight, weight, moment, dual, tau), step=1, learning_rate=0.1, betas=(0.9, 0.999), epsilon=1e-10
        ),
    }


def trace(call: Callable[[], Any]) -> list[str]:
    """The lines of what reaches the card: a name, and behind tabs each operand's address and bytes, the last first."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.npu.synchronize()
        os.environ["NPUSIM_TRACE"] = str(Path(folder) / "trace")
        Path(os.environ["NPUSIM_TRACE"]).touch()
        try:
            call()
            torch.npu.synchronize()
            return Path(os.environ["NPUSIM_TRACE"]).read_text(encoding="utf-8").splitlines()
        finally:
            os.environ["NPUSIM_TRACE"] = "0"


def traced(call: Callable[[], Any]) -> dict[str, int]:
    """Names in the order of their first call, with how often each was called."""
    counts: dict[str, int] = {}
    for line in trace(call):
        name = line.split("\t")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts


def measure() -> dict[str, dict[str, int]]:
    from unipruning_npu.backend import NpuBackend

    return {name: traced(call) for name, call in cases(NpuBackend()).items()}


if __name__ == "__main__":
    preload(sys.argv[1])
    GOLDEN.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
