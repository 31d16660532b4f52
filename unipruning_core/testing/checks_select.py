"""Conformance of exact selection: radix histograms, threshold masks, and a whole search that uses them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS
from unipruning_core.testing.inputs import Shape, layouts, make_score, score_kinds, shapes
from unipruning_core.testing.subject import Subject

LEVELS = pytest.mark.parametrize("level", [0, 1, 2])
NOWHERE = -7  # a prefix no magnitude has


def prefix_of(score: Tensor, level: int) -> Tensor:
    """The digits above ``level`` of the median magnitude, so that a prefix matches something."""
    median = score.abs().flatten().sort().values[score.numel() // 2]
    # at level 0 the prefix is ignored, so it may as well be one that matches nothing
    return (median.view(torch.int32) >> sum(DIGIT_BITS[level:])) if level else torch.tensor(NOWHERE, dtype=torch.int32)


def no_counts(level: int) -> Tensor:
    return torch.zeros(2 ** DIGIT_BITS[level], dtype=torch.int64)


@shapes
@LEVELS
def test_magnitude_histogram_counts_what_matches(
    subject: Subject, rng: torch.Generator, shape: Shape, level: int
) -> None:
    score = make_score(rng, shape)
    counts = subject.check("magnitude_histogram", score, prefix_of(score, level), level, no_counts(level))["counts"]
    assert (counts.sum() == score.numel()) if level == 0 else counts.any()


@score_kinds
@LEVELS
def test_magnitude_histogram_counts_every_kind_of_score(
    subject: Subject, rng: torch.Generator, kind: str, level: int
) -> None:
    score = make_score(rng, (63, 100), kind)
    subject.check("magnitude_histogram", score, prefix_of(score, level), level, no_counts(level))


@layouts
@LEVELS
def test_magnitude_histogram_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str, level: int) -> None:
    score = make_score(rng, (63, 100), "levels")
    subject.check("magnitude_histogram", score, prefix_of(score, level), level, no_counts(level), layout=layout)


@pytest.mark.parametrize("level", [1, 2])
def test_magnitude_histogram_counts_nothing_where_no_prefix_matches(
    subject: Subject, rng: torch.Generator, level: int
) -> None:
    prefix = torch.tensor(NOWHERE, dtype=torch.int32)
    outcome = subject.check("magnitude_histogram", make_score(rng, (63, 100)), prefix, level, no_counts(level))
    assert not outcome["counts"].any()


@LEVELS
def test_magnitude_histogram_adds_up_over_calls_and_parts(subject: Subject, rng: torch.Generator, level: int) -> None:
    score = make_score(rng, (257, 1028), "levels")
    prefix = prefix_of(score, level)
    whole = subject.check("magnitude_histogram", score, prefix, level, no_counts(level))["counts"]
    parts = no_counts(level)
    for start in range(0, 257, 100):
        part = score[start : start + 100]
        parts = subject.check("magnitude_histogram", part, prefix, level, parts)["counts"]
    assert torch.equal(parts, whole)
    assert torch.equal(subject.check("magnitude_histogram", score, prefix, level, whole)["counts"], 2 * whole)


def test_magnitude_histogram_counts_beyond_32_bits(subject: Subject, rng: torch.Generator) -> None:
    score, many = make_score(rng, (63, 100), "levels"), no_counts(0) + 2**40
    subject.check("magnitude_histogram", score, prefix_of(score, 0), 0, many)


@shapes
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_threshold_mask_keeps_what_is_above_and_the_ties_asked_for(
    subject: Subject, rng: torch.Generator, shape: Shape, share: float
) -> None:
    score = make_score(rng, shape)
    order = score.abs().flatten().sort().values
    for ties in (0, 1):
        subject.check("threshold_mask", score, order[round(share * (order.numel() - 1))], torch.tensor(ties))


@score_kinds
@pytest.mark.parametrize("ties", [0, 1, 777, 10**10])
def test_threshold_mask_gives_ties_to_the_lower_index(
    subject: Subject, rng: torch.Generator, kind: str, ties: int
) -> None:
    score = make_score(rng, (63, 100), kind)
    threshold = score.abs().flatten().sort().values[2000]
    mask = subject.check("threshold_mask", score, threshold, torch.tensor(ties))["mask"]
    equal = score.abs() == threshold
    assert (mask & equal).sum() == min(ties, int(equal.sum()))


@pytest.mark.parametrize("kind", ["levels", "signed zeros"])
@pytest.mark.parametrize("threshold", [0.0, 2.0**-149, 0.5, 3e38])
def test_threshold_mask_takes_thresholds_that_no_score_has(
    subject: Subject, rng: torch.Generator, kind: str, threshold: float
) -> None:
    subject.check("threshold_mask", make_score(rng, (63, 100), kind), torch.tensor(threshold), torch.tensor(5))


@layouts
def test_threshold_mask_takes_any_strides(subject: Subject, rng: torch.Generator, layout: str) -> None:
    score = make_score(rng, (63, 100), "levels")
    subject.check("threshold_mask", score, torch.tensor(1.0), torch.tensor(1234), layout=layout)


@pytest.mark.parametrize("operation", ["magnitude_histogram", "threshold_mask"])
def test_selection_repeats_bit_for_bit(subject: Subject, rng: torch.Generator, operation: str) -> None:
    score = make_score(rng, (257, 1028), "levels")
    if operation == "threshold_mask":
        subject.repeat(operation, score, torch.tensor(1.0), torch.tensor(50_000))
    else:
        subject.repeat(operation, score, prefix_of(score, 2), 2, no_counts(2))
