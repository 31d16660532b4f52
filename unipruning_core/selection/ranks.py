"""Exact k-th largest magnitude over tensors on several ranks, as if they lay end to end on one.

There are three passes over the scores.  Each ends in one all-reduce of the counters of a digit, for each number to keep
2048 and then twice 1024 int64, and a last all-reduce of one int64 per rank and number counts the ties on earlier ranks.
No score, index or mask ever leaves its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.selection.radix import Peers, ScoreStream, Selection, kth_largest_many

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World


class Ranks(Peers):
    """The ranks of a command, in order."""

    def __init__(self, world: World) -> None:
        self.world = world

    def total(self, counts: Tensor) -> Tensor:
        # a copy, since the caller may use its counts again
        return self.world.total(counts.clone())

    def before(self, counts: Tensor) -> Tensor:
        table = torch.zeros(self.world.size, *counts.shape, dtype=counts.dtype)
        table[self.world.rank] = counts
        return self.total(table)[: self.world.rank].sum(dim=0)


def kth_largest_over_ranks(
    scores: ScoreStream,  # this rank's tensors, (out, in) float32, in one order; a rank may have none
    keeps: Sequence[int],  # the same on every rank: how many of all ranks' elements to keep
    backend: Backend,
    world: World,
) -> list[Selection]:
    """Return for each of ``keeps`` what ``threshold_mask`` needs to keep exactly that many over all ranks.

    Every rank must call it.  Ties go to the lower rank, then the earlier tensor, then the lower index, as in a stable
    sort of all tensors laid end to end.
    """
    return kth_largest_many(scores, keeps, backend, Ranks(world))
