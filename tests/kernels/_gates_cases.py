"""What the gates measure: each operation on a matrix, and the least memory traffic it can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unipruning_kernels import (
    triton_adamw,
    triton_feedback,
    triton_histogram,
    triton_nm,
    triton_pack,
    triton_prox,
    triton_score,
    triton_step,
    triton_sums,
    triton_threshold,
    triton_topk,
)
from unipruning_kernels.triton_launch import Launcher

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One operation as a model calls it."""

    name: str
    call: Callable[[Launcher, Tensors], object]
    least: float  # bytes a weight that must be read or written
    loops: int = 1  # rounds of an inner loop that touches no memory


def cases() -> Iterator[Case]:
    """Every operation, in the variants that compile to different code."""
    yield Case("accumulate_sumsq", lambda go, t: triton_sums.accumulate_sumsq(go, t["weight"], t["q"]), 2)
    yield Case("abs_sums", lambda go, t: triton_sums.abs_sums(go, t["weight"], t["p"][None], t["r"][None]), 2)
    yield Case("mirror_step", lambda go, t: _step(go, t), 10)
    yield Case("mirror_step gradient", lambda go, t: _step(go, t, gradient=t["gradient"]), 12)
    yield Case("feedback_scores", lambda go, t: _scores(go, t), 10)
    yield Case("feedback_scores power", lambda go, t: _scores(go, t, exponent=0.5), 10)
    yield Case("mask_weight", lambda go, t: _mask(go, t), 8.125)
    yield Case("mask_weight power", lambda go, t: _mask(go, t, exponent=0.5), 8.125)
    yield Case(
        "remask_weight",
        lambda go, t: triton_feedback.remask_weight(go, t["weight"], t["drift"], t["bits"], learning_rate=0.1),
        6.125,
    )
    yield Case("feedback_step", lambda go, t: _feedback_step(go, t), 10)
    for level in range(3):
        yield Case(f"magnitude_histogram {level}", lambda go, t, level=level: _histogram(go, t, level), 4)
    yield Case("threshold_mask", lambda go, t: _threshold(go, t), 5)
    yield Case("topk_mask", lambda go, t: triton_topk.topk_mask(go, t["score"], t["score"].shape[1] // 2), 5, loops=10)
    for n, m in ((2, 4), (4, 8), (8, 16), (16, 32)):
        yield Case(f"nm_mask {n}:{m}", lambda go, t, n=n, m=m: triton_nm.nm_mask(go, t["score"], n, m), 5)
    yield Case("mask_weight 2:4", lambda go, t: _mask(go, t, pattern=(2, 4)), 10 + 5 + 9.125)
    for n, m in ((1, 4), (2, 4), (4, 8)):
        yield Case(
            f"nm_prox {n}:{m}", lambda go, t, n=n, m=m: triton_prox.nm_prox(go, t["weight"], 0.3, n, m), 4, loops=4
        )
    yield Case("adamw_step", lambda go, t: _adamw(go, t), 18)
    yield Case("apply_and_pack", lambda go, t: triton_pack.apply_and_pack(go, t["weight"], t["score"] > 0), 5.125)


def tensors(shape: tuple[int, int], device: str) -> Tensors:
    """Inputs of every case; on the meta device they have no values and take no memory."""
    rng = torch.Generator("cpu").manual_seed(7)

    def make(*size: int) -> Tensor:
        return torch.empty(size, device=device) if device == "meta" else torch.rand(size, generator=rng, device=device)

    height, width = shape
    large = {name: make(height, width) for name in ("dual", "score", "weight", "gradient", "moment")}
    small = {name: make(size) for name, size in (("r", height), ("p", width), ("q", width))}
    for name in ("weight", "gradient", "moment"):
        large[name] = large[name].to(torch.bfloat16)
    large["drift"] = large["gradient"].to(torch.float16)
    large["bits"] = torch.full((height, -(-width // 8)), 0b01010101, dtype=torch.uint8, device=device)
    return large | small


def _step(launch: Launcher, t: Tensors, gradient: Tensor | None = None) -> None:
    threshold = torch.full((), 0.5, device=t["dual"].device)
    rank = t["dual"].numel() // 2
    arguments = t["dual"], t["weight"], t["r"], t["p"], t["q"], threshold
    triton_step.mirror_step(launch, *arguments, step_size=0.001, rank=rank, gradient=gradient, phi=0.1)


def _feedback_state(t: Tensors) -> tuple[Tensor, ...]:
    return t["weight"], t["moment"], t["drift"], t["r"], t["p"], t["q"]


def _scores(launch: Launcher, t: Tensors, exponent: float = 1.0) -> None:
    numbers = {"learning_rate": 0.1, "exponent": exponent, "pull": 0.5}
    triton_score.feedback_scores(launch, *_feedback_state(t), **numbers)


def _mask(launch: Launcher, t: Tensors, exponent: float = 1.0, pattern: tuple[int, int] | None = None) -> None:
    stride = 509
    threshold = torch.full((), 0.5, device=t["weight"].device)
    sample = torch.empty(-(-t["weight"].numel() // stride), device=t["weight"].device)
    numbers = {"learning_rate": 0.1, "exponent": exponent, "pull": 0.5}
    arguments = *_feedback_state(t), threshold, sample
    triton_feedback.mask_weight(launch, *arguments, first=0, stride=stride, pattern=pattern, **numbers)


def _feedback_step(launch: Launcher, t: Tensors) -> None:
    rate = torch.full((), 0.5, device=t["weight"].device)
    triton_feedback.feedback_step(launch, t["moment"], t["drift"], t["gradient"], rate, decay=0.05)


def _histogram(launch: Launcher, t: Tensors, level: int) -> None:
    score = t["score"]
    counts = torch.zeros(2 ** triton_histogram.DIGIT_BITS[level], dtype=torch.int64, device=score.device)
    # the digits of 0.75, among which a real prefix's share of the scores lies
    prefix = torch.full((), 0x3F400000 >> (20, 20, 10)[level], dtype=torch.int32, device=score.device)
    triton_histogram.magnitude_histogram(launch, score, prefix, level, counts)


def _threshold(launch: Launcher, t: Tensors) -> None:
    device = t["score"].device
    threshold = torch.full((), 0.5, device=device)
    triton_threshold.threshold_mask(launch, t["score"], threshold, torch.ones((), dtype=torch.int64, device=device))


def _adamw(launch: Launcher, t: Tensors) -> None:
    scale = torch.full((), 0.5, device=t["dual"].device)
    tensors = t["weight"], t["gradient"], t["moment"], t["dual"], scale
    triton_adamw.adamw_step(launch, *tensors, step=3, learning_rate=1e-4, betas=(0.9, 0.999), epsilon=1e-10)
