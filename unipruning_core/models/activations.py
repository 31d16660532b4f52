"""Sums of squares of each target layer's inputs, collected by hooks during a forward pass that happens anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unipruning_core.backend import Backend
    from unipruning_core.models.layer import Layer

NOTHING = 0  # the row of a layer that saw no token; it stays zero


class InputSums:
    """The inputs of some layers of one device, over one forward pass: one row of sums for each distinct input.

    Layers that read the same tensor, such as the query, key and value projections of one block, share a row, so each
    input is read once and no other operator touches it.
    """

    def __init__(self, layers: Sequence[Layer], backend: Backend) -> None:
        self.layers, self.backend = layers, backend
        self.width = max(layer.target.shape[1] for layer in layers)
        self.device = layers[0].device
        self.rows = torch.zeros(len(layers) + 1, self.width, device=self.device)  # float32
        self.tokens = [0] * len(layers)  # seen by each layer
        self._used = NOTHING + 1
        self._reads: list[list[int]] = [[] for _ in layers]
        self._copied: dict[str, tuple[tuple[int, ...], Tensor]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sum up the inputs of the forward passes made inside, and forget those of earlier ones."""
        self.rows.zero_()
        self.tokens = [0] * len(self.layers)
        self._used = NOTHING + 1
        self._reads = [[] for _ in self.layers]
        last: list[Any] = [None, NOTHING]  # the latest input and its row

        def hook_for(position: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x: Tensor = args[0] if args else next(iter(kwargs.values()))
                if x is not last[0]:
                    last[:] = x, self._add(x.detach().flatten(0, -2))
                self._reads[position].append(last[1])
                self.tokens[position] += x.shape[:-1].numel()

            return hook

        handles = [
            module.register_forward_pre_hook(hook_for(position), with_kwargs=True)
            for position, layer in enumerate(self.layers)
            for module in layer.modules
        ]
        try:
            yield
        finally:
            last.clear()
            for handle in handles:
                handle.remove()

    def _add(self, x: Tensor) -> int:
        """Sum up one input, (tokens, in) any float, and return its row."""
        row, self._used = self._used, self._used + 1
        if row == len(self.rows):  # only where layers run several times in one pass
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
        self.backend.accumulate_sumsq(x, self.rows[row, : x.shape[1]])
        return row

    @property
    def sums(self) -> Tensor:
        """The sum of squares of each layer's inputs, (layers, width) float32, zero past its last input."""
        index = tuple(reads[0] if reads else NOTHING for reads in self._reads)
        sums = self.rows.index_select(0, self._on_device("rows", index))
        for position, reads in enumerate(self._reads):
            for row in reads[1:]:
                sums[position] += self.rows[row]
        return sums

    @property
    def counts(self) -> Tensor:
        """The tokens that each layer saw, (layers, 1) int64."""
        return self._on_device("tokens", tuple(self.tokens))[:, None]

    def on_device(self) -> list[Tensor]:
        """Return the whole numbers that were copied to the device for the latest sample."""
        return [copied for _, copied in self._copied.values()]

    def _on_device(self, name: str, numbers: tuple[int, ...]) -> Tensor:
        """Copy whole numbers to the device, unless they are there from the sample before, as in most models."""
        if name not in self._copied or self._copied[name][0] != numbers:
            self._copied[name] = numbers, torch.tensor(numbers, device=self.device)
        return self._copied[name][1]


def norms_of(sums: Tensor, counts: Tensor) -> Tensor:
    """Return n, the root mean square of each input feature, float32; zero without a token."""
    return (sums / counts.clamp_min(1)).sqrt()
