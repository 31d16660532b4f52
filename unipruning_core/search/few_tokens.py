r"""What is known of experts that few tokens have reached, drawn towards what is known of more.

With t tokens so far, the second moment v of one of an expert's matrices and the mean square n^2 of its inputs become

.. math:: v' = \frac{t v + k \bar v}{t + k}, \qquad n'^2 = \frac{t n^2 + \tfrac{k}{4} \bar n^2}{t + \tfrac{k}{4}},
          \qquad k = 32 \max(0, 1 - t / 256)

with :math:`\bar v` the mean of the matrix's own v, and :math:`\bar n^2` that over the tokens of all experts of the
layer, feature by feature.  A few gradients say with much noise which of an expert's weights matter; taken as they are,
they also let the rising sparsity mask it whole, after which no gradient could bring it back.  From 256 tokens on
nothing is changed.  Measured on a small mixture: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.activations import norms_of
from unipruning_core.models.divided import mean_of

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.distributed.world import World
    from unipruning_core.models.layer import Layer

STRENGTH, ENOUGH = 32.0, 256.0  # tokens: k without any, and t from which on nothing is changed
OF_INPUTS = 4  # how much weaker the norms are drawn


class FewTokens:
    """The experts of the layers of each device, and how many tokens each has seen."""

    def __init__(
        self, layers: Sequence[Layer], positions: Sequence[Sequence[int]], counts: Sequence[Tensor], world: World
    ) -> None:
        self.layers, self.positions, self.counts, self.world = layers, positions, counts, world
        self.tokens: dict[int, int] = {}  # by position, of experts alone
        siblings = dict.fromkeys(layer.siblings for layer in layers if layer.siblings)
        names = {name: number for number, name in enumerate(siblings)}
        self.groups = [
            torch.tensor([names.get(layers[position].siblings or "", len(names)) for position in of_device])
            for of_device in positions
        ]
        self.number = len(names)

    def update(self) -> None:
        """Read how many tokens each expert has seen, once a sample; nothing where there are no experts."""
        if self.number:
            for of_device, counts in zip(self.positions, self.counts, strict=True):
                for position, count in zip(of_device, counts.flatten().tolist(), strict=True):
                    if self.layers[position].siblings:
                        self.tokens[position] = count

    def second(self, position: int, second: Tensor) -> Tensor:
        """Return v' of one matrix, in the dtype of v."""
        tokens = self.tokens.get(position, ENOUGH)
        if tokens >= ENOUGH:
            return second
        strength = STRENGTH * (1 - tokens / ENOUGH)
        share = strength / (tokens + strength)
        return torch.lerp(second, mean_of(second, self.layers[position], self.world).to(second.dtype), share)

    def norms(self, device: int, sums: Tensor, counts: Tensor) -> Tensor:
        """Return n' of the layers of a device, (layers, width) float32, from the sums of squares and the tokens."""
        if not self.number:
            return norms_of(sums, counts)
        group = self.groups[device].to(sums.device)
        totals = sums.new_zeros(self.number + 1, sums.shape[1]).index_add_(0, group, sums)
        tokens = sums.new_zeros(self.number + 1, 1).index_add_(0, group, counts.to(sums.dtype))
        mean = (totals / tokens.clamp_min(1)).index_select(0, group)
        strength = STRENGTH / OF_INPUTS * (1 - counts / ENOUGH).clamp_min(0)
        strength = strength * (group < self.number)[:, None]
        return norms_of(sums + strength * mean, counts + strength)
