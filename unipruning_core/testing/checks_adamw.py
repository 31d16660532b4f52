"""Conformance of the AdamW step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.inputs import FLOATS, Shape, floats, layouts, make_weight, shapes, weight_kinds
from unipruning_core.testing.subject import Subject

OPTIONS: dict[str, Any] = {"step": 3, "learning_rate": 0.01, "betas": (0.9, 0.999), "epsilon": 1e-10}


def state(
    rng: torch.Generator, shape: Shape, dtype: torch.dtype, gradient: torch.dtype | None = None, kind: str = "normal"
) -> tuple[Tensor, ...]:
    """Weight, gradient, both moments and the scale, as they are some steps in."""
    weight, moment, spread = (make_weight(rng, shape, each) for each in (dtype, dtype, torch.float32))
    return weight, make_weight(rng, shape, gradient or dtype, kind), moment, spread.square(), torch.tensor(0.3)


@shapes
@floats
def test_adamw_step_equals_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype
) -> None:
    subject.check("adamw_step", *state(rng, shape, dtype), **OPTIONS)


@floats
@pytest.mark.parametrize("other", FLOATS, ids=lambda dtype: f"gradient {str(dtype).removeprefix('torch.')}")
def test_adamw_step_takes_any_dtype_of_the_gradient(
    subject: Subject, rng: torch.Generator, dtype: torch.dtype, other: torch.dtype
) -> None:
    subject.check("adamw_step", *state(rng, (63, 100), dtype, other), **OPTIONS)


@layouts
@floats
def test_adamw_step_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    subject.check("adamw_step", *state(rng, (63, 100), dtype), layout=layout, **OPTIONS)


@weight_kinds
@floats
def test_adamw_step_begins_with_every_kind_of_gradient(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    weight, gradient, first, second, scale = state(rng, (63, 100), dtype, kind=kind)
    first_step = {**OPTIONS, "step": 1}
    outcome = subject.check("adamw_step", weight, gradient, first.zero_(), second.zero_(), scale, **first_step)
    still = gradient == 0
    assert torch.equal(outcome["weight"][still], weight[still]), "a weight without a gradient moved"


@pytest.mark.parametrize("options", [{"step": 1000}, {"learning_rate": 0.0}, {"betas": (0.5, 0.9)}, {"epsilon": 0.1}])
def test_adamw_step_heeds_its_options(subject: Subject, rng: torch.Generator, options: dict[str, Any]) -> None:
    arguments = state(rng, (63, 100), torch.float32)
    outcome = subject.check("adamw_step", *arguments, **(OPTIONS | options))
    assert torch.equal(outcome["weight"], arguments[0]) == ("learning_rate" in options)


def test_adamw_step_keeps_a_second_moment_that_grows_by_little(subject: Subject) -> None:
    weight, second = torch.ones(4, 8, dtype=torch.bfloat16), torch.full((4, 8), 0.5)
    arguments = weight, weight.clone(), weight.clone(), second, torch.tensor(0.75)
    assert (subject.check("adamw_step", *arguments, **OPTIONS)["second"] > second).all()


@floats
def test_adamw_step_repeats_bit_for_bit(subject: Subject, rng: torch.Generator, dtype: torch.dtype) -> None:
    subject.repeat("adamw_step", *state(rng, (128, 512), dtype), **OPTIONS)
