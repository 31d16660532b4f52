"""Exact k-th largest magnitude over tensors on several ranks, as if they lay end to end on one.

There are three passes over the scores.  Each ends in one all-reduce of the counters of a digit, for each number to keep
2048 and then twice 1024 int64, and a last all-reduce of one int64 per rank and number counts the ties on earlier ranks.
No score, index or mask ever leaves its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from unipruning_core.selection.radix import Peers, ScoreStream, Selection, kth_largest_many

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

HOST = "cpu"


class Ranks(Peers):
    """The ranks of a process group, in order."""

    def __init__(self, device: str, group: dist.ProcessGroup | None = None) -> None:
        # a group that cannot reduce host tensors, such as an accelerator's, gets its counters on the device
        serves = {part.partition(":")[0] for part in dist.get_backend_config(group).split(",")}
        self.device, self.group = HOST if HOST in serves else device, group

    def total(self, counts: Tensor) -> Tensor:
        # a copy, since the caller may use its counts again
        summed = counts.to(self.device, copy=True)
        dist.all_reduce(summed, group=self.group)
        return summed.cpu()

    def before(self, counts: Tensor) -> Tensor:
        rank = dist.get_rank(self.group)
        table = torch.zeros(dist.get_world_size(self.group), *counts.shape, dtype=counts.dtype)
        table[rank] = counts
        return self.total(table)[:rank].sum(dim=0)


def kth_largest_over_ranks(
    scores: ScoreStream,  # this rank's tensors, (out, in) float32, in one order; a rank may have none
    keeps: Sequence[int],  # the same on every rank: how many of all ranks' elements to keep
    backend: Backend,
    group: dist.ProcessGroup | None = None,  # None for all ranks
) -> list[Selection]:
    """Return for each of ``keeps`` what ``threshold_mask`` needs to keep exactly that many over all ranks.

    Every rank of the group must call it.  Ties go to the lower rank, then the earlier tensor, then the lower index, as
    in a stable sort of all tensors laid end to end.
    """
    return kth_largest_many(scores, keeps, backend, Ranks(backend.device_type, group))
