"""The CUDA backend on matrices of more than 2^31 weights, whose offsets do not fit into 32 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.backend import Backend
from unipruning_core.registry import Catalogue
from unipruning_kernels import reference

pytestmark = pytest.mark.gpu

COLUMNS = 2**14
ROWS = 2**17 + 3
TAIL = 2  # rows at the very end, all of them past 2^31
GIB = 2**30
ADAMW = {"step": 3, "learning_rate": 1e-3, "betas": (0.9, 0.999), "epsilon": 1e-10}
FEEDBACK = {"learning_rate": 2.0**-6, "exponent": 1.0, "pull": 0.125}


@pytest.fixture
def backend() -> Backend:
    return Catalogue().select("cuda")


def need(gibibytes: int) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    if free < gibibytes * GIB:
        pytest.skip(f"a matrix past 2^31 weights takes {gibibytes} GiB here, but {free / GIB:.1f} GiB are free")


def zeros_but_the_tail(dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A matrix on the device, and the part of it that is not zero on the host."""
    tail = torch.randn(TAIL, COLUMNS, generator=torch.Generator().manual_seed(seed)).to(dtype)
    whole = torch.zeros(ROWS, COLUMNS, dtype=dtype, device="cuda")
    whole[-TAIL:] = tail.cuda()
    return whole, tail


