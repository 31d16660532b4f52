"""The factors of the local metrics against their definitions, one matrix at a time and many together."""

import pytest
import torch

from unipruning_core.search.metrics import METRICS
from unipruning_core.search.saliency import FixedSaliency, Saliency
from unipruning_core.search.subsets import Draws, subset_size
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()
SHAPES = [(40, 60), (60, 40), (10, 25), (64, 8)]


def dense(metric, weight, norm, subsets):
    """S as the table of the module states it, formed whole and in double precision."""
    w, n = weight.double().abs(), norm.double()
    rows, columns = w.sum(dim=1), w.sum(dim=0)
    if metric == "stochria":
        some_columns, some_rows = (chosen > 0 for chosen in subsets)
        rows, columns = w[:, some_columns].sum(dim=1), w[some_rows].sum(dim=0)
    score = {
        "magnitude": lambda: w,
        "wanda": lambda: w * n,
        "ria": lambda: (w / rows[:, None] + w / columns) * n**0.5,
        "stochria": lambda: (w / rows[:, None] + w / columns) * n**0.7,
    }[metric]()
    return score / score.mean()


def formed(weight, r, p, q):
    """S from its factors, which may be padded."""
    rows, columns = weight.shape
    return weight.double().abs() * (r[:rows].double()[:, None] * p[:columns].double() + q[:columns].double())


def matrices(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    norm = torch.zeros(len(SHAPES), 60)
    for row, (_, columns) in zip(norm, SHAPES, strict=True):
        row[:columns] = torch.rand(columns, generator=generator) + 0.1
    return weights, norm


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_factors_of_many_matrices_form_the_metric_with_mean_one(metric, dtype):
    weights, norm = matrices(dtype)
    saliency = Saliency(METRICS[metric], weights, [5, 6, 7, 8], BACKEND, 2)
    factors = saliency.of_sample(norm, 4)
    inputs, outputs = saliency.draws.of_sample(4)
    for position, weight in enumerate(weights):
        rows, columns = weight.shape
        found = formed(weight, factors.r[position], factors.p[position], factors.q[position])
        subsets = inputs[position, :columns], outputs[position, :rows]
        torch.testing.assert_close(found, dense(metric, weight, norm[position, :columns], subsets), rtol=3e-6, atol=0)
        assert found.mean().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_all_steps_of_one_matrix_have_the_factors_of_its_samples(metric):
    weights, norm = matrices()
    saliency = Saliency(METRICS[metric], weights, [5, 6, 7, 8], BACKEND, 2)
    steps = saliency.of_steps(1, norm[1, :40], 3)
    for step in range(3):
        whole = saliency.of_sample(norm, step)
        torch.testing.assert_close(steps.r[step], whole.r[1, :60])
        torch.testing.assert_close(steps.p[step], whole.p[1, :40])
        torch.testing.assert_close(steps.q[step], whole.q[1, :40])


def fixed_saliency(metric, weights, streams):
    shapes = [tuple(weight.shape) for weight in weights]
    return FixedSaliency(metric, shapes, lambda row: weights[row], streams, BACKEND, 2, torch.device("cpu"))


@pytest.mark.parametrize("metric", METRICS)
def test_factors_of_fixed_weights_need_no_pass_over_them(metric):
    weights, norm = matrices()
    fixed = fixed_saliency(METRICS[metric], weights, [5, 6, 7, 8])
    moving = Saliency(METRICS[metric], weights, [5, 6, 7, 8], BACKEND, 2)
    for n in (norm, norm.square()):
        found, one = fixed.factors(n), moving.of_sample(n, 0)
        for position, weight in enumerate(weights):
            score = formed(weight, found.r[position], found.p[position], found.q[position])
            assert score.mean().item() == pytest.approx(1.0, rel=1e-5)
            if metric != "stochria":
                expected = formed(weight, one.r[position], one.p[position], one.q[position])
                torch.testing.assert_close(score, expected, rtol=1e-5, atol=0)


def test_random_subsets_are_averaged_where_the_weights_stay():
    weights, norm = matrices()
    fixed = fixed_saliency(METRICS["stochria"], weights[:1], [5]).factors(norm[:1])
    draws = Saliency(METRICS["stochria"], weights[:1], [5], BACKEND, 2)
    whole = Saliency(METRICS["ria"], weights[:1], [5], BACKEND, 2).of_sample(norm[:1], 0)
    mean = torch.stack([draws.of_sample(norm[:1], sample).r for sample in range(64)]).mean(0)
    torch.testing.assert_close(fixed.r / fixed.r.mean(), mean / mean.mean(), rtol=0.02, atol=0)
    assert not torch.allclose(fixed.r / fixed.r.mean(), whole.r / whole.r.mean(), rtol=0.02)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [Saliency, FixedSaliency])
