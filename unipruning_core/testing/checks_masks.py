"""Conformance of the row-wise and N:M masks."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.testing.inputs import SHAPES, Shape, layouts, make_score, make_scores, shapes
from unipruning_core.testing.subject import Subject

PATTERNS = [(n, m) for m in (2, 4, 8, 16, 32) for n in sorted({1, m // 2, m - 1})]
CASES = [
    pytest.param(shape, n, m, id=f"{shape[0]}x{shape[1]}-{n}:{m}")
    for shape in SHAPES
    for n, m in PATTERNS
    if shape[1] % m == 0
]


@shapes
@pytest.mark.parametrize("share", [0.0, "one", 0.5, 1.0])
def test_topk_mask_keeps_exactly_the_largest_of_each_row(
    subject: Subject, rng: torch.Generator, shape: Shape, share: float | str
) -> None:
    keep = 1 if isinstance(share, str) else round(share * shape[1])
    mask = subject.check("topk_mask", make_score(rng, shape), keep)["mask"]
    assert (mask.sum(dim=1) == keep).all()


@pytest.mark.parametrize("keep", [0, 1, 50, 99, 100])
def test_topk_mask_gives_ties_to_the_lower_index(subject: Subject, rng: torch.Generator, keep: int) -> None:
    subject.check("topk_mask", make_scores(rng, (63, 100)), keep)


@layouts
@pytest.mark.parametrize("shape", [(1, 4), (63, 100)], ids=str)
def test_topk_mask_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, shape: Shape) -> None:
    subject.check("topk_mask", make_score(rng, shape, "levels"), shape[1] // 2, layout=layout)


@pytest.mark.parametrize(("kind", "keep"), [("levels", 12_345), ("not finite", 1_234), ("not finite", 12_345)])
def test_topk_mask_takes_a_matrix_as_one_row(subject: Subject, rng: torch.Generator, kind: str, keep: int) -> None:
    subject.check("topk_mask", make_score(rng, (128, 512), kind).view(1, -1), keep)


@pytest.mark.parametrize(("shape", "n", "m"), CASES)
def test_nm_mask_keeps_exactly_n_of_every_m(
    subject: Subject, rng: torch.Generator, shape: Shape, n: int, m: int
) -> None:
    mask = subject.check("nm_mask", make_score(rng, shape), n, m)["mask"]
    assert (mask.view(-1, m).sum(dim=-1) == n).all()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_nm_mask_gives_ties_to_the_lower_index(subject: Subject, rng: torch.Generator, n: int, m: int) -> None:
    subject.check("nm_mask", make_scores(rng, (63, 96)), n, m)


@layouts
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (16, 32)])
def test_nm_mask_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, n: int, m: int) -> None:
    subject.check("nm_mask", make_score(rng, (63, 96), "levels"), n, m, layout=layout)


@pytest.mark.parametrize("operation", ["topk_mask", "nm_mask"])
def test_masks_repeat_bit_for_bit(subject: Subject, rng: torch.Generator, operation: str) -> None:
    subject.repeat(operation, make_score(rng, (257, 1028), "levels"), *((514,) if operation == "topk_mask" else (2, 4)))
