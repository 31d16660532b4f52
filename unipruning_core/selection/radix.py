"""Exact k-th largest magnitude over many tensors, of which only one needs to be in memory at a time.

A radix select: the 31 magnitude bits of an fp32 sort like the magnitude, so three histograms, each of the next digit
among the elements that match the digits chosen so far, find any order statistic exactly.  Counting and choosing are
separate: counts are sums over tensors, so those of several processes can be added before a digit is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from unipruning_core.backend import DIGIT_BITS

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

# called once per pass: the same (out, in) float32 tensors in the same order
ScoreStream: TypeAlias = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Selection:
    """What ``threshold_mask`` needs to keep an exact number of weights over all tensors."""

    threshold: Tensor  # 0-D, float32: the k-th largest magnitude
    ties_per_tensor: list[int]  # how many elements equal to it each tensor keeps: the first ones, earlier tensors first


class Peers:
    """The processes that hold parts of the scores, in order; here a single process holds them all."""

    def total(self, counts: Tensor) -> Tensor:  # int64, on the CPU
        """Return the sum of ``counts`` over all processes."""
        return counts

    def before(self, counts: Tensor) -> Tensor:  # int64, on the CPU
        """Return the sum of ``counts`` over the processes before this one."""
        return torch.zeros_like(counts)


def kth_largest(scores: ScoreStream, keep: int, backend: Backend) -> Selection:
    """Select the ``keep``-th largest magnitude of all scores, counted from 1."""
    return kth_largest_many(scores, [keep], backend)[0]


def kth_largest_many(
    scores: ScoreStream, keeps: Sequence[int], backend: Backend, peers: Peers | None = None
) -> list[Selection]:
    """Return one selection for each of ``keeps``, in three passes over the scores however many there are."""
    peers = peers or Peers()
    first = peers.total(sum(digit_counts(scores, [0], 0, backend), start=_no_counts(1, 0)))[0]
    for keep in keeps:
        if not 0 <= keep <= int(first.sum()):
            raise ValueError(f"cannot keep {keep} of {int(first.sum())} elements")
    chosen = [choose_digit(first, keep) for keep in keeps]
    prefixes, ranks = [digit for digit, _ in chosen], [rank for _, rank in chosen]

    second = peers.total(sum(digit_counts(scores, prefixes, 1, backend), start=_no_counts(len(keeps), 1)))
    chosen = [choose_digit(counts, rank) for counts, rank in zip(second, ranks, strict=True)]
    prefixes = [(prefix << DIGIT_BITS[1]) | digit for prefix, (digit, _) in zip(prefixes, chosen, strict=True)]
    ranks = [rank for _, rank in chosen]

    # the last digit completes the value, so its counts say how often the value occurs in each tensor
    # kept outside torch, whose small aligned blocks would lie between the large ones and leave holes of their sizes
    third = [counts.numpy().copy() for counts in digit_counts(scores, prefixes, 2, backend)]
    everywhere = peers.total(sum(map(torch.from_numpy, third), start=_no_counts(len(keeps), 2)))
    chosen = [choose_digit(counts, rank) for counts, rank in zip(everywhere, ranks, strict=True)]
    equals = [[int(counts[i, digit]) for counts in third] for i, (digit, _) in enumerate(chosen)]
    before = peers.before(torch.tensor([sum(here) for here in equals])).tolist()
    selections = []
    for i, (digit, ties) in enumerate(chosen):
        bits = torch.tensor((prefixes[i] << DIGIT_BITS[2]) | digit, dtype=torch.int32)
        selections.append(
            Selection(bits.view(torch.float32), share_ties(equals[i], max(0, ties - before[i])))
            if keeps[i]
            else Selection(torch.tensor(torch.inf), [0] * len(third))
        )
    return selections


def _no_counts(prefixes: int, level: int) -> Tensor:
    return torch.zeros(prefixes, 2 ** DIGIT_BITS[level], dtype=torch.int64)


def digit_counts(scores: ScoreStream, prefixes: Sequence[int], level: int, backend: Backend) -> Iterator[Tensor]:
    """Yield each tensor's histogram of one digit under each prefix: (prefixes, 2**bits), int64, on the CPU."""
    for score in scores():
        counts = torch.zeros(len(prefixes), 2 ** DIGIT_BITS[level], dtype=torch.int64, device=score.device)
        for row, prefix in zip(counts, prefixes, strict=True):
            device_prefix = torch.tensor(prefix, dtype=torch.int32, device=score.device)
            backend.magnitude_histogram(score, device_prefix, level, row)
        del score  # which would otherwise be there together with the next one
        yield counts.cpu()


def choose_digit(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the digit of the ``rank``-th largest, and its rank among the elements that have this digit.

    ``counts`` is (2**bits,) int64 on the CPU.  Rank 0, one before the largest, takes the last digit.
    """
    at_least = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(at_least, rank))
    above = int(at_least[steps - 1]) if steps else 0
    return len(counts) - 1 - steps, rank - above


def share_ties(equals: Sequence[int], ties: int) -> list[int]:
    """Distribute ``ties`` among tensors that hold ``equals`` candidates each, earlier tensors first."""
    shares = []
    for equal in equals:
        shares.append(min(equal, ties))
        ties -= shares[-1]
    return shares
