"""The reference against independent brute force: loops, whole sorts, and a numeric minimiser."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from unipruning_core.backend import DIGIT_BITS
from unipruning_kernels import reference

KINDS = pytest.mark.parametrize("kind", ["distinct", "ties"])


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def scores(rng: torch.Generator, rows: int, columns: int, kind: str) -> torch.Tensor:
    score = torch.randn(rows, columns, generator=rng)
    return score if kind == "distinct" else score.round()


def largest(values: list[float], keep: int) -> list[bool]:
    """The ``keep`` largest magnitudes of a list, the earlier of equals first."""
    kept = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:keep]
    return [i in kept for i in range(len(values))]


def test_accumulate_sumsq_adds_squares_feature_by_feature():
    out = torch.tensor([1.0, 2.0])
    reference.accumulate_sumsq(torch.tensor([[3.0, -1.0], [4.0, 0.5]]), out)
    assert out.tolist() == [26.0, 3.25]


def test_abs_sums_weight_rows_by_the_inputs_and_columns_by_the_outputs():
    inputs, outputs = torch.tensor([[1.0, 1.0], [10.0, 0.5]]), torch.tensor([[1.0, 2.0]])
    rows, columns = reference.abs_sums(torch.tensor([[1.0, -2.0], [-3.0, 4.0]]), inputs, outputs)
    assert rows.tolist() == [[3.0, 7.0], [11.0, 32.0]]
    assert columns.tolist() == [[7.0, 10.0]]


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("rank", [None, 0, 1, 7, 15])
def test_mirror_step_follows_the_formula_element_by_element(rng, with_gradient, rank):
    dual, weight, gradient = torch.randn(3, 3, 5, generator=rng).unbind()
    r, p, q = torch.rand(3, generator=rng), *torch.rand(2, 5, generator=rng).unbind()
    before, threshold = dual.clone(), torch.tensor(0.5)
    options = {"gradient": gradient, "phi": 0.3} if with_gradient else {}
    reference.mirror_step(dual, weight, r, p, q, threshold, step_size=0.1, rank=rank, **options)
    for i, j in itertools.product(range(3), range(5)):
        v, w = float(before[i, j]), float(weight[i, j])
        saliency = abs(w) * (float(r[i] * p[j]) + float(q[j]))
        saliency += 0.3 * (w * float(gradient[i, j])) ** 2 if with_gradient else 0.0
        gamma = math.copysign(max(abs(v) - 0.5, 0.0), v)
        assert float(dual[i, j]) == pytest.approx(v + 0.1 * (saliency - gamma), rel=1e-5, abs=1e-6)
    ordered = sorted(abs(v) for v in dual.flatten().tolist())
    assert threshold.item() == (0.5 if rank is None else ordered[rank - 1] if rank else 0.0)


def test_mirror_step_rounds_each_operation_once(rng):
    dual, weight = torch.randn(2, 8, 16, generator=rng).unbind()
    r, p, q = torch.rand(8, generator=rng), *torch.rand(2, 16, generator=rng).unbind()
    v, w, row, column, offset = (tensor.numpy().copy() for tensor in (dual, weight, r, p, q))
    step, tau = np.float32(0.3), np.float32(0.2)
    saliency = np.abs(w) * (row[:, None] * column + offset)
    expected = v + step * (saliency - np.sign(v) * np.maximum(np.abs(v) - tau, np.float32(0)))
    reference.mirror_step(dual, weight, r, p, q, torch.tensor(0.2), step_size=0.3, rank=None)
    assert np.array_equal(dual.numpy().view(np.int32), expected.view(np.int32))


def drifting(rng: torch.Generator) -> list[torch.Tensor]:
    """W, v, U, r, p and q of a small matrix, with zeros among W, v and p."""
    weight, drift = torch.randn(2, 6, 11, generator=rng).unbind()
    weight[0, :3], second = 0.0, torch.rand(6, 11, generator=rng).bfloat16()
    second[1, :3] = 0.0
    r, p, q = torch.rand(6, generator=rng), torch.rand(11, generator=rng), torch.zeros(11)
    p[4] = 0.0
    return [weight, second, (4 * drift).half(), r, p, q]


def score_of(state: list[torch.Tensor], i: int, j: int, *, exponent: float, drifts: bool = True) -> float:
    """One score by its formula, at a learning rate of 0.25 and a pull of 0.5."""
    w, v, u = (float(tensor[i, j]) for tensor in state[:3])
    r, p, q = float(state[3][i]), float(state[4][j]), float(state[5][j])
    u = u if drifts else 0.0
    side = math.copysign(1.0, w) if w else 0.0
    return abs(w) * math.sqrt(v) * (abs(w + 0.25 * u) * (r * p + q)) ** exponent * math.exp(0.5 * u * side)


FEEDBACK = {"learning_rate": 0.25, "pull": 0.5}


@pytest.mark.parametrize("drifts", [True, False])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 3.0])
def test_feedback_scores_follow_the_formula_element_by_element(rng, exponent, drifts):
    state = drifting(rng)
    given = state if drifts else [*state[:2], None, *state[3:]]
    score = reference.feedback_scores(*given, exponent=exponent, **FEEDBACK)
    for i, j in itertools.product(range(6), range(11)):
        assert float(score[i, j]) == pytest.approx(score_of(state, i, j, exponent=exponent, drifts=drifts), rel=1e-5)


@pytest.mark.parametrize("pattern", [None, (1, 11)])
@pytest.mark.parametrize("first", [0, 5, 65, 66, 10**9])
@pytest.mark.parametrize("stride", [1, 4, 7, 66, 1000])
def test_mask_weight_masks_packs_and_draws_element_by_element(rng, stride, first, pattern):
    state, threshold = drifting(rng), 0.1
    sample = torch.empty(max(0, math.ceil((66 - first) / stride)))
    options = {"exponent": 1.0, "first": first, "stride": stride, "pattern": pattern, **FEEDBACK}
    masked, bits = reference.mask_weight(*state, torch.tensor(threshold), sample, **options)
    scored = [[score_of(state, i, j, exponent=1.0) for j in range(11)] for i in range(6)]
    for row in scored:
        if pattern is not None:
            row[row.index(max(row))] = torch.finfo(torch.float32).max
    assert sample.tolist() == pytest.approx([x for row in scored for x in row][first::stride], rel=1e-5)
    assert bits.shape == (6, 2)
    for i, j in itertools.product(range(6), range(16)):
        kept = j < 11 and scored[i][j] >= threshold
        assert bool(bits[i, j // 8] >> (j % 8) & 1) == kept
        if j < 11:
            drifted = float(state[0][i, j]) + 0.25 * float(state[2][i, j])
            assert float(masked[i, j]) == pytest.approx(drifted if kept else 0.0, rel=1e-6)
    assert not torch.signbit(masked[masked == 0]).any()
    assert 6 < int((masked != 0).sum()) < 60, "the threshold separates"
    assert torch.equal(reference.remask_weight(state[0], state[2], bits, learning_rate=0.25), masked)


def test_feedback_step_follows_the_formula_element_by_element(rng):
    _, second, drift, *_ = drifting(rng)
    gradient = torch.randn(6, 11, generator=rng)
    gradient[1, :2] = 0.0
    v, u = second.clone(), drift.clone()
    reference.feedback_step(v, u, gradient, torch.tensor(0.5), decay=0.125)
    for i, j in itertools.product(range(6), range(11)):
        g, old = float(gradient[i, j]), float(second[i, j])
        new = old + 0.125 * (g * g - old)
        moved = float(drift[i, j]) - (0.5 * g / math.sqrt(new) if new else 0.0)
        assert float(v[i, j]) == pytest.approx(new, rel=2.0**-8)
        assert float(u[i, j]) == pytest.approx(moved, rel=2.0**-11, abs=2.0**-25)
    assert torch.equal(u[1, :2], drift[1, :2]), "what has no second moment stays"
    alone = second.clone()
    reference.feedback_step(alone, None, gradient, torch.tensor(0.5), decay=0.125)
    assert torch.equal(alone, v)


def test_three_digits_give_every_order_statistic(rng):
    score = torch.cat([scores(rng, 4, 20, "distinct"), scores(rng, 4, 20, "ties")])
    ordered = score.abs().flatten().sort().values
    for rank in (1, 2, 40, 79, 80, 159, 160):
        prefix, left = 0, rank
        for level, width in enumerate(DIGIT_BITS):
            counts = torch.zeros(2**width, dtype=torch.int64)
            reference.magnitude_histogram(score, torch.tensor(prefix, dtype=torch.int32), level, counts)
            reached = counts.cumsum(0)
            digit = int((reached >= left).nonzero()[0])
            left -= int(reached[digit] - counts[digit])
            prefix = (prefix << width) | digit
        assert torch.tensor(prefix, dtype=torch.int32).view(torch.float32) == ordered[rank - 1]


def test_magnitude_histogram_counts_digits_of_the_bit_pattern():
    score = torch.tensor([[1.0, -1.0, 0.0, -0.0, 2.0**-149]])
    counts = torch.zeros(2048, dtype=torch.int64)
    reference.magnitude_histogram(score, torch.tensor(99, dtype=torch.int32), 0, counts)
    assert {digit: int(counts[digit]) for digit in counts.nonzero().flatten().tolist()} == {0: 3, 0x3F800000 >> 20: 2}


@KINDS
@pytest.mark.parametrize("ties", [0, 1, 3, 1000])
def test_threshold_mask_equals_a_loop(rng, kind, ties):
    score = scores(rng, 6, 10, kind)
    threshold = score.abs().flatten().sort().values[30]
    left, expected = ties, []
    for value in score.abs().flatten().tolist():
        tie = value == threshold.item() and left > 0
        left -= tie
        expected.append(value > threshold.item() or tie)
    mask = reference.threshold_mask(score, threshold, torch.tensor(ties))
    assert mask.flatten().tolist() == expected


@KINDS
@pytest.mark.parametrize("keep", [0, 1, 5, 10])
def test_topk_mask_equals_a_sort_of_each_row(rng, kind, keep):
    score = scores(rng, 6, 10, kind)
    assert reference.topk_mask(score, keep).tolist() == [largest(row, keep) for row in score.tolist()]


@KINDS
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 4), (4, 8)])
def test_nm_mask_equals_a_sort_of_each_group(rng, kind, n, m):
    score = scores(rng, 5, 16, kind)
    groups = [largest(row[j : j + m], n) for row in score.tolist() for j in range(0, 16, m)]
    assert reference.nm_mask(score, n, m).view(-1, m).tolist() == groups


def regulariser(w: np.ndarray, n: int) -> np.ndarray:
    """The elementary symmetric polynomial of degree n + 1 over the last axis, by its definition."""
    return sum(np.prod(w[..., list(chosen)], axis=-1) for chosen in itertools.combinations(range(w.shape[-1]), n + 1))


def objective(w: np.ndarray, z: np.ndarray, strength: float, n: int) -> np.ndarray:
    return 0.5 * ((w - z) ** 2).sum(axis=-1) + strength * regulariser(np.abs(w), n)


def grid_minimum(z: np.ndarray, strength: float, n: int) -> float:
    """The lowest objective on a grid over [0, z], refined around the best point; no magnitude of a minimiser grows."""
    low, high = np.zeros_like(z), z
    best = math.inf
    for _ in range(12):
        axes = [np.linspace(a, b, 9) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(z))
        costs = objective(points, z, strength, n)
        at, span = points[costs.argmin()], (high - low) / 4
        best = min(best, float(costs.min()))
        low, high = np.maximum(at - span, 0.0), np.minimum(at + span, z)
    return best


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
def test_nm_prox_is_as_low_as_a_search_over_a_grid(rng, n, m, strength):
    z = torch.randn(12, m, generator=rng)
    w = z.clone()
    reference.nm_prox(w, strength, n, m)
    for mine, start in zip(w.double().numpy(), z.double().numpy(), strict=True):
        found = objective(mine, start, strength, n)
        assert found <= grid_minimum(np.abs(start), strength, n) * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 8)])
def test_nm_prox_of_great_strength_leaves_the_n_largest(rng, n, m):
    z = torch.randn(8, 16, generator=rng)
    w = z.clone()
    reference.nm_prox(w, 1e6, n, m)
    assert torch.equal(w, z * reference.nm_mask(z, n, m))


def test_nm_prox_of_one_of_two_equals_the_formula():
    # 1/2 (a - 2)^2 + 1/2 (b - 1.5)^2 + 0.5 a b is least where a + 0.5 b = 2 and b + 0.5 a = 1.5
    w = torch.tensor([[2.0, -1.5]])
    reference.nm_prox(w, 0.5, 1, 2)
    assert torch.allclose(w, torch.tensor([[5 / 3, -2 / 3]]), atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_nm_prox_keeps_what_the_regulariser_does_not_see(strength):
    z = torch.tensor([[0.0, -3.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    w = z.clone()
    reference.nm_prox(w, strength, 2, 4)
    assert torch.equal(w, z)
