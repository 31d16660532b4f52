"""Conformance on NaN and infinity beyond the kinds of weights and scores: in states, factors and thresholds."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.checks_adamw import OPTIONS, state
from unipruning_core.testing.checks_feedback import DRIFTS, EXPONENTS, NUMBERS, searched
from unipruning_core.testing.checks_step import step
from unipruning_core.testing.inputs import floats, layouts, make_weight, not_finite, spoilt
from unipruning_core.testing.subject import Subject

SHAPE = (63, 100)
RARE = 0.01  # so that most rows and columns of a matrix have some, and some none


def rarely(rng: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    return [spoilt(rng, tensor, RARE) for tensor in tensors]


def not_negative(rng: torch.Generator, tensor: Tensor) -> Tensor:
    """The tensor with some infinities and NaN, and no -inf."""
    values = spoilt(rng, tensor, RARE)
    return torch.where(values == -inf, inf, values)


@floats
def test_accumulate_sumsq_tells_infinity_from_nan(subject: Subject, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, inf, nan, -inf, -2.0, nan], [2.0, 3.0, 4.0, -inf, 0.0, inf]], dtype=dtype)
    out = torch.tensor([0.0, 0.0, 0.0, 0.0, inf, 0.0])
    outcome = subject.check("accumulate_sumsq", x, out)["out"]
    assert torch.equal(outcome.nan_to_num(nan=-1.0, posinf=-2.0), torch.tensor([5.0, -2.0, -1.0, -2.0, -2.0, -1.0]))


@layouts
@floats
def test_accumulate_sumsq_reads_every_number_that_is_not_finite(
    subject: Subject, dtype: torch.dtype, layout: str
) -> None:
    # a row so long that some are read in vectors and some are left over
    row = not_finite(dtype).repeat(9)[:-3]
    x = torch.stack([torch.ones_like(row), row])
    assert not subject.check("accumulate_sumsq", x, torch.zeros(x.shape[1]), layout=layout)["out"].isfinite().any()


@pytest.mark.parametrize("counts", [(2, 2), (17, 33)], ids=str)
@layouts
@floats
def test_abs_sums_multiply_nothing_and_infinity_to_nan(
    subject: Subject, rng: torch.Generator, counts: tuple[int, int], layout: str, dtype: torch.dtype
) -> None:
    rows, columns = SHAPE
    weight = make_weight(rng, SHAPE, dtype, "not finite")
    inputs, outputs = torch.rand(counts[0], columns, generator=rng), torch.rand(counts[1], rows, generator=rng)
    inputs[0], outputs[0] = inputs[0].round(), outputs[0].round()
    sums = subject.check("abs_sums", weight, inputs, outputs, layout=layout)
    for total in sums.values():
        assert total.isfinite().any()
        assert total.isnan().any()
        assert total.isinf().any()


@pytest.mark.parametrize("tau", [0.25, inf])
@pytest.mark.parametrize("rank", [1, 3150, 6299, 6300])
@layouts
def test_mirror_step_goes_on_from_any_dual_factors_and_threshold(
    subject: Subject, rng: torch.Generator, tau: float, rank: int, layout: str
) -> None:
    dual, weight, r, p, q, _ = step(rng, SHAPE, torch.bfloat16, dual="not finite")
    gradient = make_weight(rng, SHAPE, torch.float16, "not finite")
    arguments = dual, weight, *rarely(rng, r, p, q), torch.tensor(tau)
    subject.check("mirror_step", *arguments, step_size=0.1, rank=rank, gradient=gradient, phi=0.5, layout=layout)


def test_mirror_step_counts_nan_as_infinity_in_the_threshold(subject: Subject, rng: torch.Generator) -> None:
    dual, *rest = step(rng, (257, 1028))
    dual[0] = nan
    outcome = subject.check("mirror_step", dual, *rest, step_size=0.1, rank=dual.numel() - 1027)
    assert outcome["threshold"] == inf
    assert outcome["dual"][0].isnan().all()


@EXPONENTS
@DRIFTS
@pytest.mark.parametrize("pull", [0.0, 0.125])
def test_feedback_scores_of_any_state(
    subject: Subject, rng: torch.Generator, exponent: float, drifts: bool, pull: float
) -> None:
    weight, second, drift, *factors = searched(rng, SHAPE, torch.float32, "levels", drifts=drifts)
    drift = None if drift is None else spoilt(rng, drift, RARE)
    arguments = weight, not_negative(rng, second), drift, *(not_negative(rng, factor) for factor in factors)
    subject.check("feedback_scores", *arguments, **(NUMBERS | {"exponent": exponent, "pull": pull}))


@pytest.mark.parametrize("pattern", [None, (2, 4), (3, 5)], ids=str)
@pytest.mark.parametrize("threshold", [0.0, inf, nan])
@floats
def test_mask_weight_compares_scores_that_are_not_finite(
    subject: Subject, rng: torch.Generator, pattern: tuple[int, int] | None, threshold: float, dtype: torch.dtype
) -> None:
    weight, second, drift, *factors = searched(rng, SHAPE, dtype, "not finite")
    arguments = weight, not_negative(rng, second), spoilt(rng, drift, RARE), *factors
    options = NUMBERS | {"first": 0, "stride": 1, "pattern": pattern}
    subject.check("mask_weight", *arguments, torch.tensor(threshold), torch.empty(weight.numel()), **options)


@layouts
@floats
def test_remask_weight_keeps_or_zeroes_what_is_not_finite(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    weight, _, drift, *_ = searched(rng, SHAPE, dtype, "not finite")
    kept = torch.randint(0, 256, (63, 13), generator=rng, dtype=torch.uint8) & torch.tensor([255] * 12 + [15])
    arguments = weight, spoilt(rng, drift, RARE), kept.to(torch.uint8)
    subject.check("remask_weight", *arguments, learning_rate=0.25, layout=layout)


@layouts
@floats
@DRIFTS
def test_feedback_step_goes_on_from_any_state(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype, drifts: bool
) -> None:
    _, second, drift, *_ = searched(rng, SHAPE, dtype, drifts=drifts)
    second, drift = not_negative(rng, second), None if drift is None else spoilt(rng, drift, RARE)
    gradient = make_weight(rng, SHAPE, dtype, "not finite")
    outcome = subject.check("feedback_step", second, drift, gradient, torch.tensor(0.75), decay=0.05, layout=layout)
    lost = ~gradient.isfinite() | ~second.isfinite()
    assert not outcome["second"][lost].isfinite().any(), "a step made a second moment finite again"


@floats
def test_adamw_step_goes_on_from_any_state(subject: Subject, rng: torch.Generator, dtype: torch.dtype) -> None:
    weight, gradient, first, second, scale = state(rng, SHAPE, dtype, kind="not finite")
    arguments = *rarely(rng, weight), gradient, *rarely(rng, first), not_negative(rng, second), scale
    subject.check("adamw_step", *arguments, **OPTIONS)
