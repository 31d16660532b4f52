"""The CPU backend's feedback search: powers, exponentials and roundings over whole ranges, and masks to the bit."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from unipruning_cpu import compiler
from unipruning_cpu.backend import NATIVE_ENV, CpuBackend
from unipruning_kernels import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LARGEST = torch.finfo(torch.float32).max
NUMBERS: dict[str, float] = {"learning_rate": 1e-3, "exponent": 1.0, "pull": 0.0075}
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.t().contiguous().t(),
    "every second": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
floats = pytest.mark.parametrize("dtype", DTYPES)


def every_magnitude(largest: float = LARGEST) -> Tensor:
    """One row of fp32 values, evenly spread over their bits: each binade has some, denormals too."""
    last = int(torch.tensor(largest).view(torch.int32))
    return torch.linspace(0, last, 40_009, dtype=torch.float64).int().view(torch.float32)[None]


def every_float16() -> Tensor:
    """One row of all finite values."""
    values = torch.arange(-(2**15), 2**15).short().view(torch.float16)
    return values[values.isfinite()][None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded_root(x: Tensor) -> Tensor:
    """The square root of IEEE 754, as C has it; torch's, of a library, is not so rounded on every processor."""
    return torch.from_numpy(numpy.sqrt(x.numpy()))


