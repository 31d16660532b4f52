"""Scores drawn from every matrix, whose quantile is the next threshold of the ramp, the same for any number of ranks.

Of the row-major elements of each matrix every so-manieth is drawn, by the rank that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, inf
from typing import TYPE_CHECKING

import torch

from unipruning_core.search.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.distributed.world import World
    from unipruning_core.models.layer import Layer

DRAWN = 1 << 18  # scores at least, if there are as many: their quantile is good to a tenth of a percent


class Drawn:
    """The drawn scores of the part of each layer that this rank holds, and of all ranks together."""

    def __init__(self, layers: Sequence[Layer], world: World) -> None:
        self.layers, self.world, self.device = layers, world, layers[0].device
        self.waiting: dict[int, Tensor] = {}  # by position
        self.stride = stride_for([layer.target.shape for layer in layers])
        self.firsts = [self._first(layer) for layer in layers]
        self.scores = [
            torch.zeros(max(0, -(-(layer.held.numel() - first) // self.stride)), device=layer.device)
            for layer, first in zip(layers, self.firsts, strict=True)
        ]
        counts = world.each([len(scores) for scores in self.scores])
        self.counts = [sum(of_layer) for of_layer in zip(*counts, strict=True)]  # of each layer, on all ranks
        if world.shards < world.size:  # every copy of the model draws the same
            self.counts = [count // world.copies for count in self.counts]
        self.starts = [sum(of_layer[: world.shard]) for of_layer in zip(*counts, strict=True)]
        self.longest = max(map(sum, counts))

    def _first(self, layer: Layer) -> int:
        """Return the first element of what is held of a layer that is drawn, counted from its own start."""
        row, column = layer.begin
        # a part of the columns is drawn from as if it were a matrix of its own
        return 0 if column else -row * layer.target.shape[1] % self.stride

    def tensors(self) -> dict[str, Tensor]:
        """Return the scores by layer, for a saved state."""
        return {f"{layer.name}.drawn": scores for layer, scores in zip(self.layers, self.scores, strict=True)}

    def parts(self) -> dict[str, Part]:
        """Return where the scores drawn here lie among those of all ranks."""
        return {name: Part(*place) for name, *place in zip(self.tensors(), self.starts, self.counts, strict=True)}

    def into(self, position: int) -> Tensor:
        """Return what a pass over a layer draws into: of an expert it counts only if the sample reaches it."""
        if not self.layers[position].siblings or not self.world.sharded:
            return self.scores[position]
        self.waiting[position] = torch.empty_like(self.scores[position])
        return self.waiting[position]

    def keep(self, touched: Sequence[bool]) -> None:
        """Take over what the latest step drew of experts that it reached; in one process no others are passed over."""
        for position, scores in self.waiting.items():
            if touched[position]:
                self.scores[position].copy_(scores)
        self.waiting.clear()

    def sorted(self) -> Tensor:
        """Return all drawn scores of all ranks, the smallest first; infinity comes last, beyond their number."""
        here = torch.cat([scores.to(self.device) for scores in self.scores])
        if self.world.size > 1:
            here = torch.cat([here, here.new_full((self.longest - len(here),), inf)])
            here = torch.cat(self.world.in_order(here)[: self.world.shards])
        return here.sort().values


def stride_for(shapes: Sequence[tuple[int, int]]) -> int:
    """Return the distance between drawn scores, in row-major order, that draws at least ``DRAWN`` of them.

    It shares no factor with any width, so that a matrix's drawn scores lie in all of its columns.
    """
    stride = max(1, sum(rows * columns for rows, columns in shapes) // DRAWN)
    while any(gcd(stride, columns) > 1 for _, columns in shapes):
        stride -= 1
    return stride
