"""Conformance of the proximal step: equal to the reference, and a minimiser in its own right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.compare import TOLERANCES
from unipruning_core.testing.inputs import Shape, floats, layouts, make_weight, make_weights
from unipruning_core.testing.subject import Subject
from unipruning_kernels import reference

CASES = [
    pytest.param(shape, n, m, strength, id=f"{strength}-{shape[0]}x{shape[1]}-{n}:{m}")
    for shape, n, m in [
        ((1, 4), 2, 4),
        ((3, 8), 1, 4),
        ((3, 8), 4, 8),
        ((63, 100), 1, 2),
        ((63, 100), 3, 4),
        ((5, 64), 1, 8),
        ((5, 64), 7, 8),
        ((5, 64), 8, 16),
        ((3, 64), 16, 32),
        ((5, 64), 31, 32),
        ((32, 512), 2, 4),
        ((33, 1028), 2, 4),
    ]
    # the reference is slow: few rows, and one strength for wide groups and for many
    for strength in ([0.3] if m > 8 or shape[1] > 1000 else [0.01, 0.3, 5.0])
]


def settled(weight: Tensor, strength: float, n: int, m: int) -> Tensor:
    """The weight with those groups zeroed in which a hair's breadth decides how many elements survive.

    There two candidates are equally good, and rounding, which is not part of this definition, picks one.  A group is
    such a one if a strength or a weight that differs by no more than rounding could matter leaves other elements.
    """
    rng = torch.Generator().manual_seed(0)
    same = weight.float().expand(1, *weight.shape)
    near_by = weight.float() * (1.0 + 1e-6 * torch.randn(3, *weight.shape, generator=rng))
    survivors: list[Tensor] = []
    for weights, share in [(same, 0.999), (same, 1.001), (near_by, 1.0)]:
        rows = weights.reshape(-1, weight.shape[1]).clone()
        reference.nm_prox(rows, strength * share, n, m)
        survivors += (rows != 0).view(weights.shape).unbind()
    contested = (
        torch.stack([found != survivors[0] for found in survivors]).any(dim=0).view(-1, m).any(dim=1, keepdim=True)
    )
    return weight.view(-1, m).masked_fill(contested, 0.0).view(weight.shape)


def objective(w: Tensor, z: Tensor, strength: float, n: int, m: int) -> Tensor:
    """What the proximal step minimises, for each group, (out * in / m,) float64."""
    w, z = (tensor.double().reshape(-1, m) for tensor in (w, z))
    elementary = torch.zeros(w.shape[0], n + 2, dtype=torch.float64)
    elementary[:, 0] = 1.0
    for j in range(m):
        elementary[:, 1:] += w[:, j : j + 1].abs() * elementary[:, :-1].clone()
    return 0.5 * (w - z).square().sum(dim=1) + strength * elementary[:, n + 1]


@pytest.mark.parametrize(("shape", "n", "m", "strength"), CASES)
def test_nm_prox_equals_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, n: int, m: int, strength: float
) -> None:
    z = settled(make_weight(rng, shape, torch.float32), strength, n, m)
    subject.check("nm_prox", z, strength, n, m)


@floats
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 8), (2, 5)])
def test_nm_prox_is_no_worse_than_doing_nothing_or_cutting(
    subject: Subject, rng: torch.Generator, dtype: torch.dtype, n: int, m: int
) -> None:
    z = settled(make_weight(rng, (64, 40), dtype), 0.2, n, m)
    w = subject.check("nm_prox", z, 0.2, n, m)["weight"]
    cut = z.masked_fill(~reference.nm_mask(z.float(), n, m), 0.0)
    # the result is rounded to the dtype of the weight, which costs a little
    slack = 1.0 + 4.0 * TOLERANCES["nm_prox"][dtype][0]
    for candidate in (z, cut):
        assert (objective(w, z, 0.2, n, m) <= slack * objective(candidate, z, 0.2, n, m) + 1e-5).all()
    assert ((w == 0) | (w.sign() == z.sign())).all(), "nm_prox turned a sign around"
    assert (w.abs() <= z.abs()).all(), "nm_prox made a magnitude larger"


@layouts
@floats
def test_nm_prox_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    z = settled(make_weight(rng, (63, 100), dtype), 0.3, 2, 4)
    subject.check("nm_prox", z, 0.3, 2, 4, layout=layout)


@floats
def test_nm_prox_takes_every_kind_of_weight(subject: Subject, rng: torch.Generator, dtype: torch.dtype) -> None:
    z = settled(make_weights(rng, (16, 64), dtype), 0.3, 2, 4)
    subject.check("nm_prox", z, 0.3, 2, 4)


@floats
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8)])
def test_nm_prox_of_no_strength_changes_nothing(
    subject: Subject, rng: torch.Generator, dtype: torch.dtype, n: int, m: int
) -> None:
    z = make_weight(rng, (5, 64), dtype)
    assert torch.equal(subject.check("nm_prox", z, 0.0, n, m)["weight"], z)


def test_nm_prox_leaves_sparse_groups_alone(subject: Subject, rng: torch.Generator) -> None:
    z = make_weight(rng, (63, 100), torch.float32)
    z = z.masked_fill(~reference.nm_mask(z, 2, 4), 0.0)
    assert torch.equal(subject.check("nm_prox", z, 5.0, 2, 4)["weight"], z)


def test_nm_prox_repeats_bit_for_bit(subject: Subject, rng: torch.Generator) -> None:
    subject.repeat("nm_prox", make_weight(rng, (128, 512), torch.bfloat16), 0.3, 2, 4)