def state(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """W, v, U, r, p and q; U is small in the upper half and large in the lower."""
    drift = random(rows, columns, seed=2) * torch.where(torch.arange(rows) < rows // 2, 4.0, 400.0)[:, None]
    factors = (random(size, seed=seed).abs() for seed, size in enumerate((rows, columns, columns), 3))
    return random(rows, columns).to(dtype), random(rows, columns, seed=1).square().bfloat16(), drift.half(), *factors


def score(
    backend: CpuBackend, weight: Tensor, second: float, drift: Tensor | None, q: Tensor, **options: Any
) -> Tensor:
    v, nothing = torch.full(weight.shape, second).bfloat16(), torch.zeros(max(weight.shape))
    numbers = NUMBERS | {"learning_rate": 0.0} | options
    r, p = nothing[: len(weight)], nothing[: weight.shape[1]]
    return backend.feedback_scores(weight, v, drift, r, p, q, **numbers)


@pytest.mark.parametrize("exponent", [0.0, 2.0**-10, 0.3125, 0.5, 0.6875, 1.0, 1.5, 2.0, 2.5, 3.0, 40.0])
def test_the_power_is_good_over_the_whole_range(backend, exponent):
    near_one = torch.linspace(0.99, 1.01, 20_001)[None]
    for local in (every_magnitude(), near_one, torch.zeros(1, 4)):
        found = score(backend, torch.ones_like(local), 1.0, None, local[0], exponent=exponent)
        wanted = local.double().pow(exponent).float()
        torch.testing.assert_close(found, wanted, rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize("pull", [1.0, -1.0, 1e-3, 3e-3, 1e4, 0.0])
def test_the_exponential_is_good_over_the_whole_range(backend, pull):
    drift = every_float16()
    for sign in (1.0, -1.0):
        weight = torch.full(drift.shape, sign)
        found = score(backend, weight, 1.0, drift, torch.ones(drift.shape[1]), exponent=0.0, pull=pull)
        wanted = (drift.float() * pull * sign).double().exp().float()
        torch.testing.assert_close(found, wanted, rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize(
    ("weight", "second", "drift", "q", "exponent", "pull", "wanted"),
    [
        (-3.0, 4.0, 0.0, 0.0, 0.0, 1.0, 6.0),
        (-3.0, 4.0, 1.0, 0.0, 0.7, 1.0, 0.0),
        (-0.0, 4.0, 6e4, 1.0, 1.0, 100.0, 0.0),
        (0.0, 4.0, 6e4, 1.0, 0.0, -100.0, 0.0),
        (1.0, 4.0, 6e4, 1.0, 1.0, 100.0, float("inf")),
        (-1.0, 4.0, 6e4, 1.0, 1.0, 100.0, 0.0),
        (-1.0, 4.0, -6e4, 1.0, 1.0, 100.0, float("inf")),
        # the weight keeps 2^133 in the range, and the exponential does not take back what was beyond
        (2.0**-64, 2.0**126, 1.0, 2.0**70, 1.0, 0.0, 2.0**69),
        (1.0, 2.0**126, -1.0, 2.0**66, 1.0, 80.0, float("inf")),
        (2.0**-100, 2.0**-100, 1.0, 1.0, 0.0, 60.0, 0.0),
    ],
)
def test_a_score_at_the_ends_of_the_range_is_as_defined(backend, weight, second, drift, q, exponent, pull, wanted):
    w, u, q = torch.full((1, 19), weight), torch.full((1, 19), drift).half(), torch.full((19,), q)
    # the step makes W + eta U one where a weight is tiny
    found = score(backend, w, second, u, q, exponent=exponent, pull=pull, learning_rate=float(abs(weight) == 2.0**-64))
    assert found.tolist() == [[wanted] * 19]


@layouts
@floats
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 0.7])
def test_scores_agree(backend, dtype, exponent, layout):
    matrices, factors = state(257, 1028, dtype)[:3], state(257, 1028, dtype)[3:]
    numbers = NUMBERS | {"exponent": exponent}
    for weight, second, drift in (matrices, (*matrices[:2], None)):
        wanted = reference.feedback_scores(weight, second, drift, *factors, **numbers)
        moved = None if drift is None else layout(drift)
        found = backend.feedback_scores(layout(weight), layout(second), moved, *factors, **numbers)
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)


@layouts
@floats
@pytest.mark.parametrize(
    ("n", "m", "columns"),
    [(0, 0, 4), (0, 0, 1029), (1, 2, 1030), (1, 3, 1029), (2, 4, 1028), (3, 5, 1035), (4, 8, 1032), (7, 31, 1054)],
)
def test_a_mask_is_the_scores_cut_to_the_bit(backend, dtype, layout, n, m, columns):
    arguments = state(37, columns, dtype)
    scores = backend.feedback_scores(*arguments, **NUMBERS)
    threshold = scores.median()  # itself a score, which is kept
    if m:
        scores = scores.masked_fill(reference.nm_mask(scores, n, m), LARGEST)
    keep = scores >= threshold
    moved = arguments[0].float() + NUMBERS["learning_rate"] * arguments[2].float()
    wanted = torch.where(keep, moved, 0.0).to(dtype)
    matrices = [layout(part) for part in arguments[:3]]
    for first, stride in ((0, 1), (0, 7), (508, 509), (columns, 509), (10**6, 7), (0, 10**6)):
        wanted_sample = scores.flatten()[first::stride]
        sample = torch.full((2 * len(wanted_sample),), 7.0)
        masked, bits = backend.mask_weight(
            *(*matrices, *arguments[3:], threshold, sample[::2]),
            **NUMBERS,
            first=first,
            stride=stride,
            pattern=(n, m) if m else None,
        )
        assert masked.is_contiguous()
        assert torch.equal(masked.view(torch.uint8), wanted.view(torch.uint8))
        assert torch.equal(sample[::2], wanted_sample)
        assert (sample[1::2] == 7.0).all()
    unpacked = (bits[:, :, None] >> torch.arange(8)) & 1
    assert torch.equal(unpacked.flatten(1)[:, :columns].bool(), keep)
    assert not unpacked.flatten(1)[:, columns:].any()
    again = backend.remask_weight(matrices[0], matrices[2], bits, learning_rate=NUMBERS["learning_rate"])
    assert again.is_contiguous()
    assert torch.equal(again.view(torch.uint8), wanted.view(torch.uint8))


@layouts
@floats
@pytest.mark.parametrize("decay", [0.05, 1.0])
def test_a_step_equals_the_definition_bit_for_bit(backend, monkeypatch, dtype, layout, decay):
    if backend.tier == "native":
        monkeypatch.setattr(Tensor, "sqrt", rounded_root)
    second, drift = state(37, 1029, dtype)[1:3]
    gradient = random(37, 1029, seed=9).to(dtype)
    for tensor in (second, gradient):
        tensor[:, ::3] = 0.0
    for drifts in (True, False):
        wanted = second.clone(), drift.clone() if drifts else None
        found = layout(second), layout(drift) if drifts else None
        rate = torch.tensor(0.75)
        reference.feedback_step(*wanted, gradient, rate, decay=decay)
        backend.feedback_step(*found, layout(gradient), rate, decay=decay)
        assert torch.equal(found[0], wanted[0])
        assert not drifts or torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_drift_is_rounded_to_the_nearest_float16(backend, sign):
    # with v = 1 and no decay the step is the gradient itself; each midpoint and its neighbours are in there
    halves = every_float16().float()
    between = (halves[:, 1:] + halves[:, :-1]) / 2
    hard = (between.nextafter(torch.tensor(towards)) for towards in (float("inf"), float("-inf")))
    gradient = torch.cat([every_magnitude(1e18) * sign, between, *hard], dim=1)
    second, drift = torch.ones(gradient.shape).bfloat16(), torch.zeros(gradient.shape).half()
    backend.feedback_step(second, drift, gradient, torch.tensor(-1.0), decay=0.0)
    assert torch.equal(drift, gradient.half())
    assert drift.isinf().any()


def test_a_second_moment_is_rounded_to_the_nearest_bfloat16(backend):
    roots = every_magnitude(1e19)
    middles = (1.0 + torch.arange(1, 256, 2) / 256.0).sqrt()[None]
    gradient = torch.cat([roots, middles, (torch.arange(4096.0) / 4096.0)[None]], dim=1)
    second = torch.zeros(gradient.shape).bfloat16()
    backend.feedback_step(second, None, gradient, torch.tensor(0.5), decay=1.0)
    assert torch.equal(second, gradient.square().bfloat16())


def test_a_drift_without_a_second_moment_stays(backend):
    second, drift = torch.zeros(1, 19).bfloat16(), torch.full((1, 19), 3.0).half()
    backend.feedback_step(second, drift, torch.full((1, 19), 1e-30), torch.tensor(0.5), decay=0.05)
    assert drift.tolist() == [[3.0] * 19]


def test_a_processor_without_vectors_gives_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setenv(NATIVE_ENV, "1")
    wanted = [everything(CpuBackend(), dtype) for dtype in DTYPES]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "CHOICES", (("-O1",),))
    plain = CpuBackend()
    for dtype, results in zip(DTYPES, wanted, strict=True):
        assert all(torch.equal(*pair) for pair in zip(everything(plain, dtype), results, strict=True)), dtype


def everything(backend: CpuBackend, dtype: torch.dtype) -> list[Tensor]:
    arguments, sample = state(40, 1029, dtype), torch.empty(40 * 1029)
    weight, second, drift = arguments[:3]
    cut = backend.mask_weight(*arguments, torch.tensor(0.3), sample, **NUMBERS, first=0, stride=1, pattern=(1, 3))
    scores = backend.feedback_scores(*arguments, **(NUMBERS | {"exponent": 0.7}))
    backend.feedback_step(second, drift, weight, torch.tensor(0.5), decay=0.05)
    sums = backend.abs_sums(weight, random(3, 1029).abs(), random(2, 40).abs())
    return [*cut, sample, scores, second, drift, *sums]
