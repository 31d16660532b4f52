"""The CPU backend's blend of scores over the whole range of fp32: powers, exponentials, overflow and zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def every_magnitude() -> Tensor:
    """One row of fp32 values, evenly spread over their bits: each binade has some, denormals too."""
    return torch.linspace(0, 0x7F7FFFFF, 40_009, dtype=torch.float64).int().view(torch.float32)[None]


@pytest.mark.parametrize("exponent", [0.0, 2.0**-10, 0.3125, 0.5, 0.6875, 1.0, 1.5, 2.0, 2.5, 3.0, 40.0])
def test_the_power_is_good_over_the_whole_range(backend, exponent):
    near_one = torch.linspace(0.99, 1.01, 20_001)[None]
    for local in (every_magnitude(), near_one, torch.zeros(1, 4)):
        found = backend.blend_scores(torch.ones_like(local), local, exponent)
        wanted = local.double().pow(exponent).float()
        torch.testing.assert_close(found, wanted, rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize("pull", [1.0, -1.0, 1e-3, 1e4])
def test_the_exponential_is_good_over_the_whole_range(backend, pull):
    drift = torch.cat([every_magnitude(), torch.linspace(0.0, 110.0, 50_001)[None]], dim=1) / abs(pull)
    drift = drift[drift.mul(pull).isfinite()][None]
    one = torch.ones_like(drift)
    for sign in (1.0, -1.0):
        found = backend.blend_scores(one, one, 1.0, one * sign, drift, pull)
        wanted = (drift * pull * sign).double().exp().float()
        torch.testing.assert_close(found, wanted, rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize(
    ("feedback", "local", "exponent", "weight", "drift", "pull", "score"),
    [
        (4.0, 0.0, 0.0, -3.0, 0.0, 1.0, 6.0),
        (4.0, 0.0, 0.7, -3.0, 1.0, 1.0, 0.0),
        (4.0, 1.0, 1.0, -0.0, 3e38, 100.0, 0.0),
        (4.0, 1.0, 1.0, 0.0, 3e38, -100.0, 0.0),
        (4.0, 1.0, 1.0, 1.0, 3e38, 100.0, float("inf")),
        (4.0, 1.0, 1.0, -1.0, 3e38, 100.0, 0.0),
        (4.0, 1.0, 1.0, -1.0, -3e38, 100.0, float("inf")),
        # the weight takes 2^127 back into the range, and neither it nor the exponential what was beyond
        (2.0**126, 2.0**64, 1.0, 2.0**-64, 0.0, 0.0, 2.0**63),
        (2.0**126, 2.0**65, 1.0, 2.0**-64, 0.0, 0.0, float("inf")),
        (2.0**126, 2.0**60, 1.0, 2.0**5, -1.0, 80.0, float("inf")),
        (2.0**-140, 2.0**-140, 1.0, 1.0, 1.0, 60.0, 0.0),
    ],
)
def test_a_blend_at_the_ends_of_the_range_is_as_defined(backend, feedback, local, exponent, weight, drift, pull, score):
    f, v, w, d = (torch.full((1, 19), value) for value in (feedback, local, weight, drift))
    found = backend.blend_scores(f, v, exponent, w, d, pull)
    assert found.tolist() == [[score] * 19]
