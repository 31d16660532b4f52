"""How fast the CPU backend's operations are beside plain torch: each result is checked before it is timed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from unipruning_cpu.allocator import MALLOC_ENV, keep_freed_memory
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend
from unipruning_kernels import reference

STEP_SIZE, LEVEL, SUBSET, EXPONENT = 0.01, 0.001, 0.2, 0.35
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class WrongResultError(Exception):
    """An operation differs from its definition; no time is shown for it."""


@dataclass(frozen=True)
class Line:
    """One operation in one way: times in milliseconds, and how often the eager way fits into them."""

    operation: str
    way: str
    median: float
    p20: float
    p80: float
    ns_per_element: float
    ratio: float | None = None


class Case:
    """One matrix with everything the operations need."""

    def __init__(self, rows: int, cols: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows, self.cols, self.rank = rows, cols, max(1, int(LEVEL * rows * cols))
        self.weight = torch.randn(rows, cols, generator=generator)
        self.mean_square = torch.rand(cols, generator=generator) + 0.1
        # a few steps in, as in the middle of a search
        self.dual = self.weight.abs() * torch.rand(rows, cols, generator=generator) * 0.1


# the eager formulation: every intermediate is a matrix, the quantile comes from a random sample


def eager_state(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        case.weight.to(dtype),
        case.mean_square.to(dtype),
        case.dual.to(dtype),
        torch.zeros_like(case.dual, dtype=dtype),
    )


def eager_step(weight: Tensor, mean_square: Tensor, dual: Tensor, gamma: Tensor) -> None:
    rows, cols = weight.shape
    count = int(SUBSET * min(rows, cols))
    magnitude = weight.abs()
    column_sum = magnitude[torch.randperm(rows)[:count]].sum(dim=0)
    row_sum = magnitude[:, torch.randperm(cols)[:count]].sum(dim=1, keepdim=True)
    saliency = (magnitude / column_sum + magnitude / row_sum) * mean_square**EXPONENT
    saliency /= saliency.mean()
    dual += STEP_SIZE * (saliency - gamma)
    sample = dual.abs().flatten()[torch.randperm(dual.numel())[:100_000]].float()
    quantile = torch.quantile(sample, LEVEL)
    gamma.copy_(dual.sign() * (dual.abs() - quantile).clamp(min=0))


def eager_nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    groups = score.abs().view(-1, m)
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.topk(n, dim=1).indices, True).view(score.shape)


def eager_topk_mask(score: Tensor, keep: int) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.abs().topk(keep, dim=1).indices, True)


# the same through the nine operations: the whole step as `ria` uses it


def our_step(
    backend: CpuBackend, weight: Tensor, mean_square: Tensor, dual: Tensor, threshold: Tensor, rank: int
) -> None:
    factor = mean_square**EXPONENT
    rows, columns, weighted = backend.abs_sums(weight, factor)
    # the sum of S: each row's weighted sum over the row's sum, and the factor once a column
    mean = ((weighted.double() / rows).sum() + factor.double().sum()) / weight.numel()
    p = (factor / mean).float()
    backend.mirror_step(dual, weight, 1 / rows, p, p / columns, threshold, step_size=STEP_SIZE, rank=rank)


def check(backend: CpuBackend, case: Case, dtype: torch.dtype) -> None:
    """Compare every operation that is timed with its definition.

    Raises:
        WrongResultError: one of them differs.
    """
    weight = case.weight.to(dtype)
    for found, wanted in zip(
        backend.abs_sums(weight, case.mean_square), reference.abs_sums(weight.double(), case.mean_square), strict=True
    ):
        verify("abs_sums", torch.allclose(found, wanted.float(), rtol=1e-6, atol=0.0))
    sumsq = torch.zeros(case.cols)
    backend.accumulate_sumsq(weight, sumsq)
    verify("accumulate_sumsq", torch.allclose(sumsq, weight.double().square().sum(0).float(), rtol=1e-6, atol=0.0))
    duals, thresholds = [case.dual.clone() for _ in range(2)], [torch.tensor(1e-3) for _ in range(2)]
    r, p, q = case.mean_square.new_full((case.rows,), 0.5), case.mean_square, case.mean_square.flip(0)
    for step, dual, threshold in zip((backend.mirror_step, reference.mirror_step), duals, thresholds, strict=True):
        step(dual, weight, r, p, q, threshold, step_size=STEP_SIZE, rank=case.rank)
    verify("mirror_step", torch.equal(*duals) and torch.equal(*thresholds))
    score, keep, ties = case.dual, case.cols // 2, torch.tensor(3)
    verify("nm_mask", torch.equal(backend.nm_mask(score, 2, 4), reference.nm_mask(score, 2, 4)))
    verify("topk_mask", torch.equal(backend.topk_mask(score, keep), reference.topk_mask(score, keep)))
    cut = thresholds[0]
    verify(
        "threshold_mask",
        torch.equal(backend.threshold_mask(score, cut, ties), reference.threshold_mask(score, cut, ties)),
    )
    counts, prefix = [torch.zeros(2048, dtype=torch.int64) for _ in range(2)], torch.tensor(0, dtype=torch.int32)
    for histogram, into in zip((backend.magnitude_histogram, reference.magnitude_histogram), counts, strict=True):
        histogram(score, prefix, 0, into)
    verify("magnitude_histogram", torch.equal(*counts))
    proxes = [weight[: 1 << 6].clone() for _ in range(2)]
    for prox, w in zip((backend.nm_prox, reference.nm_prox), proxes, strict=True):
        prox(w, 0.2, 2, 4)
    verify("nm_prox", torch.equal(*proxes))


def verify(operation: str, right: bool) -> None:
    if not right:
        raise WrongResultError(f"{operation} differs from its definition, so nothing is timed")


def measure(operation: str, way: str, run: Callable[[], object], case: Case, repeat: int) -> Line:
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    p20, p80 = statistics.quantiles(times, n=5, method="inclusive")[::3]
    median = statistics.median(times)
    return Line(operation, way, median, p20, p80, median * 1e6 / (case.rows * case.cols))


def eager_runs(case: Case, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    state = eager_state(case, dtype)
    return {
        "step": lambda: eager_step(*state),
        "nm_mask 2:4": lambda: eager_nm_mask(state[2], 2, 4),
        "topk_mask 50%": lambda: eager_topk_mask(state[2], case.cols // 2),
    }


def our_runs(backend: CpuBackend, case: Case, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    weight, dual, threshold = case.weight.to(dtype), case.dual.clone(), torch.tensor(0.0)
    sumsq, counts, prefix = (
        torch.zeros(case.cols),
        torch.zeros(2048, dtype=torch.int64),
        torch.tensor(0, dtype=torch.int32),
    )
    return {
        "step": lambda: our_step(backend, weight, case.mean_square, dual, threshold, case.rank),
        "nm_mask 2:4": lambda: backend.nm_mask(case.dual, 2, 4),
        "topk_mask 50%": lambda: backend.topk_mask(case.dual, case.cols // 2),
        "abs_sums": lambda: backend.abs_sums(weight, case.mean_square),
        "accumulate_sumsq": lambda: backend.accumulate_sumsq(weight, sumsq),
        "threshold_mask": lambda: backend.threshold_mask(case.dual, torch.tensor(0.05), torch.tensor(3)),
        "magnitude_histogram": lambda: backend.magnitude_histogram(case.dual, prefix, 0, counts),
        "blend_scores": lambda: backend.blend_scores(case.dual, case.dual, 0.7),
        "nm_prox 2:4": lambda: backend.nm_prox(weight, 0.001, 2, 4),
    }


def backend_of(tier: str) -> CpuBackend:
    os.environ[NATIVE_ENV] = "1" if tier == "native" else "0"
    return CpuBackend()


def compare(case: Case, tiers: list[str], repeat: int) -> list[Line]:
    lines = []
    for name, dtype in DTYPES.items():
        eager = {
            operation: measure(operation, f"eager {name}", run, case, repeat)
            for operation, run in eager_runs(case, dtype).items()
        }
        lines += eager.values()
        for tier in tiers:
            backend = backend_of(tier)
            check(backend, case, dtype)
            for operation, run in our_runs(backend, case, dtype).items():
                line = measure(operation, f"{tier} {name}", run, case, repeat)
                ratio = eager[operation].median / line.median if operation in eager else None
                lines.append(replace(line, ratio=ratio))
    copy = torch.empty_like(case.weight)
    return [*lines, measure("copy", "torch fp32", lambda: copy.copy_(case.weight), case, repeat)]


def show(lines: list[Line], environment: dict[str, object]) -> None:
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    print(f"{'operation':20} {'way':14} {'median ms':>10} {'p20':>9} {'p80':>9} {'ns/element':>11} {'eager/this':>11}")
    for line in sorted(lines, key=lambda line: line.operation):
        ratio = f"{line.ratio:10.1f}x" if line.ratio else ""
        times = f"{line.median:10.2f} {line.p20:9.2f} {line.p80:9.2f} {line.ns_per_element:11.2f}"
        print(f"{line.operation:20} {line.way:14} {times} {ratio:>11}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--cols", type=int, default=4096, help="a multiple of 4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7, help="timed runs of each, at least 2, after one that is not")
    parser.add_argument("--tier", choices=["native", "portable", "both"], default="both")
    parser.add_argument(
        "--mallopt",
        action="store_true",
        help="let glibc keep freed memory, as the backend has it, which helps the eager side",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.cols % 4 or options.repeat < 2:
        parser.error("--cols is a multiple of 4 and --repeat at least 2")
    torch.set_num_threads(options.threads)
    if not options.mallopt:
        os.environ[MALLOC_ENV] = "system"  # the backend would set it for both sides
    environment: dict[str, object] = {
        "matrix": f"{options.rows}x{options.cols}",
        "torch": torch.__version__,
        "threads": options.threads,
        "malloc": keep_freed_memory(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
    }
    tiers = ["native", "portable"] if options.tier == "both" else [options.tier]
    try:
        lines = compare(Case(options.rows, options.cols), tiers, options.repeat)
    except WrongResultError as error:
        sys.exit(f"error: {error}")
    show(lines, environment)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"environment": environment, "lines": [asdict(line) for line in lines]}, file, indent=2)


if __name__ == "__main__":
    main()
