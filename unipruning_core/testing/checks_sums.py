"""Conformance of the operations that add up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.inputs import Shape, floats, layouts, make_weight, shapes, weight_kinds
from unipruning_core.testing.subject import Subject


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


def sum_factors(rng: torch.Generator, shape: Shape, inputs: int = 2, outputs: int = 2) -> tuple[Tensor, Tensor]:
    """Factors for inputs and outputs; the first of each are ones, the second zeros and ones."""
    rows, columns = shape
    drawn = torch.rand(inputs, columns, generator=rng), torch.rand(outputs, rows, generator=rng)
    for factor in drawn:
        factor[:1] = 1.0
        factor[1:2] = factor[1:2].round()
    return drawn


@shapes
@floats
def test_abs_sums_equal_the_reference(subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype) -> None:
    subject.check("abs_sums", make_weight(rng, shape, dtype), *sum_factors(rng, shape))


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (0, 0), (3, 1), (17, 33)], ids=str)
@floats
def test_abs_sums_take_any_number_of_factors(
    subject: Subject, rng: torch.Generator, counts: tuple[int, int], dtype: torch.dtype
) -> None:
    subject.check("abs_sums", make_weight(rng, (63, 100), dtype), *sum_factors(rng, (63, 100), *counts))


@layouts
@floats
def test_abs_sums_take_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    subject.check("abs_sums", make_weight(rng, (63, 100), dtype), *sum_factors(rng, (63, 100)), layout=layout)


@weight_kinds
@floats
def test_abs_sums_take_every_kind_of_weight(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    subject.check("abs_sums", make_weight(rng, (63, 100), dtype, kind), *sum_factors(rng, (63, 100)))


def test_abs_sums_of_unheard_inputs_are_zero(subject: Subject, rng: torch.Generator) -> None:
    sums = subject.check(
        "abs_sums", make_weight(rng, (63, 100), torch.bfloat16), torch.zeros(1, 100), torch.ones(1, 63)
    )
    assert not sums["rows"].any()


def _arguments(operation: str, rng: torch.Generator) -> tuple[Tensor, ...]:
    first = torch.rand(257, 1028, generator=rng)
    return {
        "accumulate_sumsq": (first, torch.zeros(1028)),
        "abs_sums": (first, *sum_factors(rng, (257, 1028))),
    }[operation]


@pytest.mark.parametrize("operation", ["accumulate_sumsq", "abs_sums"])
def test_sums_repeat_bit_for_bit(subject: Subject, rng: torch.Generator, operation: str) -> None:
    subject.repeat(operation, *_arguments(operation, rng))
