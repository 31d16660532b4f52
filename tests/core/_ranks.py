"""What one rank of a process group does in test_distributed.py: every kind and every number in one process."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from unipruning_core.distributed.world import World
from unipruning_core.selection.ranks import kth_largest_over_ranks
from unipruning_cpu.backend import CpuBackend


def select(rank: int, world: int, folder: Path) -> None:
    """Select among the scores in ``folder`` together with the other ranks, and write there what was found."""
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    sent: list[int] = []
    passes: list[str] = []
    plain = dist.all_reduce

    def counted(tensor: Tensor, **options: object) -> None:
        sent.append(tensor.numel())
        plain(tensor, **options)

    dist.all_reduce = counted
    backend, found = CpuBackend(), {}
    for kind, scores in torch.load(folder / f"{rank}.pt").items():

        def stream(kind: str = kind, scores: list[Tensor] = scores) -> Iterable[Tensor]:
            passes.append(kind)
            return scores

        found[kind] = [
            [
                backend.threshold_mask(score, each.threshold, torch.tensor(ties))
                for score, ties in zip(scores, each.ties_per_tensor, strict=True)
            ]
            for each in kth_largest_over_ranks(stream, list(range(100)), backend, World(rank, world))
        ]
    sent.clear()
    passes.clear()
    kth_largest_over_ranks(stream, [50], backend, World(rank, world))
    try:
        kth_largest_over_ranks(stream, [100], backend, World(rank, world))
        refused = None
    except ValueError as error:
        refused = str(error)
    torch.save({"masks": found, "sent": sent, "passes": len(passes), "refused": refused}, folder / f"{rank}.out")
    dist.destroy_process_group()
