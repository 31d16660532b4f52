"""Conformance of the operations that add up, and of the blend of two scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.inputs import Shape, floats, layouts, make_weight, shapes, weight_kinds
from unipruning_core.testing.subject import Subject

EXPONENTS = pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.5])


@shapes
@floats
def test_accumulate_sumsq_adds_to_what_is_there(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype
) -> None:
    subject.check("accumulate_sumsq", make_weight(rng, shape, dtype), torch.rand(shape[1], generator=rng))


@layouts
@floats
def test_accumulate_sumsq_takes_any_strides(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    subject.check("accumulate_sumsq", make_weight(rng, (63, 100), dtype), torch.rand(100, generator=rng), layout=layout)


@weight_kinds
@floats
def test_accumulate_sumsq_converts_before_it_squares(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    subject.check("accumulate_sumsq", make_weight(rng, (63, 100), dtype, kind), torch.zeros(100))


@floats
def test_accumulate_sumsq_of_no_tokens_changes_nothing(subject: Subject, dtype: torch.dtype) -> None:
    out = torch.arange(100.0)
    assert torch.equal(subject.check("accumulate_sumsq", torch.empty(0, 100, dtype=dtype), out)["out"], out)


@shapes
@floats
def test_abs_sums_equal_the_reference(subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype) -> None:
    subject.check("abs_sums", make_weight(rng, shape, dtype), torch.rand(shape[1], generator=rng))


@layouts
@floats
def test_abs_sums_take_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    subject.check("abs_sums", make_weight(rng, (63, 100), dtype), torch.rand(100, generator=rng), layout=layout)


@weight_kinds
@floats
def test_abs_sums_take_every_kind_of_weight(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    subject.check("abs_sums", make_weight(rng, (63, 100), dtype, kind), torch.rand(100, generator=rng))


def test_abs_sums_of_unheard_inputs_are_zero(subject: Subject, rng: torch.Generator) -> None:
    sums = subject.check("abs_sums", make_weight(rng, (63, 100), torch.bfloat16), torch.zeros(100))
    assert not sums["weighted rows"].any()


@shapes
@EXPONENTS
def test_blend_scores_equals_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, exponent: float
) -> None:
    feedback, local = make_weight(rng, shape, torch.float32).square(), make_weight(rng, shape, torch.float32).abs()
    subject.check("blend_scores", feedback, local, exponent)


@layouts
def test_blend_scores_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str) -> None:
    feedback, local = torch.rand(63, 100, generator=rng), torch.rand(63, 100, generator=rng)
    subject.check("blend_scores", feedback, local, 0.5, layout=layout)
    weight = local.bfloat16()
    subject.check("blend_scores", feedback, local, 0.5, weight, weight.flip(0), pull=1.5, layout=layout)


@shapes
@floats
def test_blend_scores_takes_the_weight_in(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype
) -> None:
    feedback, local = torch.rand(2, *shape, generator=rng).unbind()
    weight, drift = make_weight(rng, shape, dtype), make_weight(rng, shape, dtype)
    subject.check("blend_scores", feedback, local, 0.5, weight=weight)
    subject.check("blend_scores", feedback, local, 0.5, weight=weight, drift=drift, pull=0.75)


@weight_kinds
@EXPONENTS
def test_blend_scores_takes_every_kind_of_dual(
    subject: Subject, rng: torch.Generator, kind: str, exponent: float
) -> None:
    local = make_weight(rng, (63, 100), torch.float32, kind).abs()
    subject.check("blend_scores", local.flip(0).contiguous(), local, exponent)


def test_blend_scores_takes_nothing_to_the_power_of_nothing_as_one(subject: Subject) -> None:
    feedback, local = torch.tensor([[4.0, 9.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert subject.check("blend_scores", feedback, local, 0.0)["score"].tolist() == [[2.0, 3.0, 0.0]]


def _arguments(operation: str, rng: torch.Generator) -> tuple[Tensor | float, ...]:
    first = torch.rand(257, 1028, generator=rng)
    return {
        "accumulate_sumsq": (first, torch.zeros(1028)),
        "abs_sums": (first, first[0].clone()),
        "blend_scores": (first, first.flip(0).contiguous(), 0.5),
    }[operation]


@pytest.mark.parametrize("operation", ["accumulate_sumsq", "abs_sums", "blend_scores"])
def test_sums_repeat_bit_for_bit(subject: Subject, rng: torch.Generator, operation: str) -> None:
    subject.repeat(operation, *_arguments(operation, rng))