@pytest.mark.parametrize(
    ("operation", "arguments"), [("nm_mask", (2, 4)), ("nm_mask", (2, 5)), ("topk_mask", (COLUMNS // 2,))], ids=str
)
def test_masks_reach_the_last_row(backend: Backend, operation: str, arguments: tuple[int, ...]) -> None:
    need(20)
    score, tail = zeros_but_the_tail()
    if arguments == (2, 5):
        score, tail = score[:, :-4], tail[:, :-4]
    mask = getattr(backend, operation)(score, *arguments)
    assert torch.equal(mask[-TAIL:].cpu(), getattr(reference, operation)(tail, *arguments))


def test_threshold_mask_counts_ties_to_the_last_row(backend: Backend) -> None:
    need(24)
    score, tail = zeros_but_the_tail()
    nothing = torch.zeros((), device="cuda")
    zeros = (ROWS - TAIL) * COLUMNS
    mask = backend.threshold_mask(score, nothing, torch.tensor(zeros - 1, device="cuda"))
    assert torch.equal(mask[-TAIL:].cpu(), tail != 0)
    assert int(mask[:-TAIL].sum()) == zeros - 1
    assert not mask[-TAIL - 1, -1]


def test_magnitude_histogram_counts_past_32_bits(backend: Backend) -> None:
    need(12)
    score, tail = zeros_but_the_tail()
    counts, wanted = torch.zeros(2048, dtype=torch.int64, device="cuda"), torch.zeros(2048, dtype=torch.int64)
    backend.magnitude_histogram(score, torch.zeros((), dtype=torch.int32, device="cuda"), 0, counts)
    reference.magnitude_histogram(tail, torch.zeros((), dtype=torch.int32), 0, wanted)
    wanted[0] += (ROWS - TAIL) * COLUMNS
    assert torch.equal(counts.cpu(), wanted)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_mirror_step_moves_the_last_row_and_ranks_past_32_bits(backend: Backend, tau: float) -> None:
    need(20)
    weight, tail = zeros_but_the_tail(torch.bfloat16)
    dual, threshold = torch.zeros(ROWS, COLUMNS, device="cuda"), torch.tensor(tau, device="cuda")
    own, own_threshold = torch.zeros(TAIL, COLUMNS), torch.tensor(tau)
    p, q = torch.rand(2, COLUMNS, generator=torch.Generator().manual_seed(2)).unbind()
    size = {"step_size": 0.5}
    rank = dual.numel() - 7
    factors = torch.ones(ROWS, device="cuda"), p.cuda(), q.cuda()
    backend.mirror_step(dual, weight, *factors, threshold, rank=rank, **size)
    # all before the tail is zero, and smaller than anything in it that the rank can reach
    reference.mirror_step(own, tail, torch.ones(TAIL), p, q, own_threshold, rank=own.numel() - 7, **size)
    assert torch.equal(dual[-TAIL:].cpu(), own)
    assert torch.equal(threshold.cpu(), own_threshold)
    assert not dual[:-TAIL].any()


def test_sums_reach_the_last_row(backend: Backend) -> None:
    need(12)
    weight, tail = zeros_but_the_tail(torch.bfloat16)
    factors = torch.rand(2, COLUMNS, generator=torch.Generator().manual_seed(3))
    total = torch.zeros(COLUMNS, device="cuda")
    rows, columns = backend.abs_sums(weight, factors.cuda(), torch.ones(1, ROWS, device="cuda"))
    backend.accumulate_sumsq(weight, total)
    wanted = reference.abs_sums(tail, factors, torch.ones(1, TAIL))
    sumsq = torch.zeros(COLUMNS)
    reference.accumulate_sumsq(tail, sumsq)
    for actual, expected in zip((rows[:, -TAIL:], columns, total), (*wanted, sumsq), strict=True):
        assert torch.allclose(actual.cpu(), expected, rtol=1e-5)


def test_adamw_step_moves_the_last_row(backend: Backend) -> None:
    need(24)
    weight, tail = zeros_but_the_tail(torch.bfloat16)
    gradient, slope = zeros_but_the_tail(torch.bfloat16, seed=4)
    first = torch.zeros_like(weight)
    second = torch.zeros(ROWS, COLUMNS, device="cuda")
    backend.adamw_step(weight, gradient, first, second, torch.ones((), device="cuda"), **ADAMW)
    moment, square = torch.zeros_like(tail), torch.zeros(TAIL, COLUMNS)
    reference.adamw_step(tail, slope, moment, square, torch.ones(()), **ADAMW)
    for actual, expected in ((weight, tail), (first, moment), (second, square)):
        assert torch.allclose(actual[-TAIL:].cpu().float(), expected.float(), rtol=2.0**-7, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_nm_prox_reaches_the_last_row(backend: Backend, n: int, m: int) -> None:
    need(8)
    weight, tail = zeros_but_the_tail(torch.bfloat16)
    backend.nm_prox(weight, 1e-3, n, m)
    reference.nm_prox(tail, 1e-3, n, m)
    assert torch.allclose(weight[-TAIL:].cpu().float(), tail.float(), rtol=2.0**-7, atol=1e-5)


def drifting(seed: int = 5) -> tuple[list[Tensor], list[Tensor]]:
    """W, v, U, r, p and q on the device, zero before the tail, and of the tail on the host."""
    rng = torch.Generator().manual_seed(seed)
    whole, tails = zip(*(zeros_but_the_tail(torch.bfloat16, seed + i) for i in range(3)), strict=True)
    large, small = [*whole[:2], whole[2].half()], [*tails[:2], tails[2].half()]
    large[1].abs_(), small[1].abs_()
    r, p, q = torch.ones(ROWS), *torch.rand(2, COLUMNS, generator=rng).unbind()
    return [*large, r.cuda(), p.cuda(), q.cuda()], [*small, r[-TAIL:], p, q]


def test_feedback_scores_reach_the_last_row(backend: Backend) -> None:
    need(26)
    whole, tail = drifting()
    score = backend.feedback_scores(*whole, **FEEDBACK)
    assert torch.allclose(score[-TAIL:].cpu(), reference.feedback_scores(*tail, **FEEDBACK), rtol=1e-5)
    assert not score[:-TAIL].any()


def test_mask_weight_and_remask_weight_reach_the_last_row(backend: Backend) -> None:
    need(26)
    whole, tail = drifting()
    stride = 2**13 + 1
    sample = torch.full((-(-ROWS * COLUMNS // stride),), torch.nan, device="cuda")
    # a subnormal: above every score before the tail, below all of the tail that are not zero
    threshold = torch.tensor(2.0**-130)
    options = {**FEEDBACK, "first": 0, "stride": stride, "pattern": None}
    masked, bits = backend.mask_weight(*whole, threshold.cuda(), sample, **options)
    ours = torch.empty(TAIL * COLUMNS)
    own_masked, own_bits = reference.mask_weight(*tail, threshold, ours, **options | {"stride": 1})
    assert torch.equal(masked[-TAIL:].cpu(), own_masked)
    assert torch.equal(bits[-TAIL:].cpu(), own_bits)
    assert not bits[:-TAIL].any()
    start = (ROWS - TAIL) * COLUMNS
    first = -(-start // stride)
    assert torch.allclose(sample[first:].cpu(), ours[first * stride - start :: stride], rtol=1e-5)
    assert not sample[:first].any()
    again = backend.remask_weight(whole[0], whole[2], bits, learning_rate=FEEDBACK["learning_rate"])
    assert torch.equal(again, masked)


def test_feedback_step_moves_the_last_row(backend: Backend) -> None:
    need(24)
    (gradient, second, drift, *_), (own_gradient, own_second, own_drift, *_) = drifting()
    backend.feedback_step(second, drift, gradient, torch.tensor(0.5, device="cuda"), decay=0.05)
    reference.feedback_step(own_second, own_drift, own_gradient, torch.tensor(0.5), decay=0.05)
    assert torch.allclose(second[-TAIL:].cpu().float(), own_second.float(), rtol=2.0**-7)
    assert torch.allclose(drift[-TAIL:].cpu().float(), own_drift.float(), rtol=2.0**-10, atol=1e-6)
    assert not drift[:-TAIL].any()
