"""Conformance of the mirror step: V and tau, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.inputs import (
    FLOATS,
    Shape,
    floats,
    layouts,
    make_score,
    make_weight,
    score_kinds,
    shapes,
    weight_kinds,
)
from unipruning_core.testing.subject import Subject

RANKS = pytest.mark.parametrize("share", [None, 0.0, "first", 0.001, 0.5, 1.0], ids=str)


def step(
    rng: torch.Generator,
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    *,
    weight: str = "normal",
    dual: str = "distinct",
    tau: float = 0.25,
) -> tuple[Tensor, ...]:
    """The six tensors of a step."""
    r, p, q = torch.rand(shape[0], generator=rng), *torch.rand(2, shape[1], generator=rng).unbind()
    return make_score(rng, shape, dual), make_weight(rng, shape, dtype, weight), r, p, q, torch.tensor(tau)


def as_rank(share: float | str | None, shape: Shape) -> int | None:
    if share is None or isinstance(share, str):
        return 1 if share else None
    return round(share * shape[0] * shape[1])


@shapes
@RANKS
def test_mirror_step_equals_the_reference_bit_for_bit(
    subject: Subject, rng: torch.Generator, shape: Shape, share: float | str | None
) -> None:
    subject.check("mirror_step", *step(rng, shape), step_size=0.01, rank=as_rank(share, shape))


@floats
@pytest.mark.parametrize("other", FLOATS, ids=lambda dtype: f"gradient {str(dtype).removeprefix('torch.')}")
def test_mirror_step_adds_the_gradient_term(
    subject: Subject, rng: torch.Generator, dtype: torch.dtype, other: torch.dtype
) -> None:
    gradient = make_weight(rng, (257, 1028), other)
    subject.check("mirror_step", *step(rng, (257, 1028), dtype), step_size=0.3, rank=1000, gradient=gradient, phi=0.7)


@pytest.mark.parametrize("phi", [0.0, 1e-30, 1e6])
def test_mirror_step_takes_any_weight_of_the_gradient_term(subject: Subject, rng: torch.Generator, phi: float) -> None:
    gradient = make_weight(rng, (63, 100), torch.bfloat16)
    subject.check("mirror_step", *step(rng, (63, 100)), step_size=1.0, rank=3150, gradient=gradient, phi=phi)


@layouts
@floats
def test_mirror_step_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    gradient = make_weight(rng, (63, 100), dtype)
    options: dict[str, Any] = {"step_size": 0.1, "rank": 63, "gradient": gradient, "phi": 0.5}
    subject.check("mirror_step", *step(rng, (63, 100), dtype), layout=layout, **options)


@weight_kinds
@floats
def test_mirror_step_takes_every_kind_of_weight(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    subject.check("mirror_step", *step(rng, (63, 100), dtype, weight=kind), step_size=0.1, rank=3150)


@score_kinds
@pytest.mark.parametrize("tau", [0.0, 2.0**-130, 0.75, 1e9])
def test_mirror_step_takes_every_kind_of_dual_and_threshold(
    subject: Subject, rng: torch.Generator, kind: str, tau: float
) -> None:
    subject.check("mirror_step", *step(rng, (63, 100), dual=kind, tau=tau), step_size=0.1, rank=3150)


@pytest.mark.parametrize("kind", ["levels", "equal", "zeros", "denormals"])
@pytest.mark.parametrize("rank", [1, 500, 6300])
def test_mirror_step_finds_the_exact_threshold_among_ties(
    subject: Subject, rng: torch.Generator, kind: str, rank: int
) -> None:
    # nothing pulls and tau is zero, so the levels stay levels: V becomes V - kappa V
    arguments = step(rng, (63, 100), weight="zeros", dual=kind, tau=0.0)
    outcome = subject.check("mirror_step", *arguments, step_size=0.5, rank=rank)
    assert outcome["threshold"] == outcome["dual"].abs().flatten().sort().values[rank - 1]


@pytest.mark.parametrize("step_size", [0.0, 0.01, 1.0])
def test_mirror_step_takes_any_step_size(subject: Subject, rng: torch.Generator, step_size: float) -> None:
    subject.check("mirror_step", *step(rng, (128, 512)), step_size=step_size, rank=65)


def test_mirror_step_without_rank_keeps_the_threshold(subject: Subject, rng: torch.Generator) -> None:
    assert subject.check("mirror_step", *step(rng, (3, 8)), step_size=0.1, rank=None)["threshold"] == 0.25


def test_mirror_step_of_rank_zero_clears_the_threshold(subject: Subject, rng: torch.Generator) -> None:
    assert subject.check("mirror_step", *step(rng, (3, 8)), step_size=0.1, rank=0)["threshold"] == 0.0


def test_mirror_step_repeats_bit_for_bit(subject: Subject, rng: torch.Generator) -> None:
    subject.repeat("mirror_step", *step(rng, (257, 1028)), step_size=0.01, rank=264)
