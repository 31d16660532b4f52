"""Benchmark cases: an operation, a shape and a dtype each, with inputs from one seeded factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS, Backend
from unipruning_core.search.adamw import BETAS, EPSILON
from unipruning_core.search.metrics import METRICS
from unipruning_core.search.saliency import Saliency

ADAMW: dict[str, Any] = {"step": 3, "learning_rate": 1e-4, "betas": BETAS, "epsilon": EPSILON}
STEP_SIZE, QUANTILE, STRENGTH, PATTERN = 0.01, 0.001, 0.01, (2, 4)
FEEDBACK: dict[str, Any] = {"learning_rate": 1e-4, "exponent": 1.0, "pull": 0.0075}
STRIDE = 509  # of the scores drawn for the next threshold
# operations whose definition is slow on a large matrix and works row by row: the number of rows to check
SAMPLED_ROWS = {"nm_prox": 256}


@dataclass(frozen=True)
class Case:
    """One operation of the contract, or a whole step, on one matrix."""

    operation: str
    rows: int
    cols: int
    dtype: torch.dtype  # of weights and activations; scores and duals are float32

    @property
    def shape(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def least_bytes(self) -> float:
        """The minimum bytes per element for any implementation: inputs read once, outputs written once."""
        return OPERATION_KINDS[self.operation].least(self)


class Inputs:
    """Seeded tensors for one shape and dtype, on the host, with values as a few steps into a search."""

    def __init__(self, rows: int, cols: int, dtype: torch.dtype) -> None:
        self.rows, self.cols = rows, cols
        rng = torch.Generator().manual_seed(rows * 1_000_003 + cols)
        full = torch.randn(rows, cols, generator=rng)
        self.weight = full.to(dtype, copy=True)  # (out, in)
        self.norm = torch.rand(cols, generator=rng) + 0.1  # (in,), float32
        self.row_factor = torch.rand(rows, generator=rng)  # (out,), float32
        # |W| times a random factor: distributed like a dual, with no ties but those of float32
        self.dual = full.abs_().mul_(torch.rand(rows, cols, generator=rng)).mul_(0.1)  # (out, in), float32

    @cached_property
    def threshold(self) -> Tensor:
        """0-D, float32: a value near the median of the dual."""
        return self.dual.flatten()[:100_001].median()

    @property
    def rank(self) -> int:
        return max(1, int(QUANTILE * self.rows * self.cols))


Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and options of one call, tensors on the host


@dataclass(frozen=True)
class Kind:
    """How an operation is called, and its minimum bytes per element."""

    least: Callable[[Case], float]
    call: Callable[[Inputs], Call] | None = None  # None for a step, which is several calls
    metric: str | None = None  # for a step
    drifts: bool = False  # a step that also moves the weights along a gradient


def _mirror_call(i: Inputs) -> Call:
    options = {"step_size": STEP_SIZE, "rank": i.rank}
    return (i.dual, i.weight, i.row_factor, i.norm, i.norm.flip(0), torch.tensor(1e-3)), options


def _histogram_call(i: Inputs) -> Call:
    counts = torch.zeros(2 ** DIGIT_BITS[0], dtype=torch.int64)
    return (i.dual, torch.tensor(0, dtype=torch.int32), 0, counts), {}


def _sums_call(i: Inputs) -> Call:
    return (i.weight, torch.stack([torch.ones_like(i.norm), i.norm]), torch.ones(1, i.rows)), {}


def _feedback_state(i: Inputs) -> tuple[Tensor, ...]:
    """Return W, v, U, r, p and q."""
    drift = i.dual.flip(1).mul(20.0).half()
    return i.weight, i.dual.square().bfloat16(), drift, i.row_factor, i.norm, i.norm.flip(0)


def _mask_call(i: Inputs) -> Call:
    sample = torch.zeros(-(-i.rows * i.cols // STRIDE))
    return (*_feedback_state(i), i.threshold, sample), {**FEEDBACK, "first": 0, "stride": STRIDE, "pattern": None}


def _remask_call(i: Inputs) -> Call:
    kept = torch.full((i.rows, -(-i.cols // 8)), 0b01010101, dtype=torch.uint8)
    return (i.weight, _feedback_state(i)[2], kept), {"learning_rate": FEEDBACK["learning_rate"]}


def _feedback_step_call(i: Inputs) -> Call:
    _, second, drift, *_ = _feedback_state(i)
    return (second, drift, i.weight.flip(0), torch.tensor(0.5)), {"decay": 0.05}


def _step_least(case: Case) -> float:
    return 8.0 + 2 * case.dtype.itemsize


def _adamw_call(i: Inputs) -> Call:
    gradient, scale = i.weight.flip(0), torch.tensor(0.5)
    return (i.weight, gradient, gradient.flip(1), i.dual.square(), scale), ADAMW


def _adamw_least(case: Case) -> float:
    # W and the first moment read and written, the gradient read; the second moment is float32
    return 8.0 + 5 * case.dtype.itemsize


def _drift_least(case: Case) -> float:
    return _step_least(case) + case.dtype.itemsize + _adamw_least(case)


OPERATION_KINDS = {
    "step ria": Kind(_step_least, metric="ria"),
    "step stochria": Kind(_step_least, metric="stochria"),
    "step drift": Kind(_drift_least, metric="stochria", drifts=True),
    "accumulate_sumsq": Kind(lambda c: c.dtype.itemsize, lambda i: ((i.weight, torch.zeros(i.cols)), {})),
    "abs_sums": Kind(lambda c: c.dtype.itemsize, _sums_call),
    "mirror_step": Kind(lambda c: 8 + c.dtype.itemsize, _mirror_call),
    "feedback_scores": Kind(lambda c: 8 + c.dtype.itemsize, lambda i: (_feedback_state(i), FEEDBACK)),
    "mask_weight": Kind(lambda c: 4 + 1 / 8 + 2 * c.dtype.itemsize, _mask_call),
    "remask_weight": Kind(lambda c: 2 + 1 / 8 + 2 * c.dtype.itemsize, _remask_call),
    "feedback_step": Kind(lambda c: 8 + c.dtype.itemsize, _feedback_step_call),
    "magnitude_histogram": Kind(lambda _: 4, _histogram_call),
    "threshold_mask": Kind(lambda _: 5, lambda i: ((i.dual, i.threshold, torch.tensor(3)), {})),
    "topk_mask": Kind(lambda _: 5, lambda i: ((i.dual, i.cols // 2), {})),
    "nm_mask": Kind(lambda _: 5, lambda i: ((i.dual, *PATTERN), {})),
    "nm_prox": Kind(lambda c: 2 * c.dtype.itemsize, lambda i: ((i.weight, STRENGTH, *PATTERN), {})),
    "adamw_step": Kind(_adamw_least, _adamw_call),
}


def parts_of(operation: str) -> tuple[str, ...]:
    """Return the contract's operations to compare with the reference before this one is timed."""
    kind = OPERATION_KINDS[operation]
    if kind.call is not None:
        return (operation,)
    return ("abs_sums", "mirror_step", "adamw_step") if kind.drifts else ("abs_sums", "mirror_step")


