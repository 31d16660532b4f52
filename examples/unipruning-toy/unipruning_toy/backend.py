"""The toy backend: every operation is the reference, except an N:M mask made without sorting."""

from __future__ import annotations

from torch import Tensor

from unipruning_core import Backend
from unipruning_kernels import reference


class ToyBackend(reference.Operations, Backend):
    name = "toy"
    device_type = "cpu"

    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        """Keep an element if fewer than n of its group are larger, or equal and earlier."""
        groups = score.abs().nan_to_num(nan=float("inf"), posinf=float("inf")).reshape(-1, m)  # NaN ranks as infinity
        mine, other = groups[:, :, None], groups[:, None, :]
        earlier = groups.new_ones(m, m).tril(-1).bool()
        ahead = (other > mine) | ((other == mine) & earlier)
        return (ahead.sum(dim=2) < n).view(score.shape)
