"""Conformance of the four operations of the feedback search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.inputs import FLOATS, Shape, floats, layouts, make_weight, shapes, weight_kinds
from unipruning_core.testing.subject import Subject
from unipruning_kernels import reference

NUMBERS: dict[str, Any] = {"learning_rate": 2.0**-6, "exponent": 1.0, "pull": 0.125}
EXPONENTS = pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.5])
DRIFTS = pytest.mark.parametrize("drifts", [True, False], ids=["drift", "no drift"])


def searched(
    rng: torch.Generator, shape: Shape, dtype: torch.dtype, kind: str = "normal", *, drifts: bool = True
) -> tuple[Any, ...]:
    """W, v, U, r, p and q, as they are some samples in."""
    rows, columns = shape
    return (
        make_weight(rng, shape, dtype, kind),
        torch.randn(shape, generator=rng).square().bfloat16(),
        (4 * torch.randn(shape, generator=rng)).half() if drifts else None,
        *(torch.rand(size, generator=rng) for size in (rows, columns, columns)),
    )


def threshold_between(arguments: tuple[Any, ...], share: float = 0.5, **options: Any) -> Tensor:
    """Return a threshold near a quantile of the scores, in a gap so wide that rounding moves no score across it."""
    scores = reference.feedback_scores(*arguments, **options).flatten().double().sort().values
    start = int(share * len(scores))
    low, high = scores[start:-1], scores[start + 1 :]
    wide = (high > low * (1 + 1e-4)) & (high > 1e-30)
    if not wide.any():
        return torch.zeros(())
    first = int(wide.nonzero()[0])
    return ((low[first] + high[first]) / 2).float()


def check_mask(subject: Subject, arguments: tuple[Any, ...], **options: Any) -> dict[str, Tensor]:
    """Mask half of a matrix; the core's options can be replaced by name."""
    layout, share = options.pop("layout", "contiguous"), options.pop("share", 0.5)
    options = {**NUMBERS, "first": 0, "stride": 3, "pattern": None, **options}
    numbers = {name: options[name] for name in NUMBERS}
    sample = torch.empty(max(0, -((options["first"] - arguments[0].numel()) // options["stride"])))
    threshold = threshold_between(arguments, share, **numbers)
    return subject.check("mask_weight", *arguments, threshold, sample, layout=layout, **options)


@shapes
@floats
@DRIFTS
def test_feedback_scores_equal_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype, drifts: bool
) -> None:
    subject.check("feedback_scores", *searched(rng, shape, dtype, drifts=drifts), **NUMBERS)


@weight_kinds
@EXPONENTS
def test_feedback_scores_take_every_kind_of_weight_and_exponent(
    subject: Subject, rng: torch.Generator, kind: str, exponent: float
) -> None:
    subject.check(
        "feedback_scores", *searched(rng, (63, 100), torch.float32, kind), **(NUMBERS | {"exponent": exponent})
    )


@layouts
@floats
def test_feedback_scores_take_any_strides(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    subject.check("feedback_scores", *searched(rng, (63, 100), dtype), layout=layout, **NUMBERS)


def test_feedback_scores_take_nothing_to_the_power_of_nothing_as_one(subject: Subject) -> None:
    weight, second, zeros = torch.tensor([[3.0, -2.0, 0.0]]), torch.full((1, 3), 4.0).bfloat16(), torch.zeros(3)
    options = NUMBERS | {"exponent": 0.0}
    outcome = subject.check("feedback_scores", weight, second, None, torch.zeros(1), zeros, zeros, **options)
    assert outcome["score"].tolist() == [[6.0, 4.0, 0.0]]


@shapes
@floats
@DRIFTS
def test_mask_weight_equals_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype, drifts: bool
) -> None:
    check_mask(subject, searched(rng, shape, dtype, drifts=drifts))


@layouts
@floats
def test_mask_weight_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype) -> None:
    check_mask(subject, searched(rng, (63, 100), dtype), layout=layout)


@weight_kinds
@EXPONENTS
def test_mask_weight_takes_every_kind_of_weight_and_exponent(
    subject: Subject, rng: torch.Generator, kind: str, exponent: float
) -> None:
    check_mask(subject, searched(rng, (63, 100), torch.bfloat16, kind), exponent=exponent)


@pytest.mark.parametrize("stride", [1, 2, 97, 6300, 10**9])
def test_mask_weight_draws_every_so_manieth_score(subject: Subject, rng: torch.Generator, stride: int) -> None:
    arguments = searched(rng, (63, 100), torch.bfloat16)
    drawn = check_mask(subject, arguments, stride=stride)["sample"]
    every = reference.feedback_scores(*arguments, **NUMBERS).flatten()[::stride]
    assert torch.allclose(drawn, every, rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize(
    ("first", "stride"),
    [(1, 1), (6299, 1), (1, 7), (6, 7), (100, 7), (1, 97), (96, 97), (6300, 97), (6299, 10**9), (10**9, 7), (2**40, 7)],
)
def test_mask_weight_draws_from_the_first_on(subject: Subject, rng: torch.Generator, first: int, stride: int) -> None:
    arguments = searched(rng, (63, 100), torch.bfloat16)
    drawn = check_mask(subject, arguments, first=first, stride=stride)["sample"]
    every = reference.feedback_scores(*arguments, **NUMBERS).flatten()[first::stride]
    assert torch.allclose(drawn, every, rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize("heights", [(40, 23), (1, 37, 25)], ids=str)
@pytest.mark.parametrize("stride", [1, 7, 211])
def test_mask_weight_of_rows_draws_what_the_whole_matrix_draws(
    subject: Subject, rng: torch.Generator, heights: tuple[int, ...], stride: int
) -> None:
    arguments = searched(rng, (63, 100), torch.bfloat16)
    whole = check_mask(subject, arguments, stride=stride)["sample"]
    r, p, q = arguments[3:]
    drawn, above = [], 0
    for height in heights:
        rows = slice(above, above + height)
        part = *(matrix[rows] for matrix in arguments[:3]), r[rows], p, q
        drawn.append(check_mask(subject, part, first=-100 * above % stride, stride=stride)["sample"])
        above += height
    assert torch.equal(torch.cat(drawn), whole)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 2), (4, 8), (3, 5), (16, 32)], ids=str)