def test_rows_and_columns_of_zeros_have_no_saliency_and_no_nan(metric, kind):
    weight = torch.randn(10, 20, generator=torch.Generator().manual_seed(1))
    weight[3], weight[:, 7] = 0.0, 0.0
    norm = torch.ones(1, 20)
    norm[0, 5] = 0.0
    score = formed(weight, *one_of(kind, metric, weight, norm))
    assert torch.isfinite(score).all()
    assert not score[3].any()
    assert not score[:, 7].any()
    assert score.mean().item() == pytest.approx(1.0, rel=1e-5)


def one_of(kind, metric, weight, norm):
    if kind is FixedSaliency:
        factors = fixed_saliency(METRICS[metric], [weight], [0]).factors(norm)
    else:
        factors = Saliency(METRICS[metric], [weight], [0], BACKEND, 2).of_sample(norm, 0)
    return factors.r[0], factors.p[0], factors.q[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [Saliency, FixedSaliency])
@pytest.mark.parametrize("nothing", ["weights", "inputs"])
def test_without_weights_or_inputs_the_saliency_is_zero(metric, kind, nothing):
    weight = torch.zeros(8, 8) if nothing == "weights" else torch.ones(8, 8)
    norm = torch.ones(1, 8) if nothing == "weights" else torch.zeros(1, 8)
    vectors = one_of(kind, metric, weight, norm)
    assert all(torch.isfinite(vector).all() for vector in vectors)
    assert formed(weight, *vectors).any() == (nothing == "inputs" and metric == "magnitude")


def test_subsets_have_their_size_and_stay_inside_their_matrix():
    inputs, outputs = Draws(SHAPES, [0, 1, 2, 3], 7, torch.device("cpu")).of_sample(3)
    for position, (rows, columns) in enumerate(SHAPES):
        for chosen, length in ((inputs[position], columns), (outputs[position], rows)):
            assert chosen[:length].sum() == subset_size((rows, columns))
            assert not chosen[length:].any()


def test_a_subset_depends_on_seed_sample_and_matrix_alone():
    def first_inputs(seed=7, sample=3, stream=1, shapes=((40, 60),)):
        return Draws(list(shapes), [stream] * len(shapes), seed, torch.device("cpu")).of_sample(sample)[0][0, :60]

    assert torch.equal(first_inputs(), first_inputs(shapes=[(40, 60), (8, 90)]))
    different = [first_inputs(seed=8), first_inputs(sample=4), first_inputs(stream=2), first_inputs(seed=7 + 2**31)]
    assert not any(torch.equal(first_inputs(), other) for other in different)


def test_every_index_is_drawn_equally_often():
    inputs, _ = Draws([(500, 300)], [3], 0, torch.device("cpu")).of_matrix(0, 2000)
    drawn = inputs.mean(0)  # each is 0.2 within five standard deviations
    assert drawn.mean().item() == pytest.approx(60 / 300)
    assert (drawn - 0.2).abs().max() < 5 * (0.2 * 0.8 / 2000) ** 0.5
    neighbours = (inputs[:, 1:] * inputs[:, :-1]).mean().item()
    assert neighbours == pytest.approx(0.04, abs=0.002)