def calls_of(operation: str, inputs: Inputs) -> list[tuple[str, Call]]:
    """Return those operations, each with its arguments."""
    calls = []
    for part in parts_of(operation):
        make = OPERATION_KINDS[part].call
        if make is None:
            raise ValueError(f"{part!r} is a step, not an operation of the contract")
        calls.append((part, make(inputs)))
    return calls


def ready(operation: str, inputs: Inputs, backend: Backend) -> Callable[[], object]:
    """Bind the operation to inputs on the device, to be run any number of times; in-place updates accumulate."""
    device = backend.device_type
    kind = OPERATION_KINDS[operation]
    if kind.metric is not None:
        weight = inputs.weight.to(device, copy=True)
        step = _ready_step(kind.metric, weight, inputs, backend)
        if not kind.drifts:
            return step
        drift = _ready_drift(weight, inputs, backend)
        return lambda: (step(), drift())
    _, (arguments, options) = calls_of(operation, inputs)[0]
    placed = [value.to(device, copy=True) if isinstance(value, Tensor) else value for value in arguments]
    work = getattr(backend, operation)
    return lambda: work(*placed, **options)


def _ready_step(name: str, weight: Tensor, inputs: Inputs, backend: Backend) -> Callable[[], object]:
    norm, dual = (t.to(backend.device_type, copy=True) for t in (inputs.norm, inputs.dual))
    threshold, saliency = (
        torch.zeros((), device=backend.device_type),
        Saliency(METRICS[name], [weight], [0], backend, 0),
    )

    def step() -> None:
        f = saliency.of_sample(norm[None], 0)
        backend.mirror_step(dual, weight, f.r[0], f.p[0], f.q[0], threshold, step_size=STEP_SIZE, rank=inputs.rank)

    return step


def _ready_drift(weight: Tensor, inputs: Inputs, backend: Backend) -> Callable[[], object]:
    """Bind what ``drift`` does with the gradient of a one-matrix model: clip by its norm, then AdamW."""
    (_, gradient, first, second, _), options = _adamw_call(inputs)
    gradient, first, second = (t.to(backend.device_type) for t in (gradient, first, second))

    def drift() -> None:
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        backend.adamw_step(weight, gradient, first, second, (1.0 / (norm + 1e-6)).clamp(max=1.0), **options)

    return drift