@floats
def test_mask_weight_never_masks_what_the_pattern_keeps(
    subject: Subject, rng: torch.Generator, pattern: tuple[int, int], dtype: torch.dtype
) -> None:
    arguments = searched(rng, (63, 160), dtype)
    outcome = check_mask(subject, arguments, pattern=pattern, share=0.9)
    n, m = pattern
    weight = arguments[0]
    kept = reference.remask_weight(torch.ones_like(weight), None, outcome["kept"], learning_rate=0.0) > 0
    assert (kept.view(-1, m).sum(dim=1) >= n).all()


def test_mask_weight_keeps_everything_at_a_threshold_of_zero(subject: Subject, rng: torch.Generator) -> None:
    arguments = searched(rng, (63, 100), torch.bfloat16, "levels", drifts=False)
    outcome = subject.check(
        "mask_weight", *arguments, torch.zeros(()), torch.empty(6300), first=0, stride=1, pattern=None, **NUMBERS
    )
    assert torch.equal(outcome["masked"], arguments[0])


@shapes
@floats
@DRIFTS
def test_remask_weight_equals_the_reference_bit_for_bit(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype, drifts: bool
) -> None:
    arguments = searched(rng, shape, dtype, drifts=drifts)
    first = check_mask(subject, arguments)
    weight, _, drift = arguments[:3]
    again = subject.check("remask_weight", weight, drift, first["kept"], learning_rate=NUMBERS["learning_rate"])
    assert torch.equal(again["masked"], first["masked"])


@layouts
@floats
def test_remask_weight_takes_any_strides(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    weight, _, drift = searched(rng, (63, 100), dtype)[:3]
    kept = torch.randint(0, 16, (63, 13), generator=rng, dtype=torch.uint8)
    subject.check("remask_weight", weight, drift, kept, learning_rate=0.25, layout=layout)


@shapes
@floats
@DRIFTS
def test_feedback_step_equals_the_reference(
    subject: Subject, rng: torch.Generator, shape: Shape, dtype: torch.dtype, drifts: bool
) -> None:
    _, second, drift = searched(rng, shape, dtype, drifts=drifts)[:3]
    gradient = make_weight(rng, shape, dtype)
    subject.check("feedback_step", second, drift, gradient, torch.tensor(0.75), decay=0.05)


@layouts
@floats
def test_feedback_step_takes_any_strides(
    subject: Subject, rng: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    _, second, drift = searched(rng, (63, 100), dtype)[:3]
    gradient = make_weight(rng, (63, 100), dtype)
    subject.check("feedback_step", second, drift, gradient, torch.tensor(0.75), decay=0.05, layout=layout)


@weight_kinds
@floats
def test_feedback_step_begins_with_every_kind_of_gradient(
    subject: Subject, rng: torch.Generator, kind: str, dtype: torch.dtype
) -> None:
    gradient = make_weight(rng, (63, 100), dtype, kind)
    second, drift = torch.zeros(63, 100, dtype=torch.bfloat16), torch.zeros(63, 100, dtype=torch.float16)
    outcome = subject.check("feedback_step", second, drift, gradient, torch.tensor(0.25), decay=0.05)
    assert not outcome["drift"][gradient == 0].any(), "a weight without a gradient moved"


@pytest.mark.parametrize("decay", [0.001, 1.0])
def test_feedback_step_heeds_its_decay(subject: Subject, rng: torch.Generator, decay: float) -> None:
    _, second, drift = searched(rng, (63, 100), torch.float32)[:3]
    gradient = make_weight(rng, (63, 100), torch.float32)
    subject.check("feedback_step", second, drift, gradient, torch.tensor(0.75), decay=decay)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_feedback_scores_and_what_they_decide_repeat_bit_for_bit(
    subject: Subject, rng: torch.Generator, dtype: torch.dtype
) -> None:
    arguments = searched(rng, (128, 512), dtype)
    weight, second, drift = arguments[:3]
    subject.repeat("feedback_scores", *arguments, **NUMBERS)
    rest = torch.tensor(0.5), torch.empty(65536)
    subject.repeat("mask_weight", *arguments, *rest, first=0, stride=1, pattern=None, **NUMBERS)
    subject.repeat("feedback_step", second, drift, weight, torch.tensor(0.75), decay=0.05)


@pytest.mark.parametrize("pattern", [None, (2, 4), (3, 5)], ids=str)
@DRIFTS
def test_feedback_operations_take_a_matrix_without_rows(
    subject: Subject, rng: torch.Generator, drifts: bool, pattern: tuple[int, int] | None
) -> None:
    arguments = searched(rng, (0, 60), torch.bfloat16, drifts=drifts)
    weight, second, drift = arguments[:3]
    subject.check("feedback_scores", *arguments, **NUMBERS)
    kept = check_mask(subject, arguments, first=5, pattern=pattern)["kept"]
    subject.check("remask_weight", weight, drift, kept, learning_rate=NUMBERS["learning_rate"])
    subject.check("feedback_step", second, drift, weight, torch.tensor(0.75), decay=0.05)
