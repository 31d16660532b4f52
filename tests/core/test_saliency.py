import pytest
import torch

from unipruning_core.search.metrics import METRICS, SUBSET_FRACTION
from unipruning_core.search.saliency import saliency_factors
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()


def dense(metric, weight, norm, seed=0):
    """S as the table of the module states it, formed whole and in double precision."""
    w, n = weight.double().abs(), norm.double()
    rows, columns = w.sum(dim=1), w.sum(dim=0)
    if metric == "stochria":
        generator = torch.Generator().manual_seed(seed)
        size = round(SUBSET_FRACTION * min(w.shape))
        some_columns = torch.randperm(w.shape[1], generator=generator)[:size]
        some_rows = torch.randperm(w.shape[0], generator=generator)[:size]
        rows, columns = w[:, some_columns].sum(dim=1), w[some_rows].sum(dim=0)
    score = {
        "magnitude": lambda: w,
        "wanda": lambda: w * n,
        "ria": lambda: (w / rows[:, None] + w / columns) * n**0.5,
        "stochria": lambda: (w / rows[:, None] + w / columns) * n**0.7,
    }[metric]()
    return score / score.mean()


def formed(weight, factors):
    return weight.double().abs() * (factors.r.double()[:, None] * factors.p.double() + factors.q.double())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_factors_form_the_metric_with_mean_one(metric, dtype):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(40, 60, generator=generator).to(dtype)
    norm = torch.rand(60, generator=generator) + 0.1
    factors = saliency_factors(METRICS[metric], weight, norm, BACKEND, torch.Generator().manual_seed(0))
    torch.testing.assert_close(formed(weight, factors), dense(metric, weight, norm), rtol=2e-6, atol=0)
    assert formed(weight, factors).mean().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_and_columns_of_zeros_have_no_saliency_and_no_nan(metric):
    weight = torch.randn(10, 20, generator=torch.Generator().manual_seed(1))
    weight[3], weight[:, 7] = 0.0, 0.0
    norm = torch.ones(20)
    norm[5] = 0.0
    factors = saliency_factors(METRICS[metric], weight, norm, BACKEND, torch.Generator().manual_seed(0))
    score = formed(weight, factors)
    assert torch.isfinite(score).all()
    assert not score[3].any()
    assert not score[:, 7].any()
    assert score.mean().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_a_matrix_of_zeros_has_saliency_zero(metric):
    factors = saliency_factors(METRICS[metric], torch.zeros(8, 8), torch.ones(8), BACKEND, torch.Generator())
    assert not formed(torch.zeros(8, 8), factors).any()
    assert all(torch.isfinite(vector).all() for vector in (factors.r, factors.p, factors.q))


def test_only_a_metric_with_random_subsets_draws_from_the_generator():
    weight, norm = torch.randn(20, 20, generator=torch.Generator().manual_seed(1)), torch.ones(20)
    for name, metric in METRICS.items():
        generator = torch.Generator().manual_seed(5)
        before = generator.get_state()
        saliency_factors(metric, weight, norm, BACKEND, generator)
        assert torch.equal(before, generator.get_state()) == (name != "stochria")
