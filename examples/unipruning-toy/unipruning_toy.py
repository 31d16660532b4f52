"""A third-party backend in one file: every operation is the reference, except an N:M mask made without sorting.

For a real device, put the class in a second module, so that reading the manifest does not import torch.
"""

from __future__ import annotations

from torch import Tensor

from unipruning_core import Backend, BackendSpec, Probe, hookimpl
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


@hookimpl
def unipruning_backend() -> BackendSpec:
    return BackendSpec(
        "toy",
        "cpu",
        priority=-1,
        target="unipruning_toy:ToyBackend",
        probe=lambda: Probe(True, "the host CPU, slowly"),
        optimised=frozenset({"nm_mask"}),
    )
