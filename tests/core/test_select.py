"""The exact k-th largest over many tensors, against a stable sort of them all."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.selection.radix import choose_digit, kth_largest, kth_largest_many, share_ties
from unipruning_cpu.backend import CpuBackend

BACKEND = CpuBackend()


KINDS = {
    "spread": lambda score: score,
    "three values": lambda score: (score * 1.5).round().clamp(-1, 1),
    "all equal": lambda score: torch.full_like(score, -2.5),
    "all zero": lambda score: torch.zeros_like(score).copysign(score),
    "one last bit apart": lambda score: torch.where(score > 0, 1.0, 1.0 + 2**-23),
    "one first digit apart": lambda score: torch.where(score > 0, 1e-30, -3e30),
    "subnormal": lambda score: score * 1e-43,
    "largest": lambda score: torch.full_like(score, torch.finfo(torch.float32).max),
}


def random_scores(kind, shapes=((3, 5), (1, 1), (7, 4), (2, 8)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [KINDS[kind](torch.randn(shape, generator=generator)) for shape in shapes]


def kept_by(scores, selection):
    return [
        BACKEND.threshold_mask(score, selection.threshold, torch.tensor(ties))
        for score, ties in zip(scores, selection.ties_per_tensor, strict=True)
    ]


def kept_by_sorting(scores, keep):
    magnitude = torch.cat([score.flatten() for score in scores]).abs()
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[magnitude.sort(descending=True, stable=True).indices[:keep]] = True
    return [part.view(score.shape) for part, score in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_kept_is_the_one_a_stable_sort_keeps(kind):
    scores = random_scores(kind)
    for keep in range(sum(score.numel() for score in scores) + 1):
        selection = kth_largest(lambda: scores, keep, BACKEND)
        assert selection.threshold.shape == ()
        assert selection.threshold.dtype == torch.float32
        for got, expected in zip(kept_by(scores, selection), kept_by_sorting(scores, keep), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_several_numbers_at_once_give_what_one_at_a_time_gives(kind):
    scores, keeps = random_scores(kind, seed=1), [0, 1, 17, 17, 33, 60]
    for keep, selection in zip(keeps, kth_largest_many(lambda: scores, keeps, BACKEND), strict=True):
        alone = kth_largest(lambda: scores, keep, BACKEND)
        assert selection.threshold == alone.threshold
        assert selection.ties_per_tensor == alone.ties_per_tensor


def test_larger_tensors_are_split_exactly():
    scores = random_scores("spread", ((300, 200), (100, 700)), seed=2)
    selection = kth_largest(lambda: scores, 52_000, BACKEND)
    assert sum(int(mask.sum()) for mask in kept_by(scores, selection)) == 52_000
    assert (
        selection.threshold
        == torch.cat([score.flatten() for score in scores]).abs().sort(descending=True).values[51_999]
    )


@pytest.mark.parametrize("keeps", [[5], [0, 5, 44]])
def test_the_scores_are_read_three_times_and_one_at_a_time(keeps):
    class Counting(CpuBackend):
        levels: list[int]

        def magnitude_histogram(self, score, prefix, level, counts):
            self.levels.append(level)
            super().magnitude_histogram(score, prefix, level, counts)

    backend, passes = Counting(), []
    backend.levels = []

    def scores():
        passes.append(0)
        for score in random_scores("spread"):
            passes[-1] += 1
            yield score

    kth_largest_many(scores, keeps, backend)
    assert passes == [4, 4, 4]
    assert [backend.levels.count(level) for level in range(3)] == [4, 4 * len(keeps), 4 * len(keeps)]


@pytest.mark.parametrize("keep", [-1, 61])
def test_more_than_there_is_cannot_be_kept(keep):
    scores = random_scores("spread", ((10, 6),))
    with pytest.raises(ValueError, match=f"cannot keep {keep} of 60"):
        kth_largest(lambda: scores, keep, BACKEND)


@pytest.mark.parametrize(
    ("rank", "digit", "within"),
    [(0, 3, 0), (1, 3, 1), (2, 3, 2), (3, 1, 1), (7, 1, 5), (8, 0, 1)],
)
def test_a_digit_is_chosen_from_the_top(rank, digit, within):
    assert choose_digit(torch.tensor([1, 5, 0, 2]), rank) == (digit, within)


def test_counts_of_two_processes_may_be_added_before_the_choice():
    here, there = torch.tensor([1, 5, 0, 2]), torch.tensor([0, 0, 3, 1])
    assert choose_digit(here + there, 4) == (2, 1)


def test_ties_go_to_the_earlier_tensor():
    assert share_ties([2, 0, 5, 1], 4) == [2, 0, 2, 0]
    assert share_ties([2, 0, 5, 1], 8) == [2, 0, 5, 1]
