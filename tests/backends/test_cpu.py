"""The CPU backend's two tiers against the definition: shapes, types, strides, ties, ranks and thread counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

SHAPES = [(1, 4), (3, 8), (5, 17), (64, 64), (130, 33), (257, 1028), (40000, 4)]
LARGE = (520, 1028)  # large enough for a bracket instead of ranking everything, and for more than one thread
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SUM_TOLERANCE = {"rtol": 1e-6, "atol": 0.0}


def as_is(x: Tensor) -> Tensor:
    return x


def as_made(x: Tensor) -> Tensor:
    return x.clone()


def transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def every_second(x: Tensor) -> Tensor:
    space = x.new_full((x.shape[0] * 2, x.shape[1] * 2), 7.0)
    space[::2, ::2] = x
    return space[::2, ::2]


def shifted(x: Tensor) -> Tensor:
    return torch.cat([x.new_full((1,), 7.0), x.flatten()])[1:].view(x.shape)


Layout = Callable[[Tensor], Tensor]
LAYOUTS: list[Layout] = [as_made, transposed, every_second, shifted]
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "distinct": lambda x: x,
    "ties": lambda x: x.mul(2.0).round(),
    "constant": lambda x: torch.full_like(x, -1.5),
    "zeros": torch.zeros_like,
    "negative_zeros": lambda x: -torch.zeros_like(x),
    "denormals": lambda x: x * 1e-42,
    "half_zeros": lambda x: x.clamp_min(0.0),
    "wide_range": lambda x: x.mul(10.0).exp(),
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 8)])
def test_sums_agree_to_a_millionth(backend, shape, dtype):
    weight, inputs, outputs = random(*shape).to(dtype), random(3, shape[1], seed=1).abs(), random(2, shape[0]).abs()
    inputs[0], outputs[0] = 1.0, 1.0
    magnitude = weight.double().abs()
    wanted = inputs.double() @ magnitude.t(), outputs.double() @ magnitude, magnitude.square().sum(0)
    for layout in LAYOUTS:
        out = torch.zeros(shape[1])
        backend.accumulate_sumsq(layout(weight), out)
        found = *backend.abs_sums(layout(weight), layout(inputs), layout(outputs)), out
        for sums, exact in zip(found, wanted, strict=True):
            torch.testing.assert_close(sums, exact.float(), **SUM_TOLERANCE)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 0), (0, 9), (9, 0), (17, 33)])
def test_sums_with_many_factors_agree_to_a_millionth(backend, inputs, outputs):
    weight, factors = random(*LARGE), (random(inputs, LARGE[1], seed=1).abs(), random(outputs, LARGE[0], seed=2).abs())
    magnitude = weight.double().abs()
    wanted = factors[0].double() @ magnitude.t(), factors[1].double() @ magnitude
    for sums, exact in zip(backend.abs_sums(weight, *factors), wanted, strict=True):
        torch.testing.assert_close(sums, exact.float(), **SUM_TOLERANCE)


def test_sumsq_is_added_to_what_is_there(backend):
    out = torch.full((6,), 5.0)[::2]
    backend.accumulate_sumsq(torch.tensor([[1.0, 2.0, 3.0], [0.0, 2.0, 1.0]]), out)
    assert out.tolist() == [6.0, 13.0, 15.0]


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mirror_step_equals_the_definition_bit_for_bit(backend, shape, dtype, with_gradient):
    dual, weight = random(*shape), random(*shape, seed=4).to(dtype)
    gradient = random(*shape, seed=5).to(dtype) if with_gradient else None
    compare_steps(backend, dual, weight, gradient, max(1, dual.numel() // 3), LAYOUTS)


@pytest.mark.parametrize("share", [None, 0.0, 1e-9, 0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shape", [(64, 64), LARGE])
def test_the_new_threshold_is_the_exact_order_statistic(backend, shape, values, share):
    dual, weight = VALUES[values](random(*shape)), VALUES[values](random(*shape, seed=4))
    rank = None if share is None else 0 if share == 0.0 else max(1, int(share * dual.numel()))
    compare_steps(backend, dual, weight, None, rank)


def clumps(seed: int) -> Tensor:
    """Equal neighbours: a sample by whole vectors knows a sixteenth of what its size suggests."""
    return random(LARGE[0], LARGE[1] // 16 + 1, seed=seed).repeat_interleave(16, dim=1)[:, : LARGE[1]].contiguous()


def bands(seed: int) -> Tensor:
    """Rows of two very different sizes: a sample of every fourth row sees one kind alone."""
    return random(*LARGE, seed=seed) * torch.where(torch.arange(LARGE[0]) % 4 == 0, 1e-6, 1.0)[:, None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("values", [clumps, bands])
def test_a_bracket_that_misses_is_noticed(backend, values, seed):
    dual = values(seed)
    for share in (0.02, 0.125, 0.2, 0.3, 0.5, 0.7, 0.9):
        compare_steps(backend, dual, torch.zeros(LARGE), None, int(share * dual.numel()))


def compare_steps(
    backend: CpuBackend,
    dual: Tensor,
    weight: Tensor,
    gradient: Tensor | None,
    rank: int | None,
    layouts: Sequence[Layout] = (as_is,),
) -> None:
    """Two steps in each layout against two of the definition."""
    factors = random(dual.shape[0], seed=1).abs(), *(random(dual.shape[1], seed=seed).abs() for seed in (2, 3))
    options = {"step_size": 0.01, "rank": rank, "phi": 0.7}
    duals = [layout(dual) for layout in layouts]
    storages, thresholds = [moved.data_ptr() for moved in duals], [torch.tensor(0.3) for _ in layouts]
    wanted, wanted_threshold = dual.clone(), torch.tensor(0.3)
    for _ in range(2):
        reference.mirror_step(wanted, weight, *factors, wanted_threshold, gradient=gradient, **options)
        for layout, storage, moved, threshold in zip(layouts, storages, duals, thresholds, strict=True):
            pull = None if gradient is None else layout(gradient)
            backend.mirror_step(moved, layout(weight), *factors, threshold, gradient=pull, **options)
            assert moved.data_ptr() == storage, layout
            assert torch.equal(moved, wanted), layout
            assert torch.equal(threshold, wanted_threshold), layout


@pytest.mark.parametrize("shape", [(5, 17), (257, 1028)])
def test_a_step_leaves_the_gaps_of_a_strided_dual_alone(backend, shape):
    space = torch.full((shape[0] * 2, shape[1] * 2), 7.0)
    view = space[::2, ::2]
    compare_steps(backend, view, random(*shape), None, rank=3)
    view.fill_(7.0)
    assert (space == 7.0).all()


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_selection_equals_the_definition(backend, shape, values):
    score = VALUES[values](random(*shape))
    scores = {layout: layout(score) for layout in LAYOUTS}
    for keep in {0, 1, shape[1] // 2, shape[1]}:
        wanted = reference.topk_mask(score, keep)
        for layout, moved in scores.items():
            assert torch.equal(backend.topk_mask(moved, keep), wanted), layout
    for threshold in (0.0, 1.0, 1.5, float(score.flatten()[-1].abs())):
        for ties in (0, 1, 7, 10**6):
            cut = torch.tensor(threshold), torch.tensor(ties)
            wanted = reference.threshold_mask(score, *cut)
            for layout, moved in scores.items():
                assert torch.equal(backend.threshold_mask(moved, *cut), wanted), layout
    for level in range(len(DIGIT_BITS)):
        prefix = torch.tensor((0, 1016, 1016 << DIGIT_BITS[1])[level], dtype=torch.int32)
        wanted = torch.ones(2 ** DIGIT_BITS[level], dtype=torch.int64)
        reference.magnitude_histogram(score, prefix, level, wanted)
        for layout, moved in scores.items():
            found = torch.ones(2 ** DIGIT_BITS[level], dtype=torch.int64)
            backend.magnitude_histogram(moved, prefix, level, found)
            assert torch.equal(found, wanted), layout


@pytest.mark.parametrize("values", ["distinct", "ties", "negative_zeros"])
@pytest.mark.parametrize("m", [2, 3, 4, 5, 8, 12, 16, 31, 32])
def test_every_pattern_keeps_what_the_definition_keeps(backend, m, values):
    score = VALUES[values](random(7, 19 * m))
    for n in {1, m // 2, m - 1}:
        wanted = reference.nm_mask(score, n, m)
        for layout in LAYOUTS:
            assert torch.equal(backend.nm_mask(layout(score), n, m), wanted), layout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strength", [0.0, 0.001, 0.2, 5.0])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4)])
def test_the_proximal_step_on_short_groups_equals_the_definition(backend, n, m, strength, dtype):
    before = random(33, 37 * m).to(dtype)
    wanted = before.clone()
    reference.nm_prox(wanted, strength, n, m)
    for layout in LAYOUTS:
        found = layout(before)
        backend.nm_prox(found, strength, n, m)
        assert torch.equal(found, wanted), layout


@pytest.mark.parametrize("strength", [0.001, 0.2, 5.0])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (4, 8), (2, 7), (8, 16), (31, 32)])
def test_the_proximal_step_on_long_groups_is_as_low_as_the_definition(backend, n, m, strength):
    # the order of a long sum may tip the choice between two minima that are equally good
    before = random(5, 16 * m)
    found, wanted = before.clone(), before.clone()
    backend.nm_prox(found, strength, n, m)
    reference.nm_prox(wanted, strength, n, m)
    torch.testing.assert_close(*(objective(w, before, strength, n, m) for w in (found, wanted)))


def objective(w: Tensor, before: Tensor, strength: float, n: int, m: int) -> Tensor:
    groups, distance = w.reshape(-1, m).double().abs(), (w - before).reshape(-1, m).double().square().sum(1)
    elementary = torch.zeros(len(groups), m + 2, dtype=torch.float64)
    elementary[:, 0] = 1.0
    for column in groups.T:
        elementary[:, 1:] += column[:, None] * elementary[:, :-1].clone()
    return 0.5 * distance + strength * elementary[:, n + 1]


def test_results_do_not_depend_on_the_number_of_threads(backend, threads):
    r, p, q = random(LARGE[0], seed=1).abs(), random(LARGE[1], seed=2).abs(), random(LARGE[1], seed=3).abs()

    def everything() -> list[Tensor]:
        weight, dual, threshold, sumsq = (
            random(*LARGE).bfloat16(),
            random(*LARGE, seed=1),
            torch.tensor(0.1),
            random(1028),
        )
        backend.accumulate_sumsq(weight, sumsq)
        backend.mirror_step(dual, weight, r, p, q, threshold, step_size=0.01, rank=5000)
        prox = weight.clone()
        backend.nm_prox(prox, 0.2, 2, 4)
        masks = backend.topk_mask(dual, 500), backend.nm_mask(dual, 2, 4)
        ties = backend.threshold_mask(dual.round(), torch.tensor(1.0), torch.tensor(1234))
        sums = backend.abs_sums(weight, torch.stack([p, q]), r[None])
        second, drift, sample = dual.square().bfloat16(), weight.flip(0).half(), torch.empty(5346)
        state, numbers = (weight, second, drift, r, p, q), {"learning_rate": 0.01, "exponent": 0.7, "pull": 0.5}
        score = backend.feedback_scores(*state, **numbers)
        cut = backend.mask_weight(*state, score[0, 0], sample, **numbers, first=0, stride=100, pattern=(2, 4))
        again = backend.remask_weight(weight, drift, cut[1], learning_rate=0.01)
        backend.feedback_step(second, drift, weight, score[0, 1], decay=0.05)
        feedback = score, *cut, sample, again, second, drift
        return [*sums, sumsq, dual, threshold, prox, *masks, ties, *feedback]

    runs = []
    for count in (1, 2, 3, 3):
        threads(count)
        runs.append(everything())
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("supported", [True, False])
def test_a_half_precision_is_loaded_only_where_the_cpu_computes_in_it(monkeypatch, supported):
    for kind in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", lambda: supported)
    loaded = [CpuBackend().loading_dtype(stored) for stored in DTYPES]
    assert loaded == (DTYPES if supported else [torch.float32] * 3)
