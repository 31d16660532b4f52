"""Sums of squares of each target layer's inputs, collected by hooks during a forward pass that happens anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from unipruning_core.backend import Backend
    from unipruning_core.models.targets import Layer


@dataclass
class InputStatistics:
    """The inputs that one layer has seen so far."""

    sumsq: Tensor  # (in,), float32, sum over tokens of x_j**2
    tokens: int

    def add(self, other: InputStatistics) -> None:
        """Pool with the statistics of other tokens; ``other`` may be shared by several layers and is not changed."""
        self.sumsq = self.sumsq + other.sumsq
        self.tokens += other.tokens

    @property
    def norm(self) -> Tensor:
        """n, the root mean square of each input feature, (in,) float32; zero before any token."""
        return (self.sumsq / max(self.tokens, 1)).sqrt()


@contextmanager
def watch_inputs(layers: Sequence[Layer], backend: Backend) -> Iterator[dict[str, InputStatistics]]:
    """Yield a mapping by layer name that the forward passes made inside fill.

    Layers that read the same tensor, such as the query, key and value projections of one block, share one sum.
    """
    import torch

    seen: dict[str, InputStatistics] = {}
    last: list[Any] = [None, None]  # the latest input and its statistics

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
            if x is not last[0]:
                flat = x.detach().flatten(0, -2)
                statistics = InputStatistics(
                    torch.zeros(flat.shape[1], dtype=torch.float32, device=x.device), len(flat)
                )
                backend.accumulate_sumsq(flat, statistics.sumsq)
                last[:] = x, statistics
            if name in seen:
                seen[name].add(last[1])
            else:
                seen[name] = InputStatistics(last[1].sumsq, last[1].tokens)

        return hook

    handles = [layer.module.register_forward_pre_hook(hook_for(layer.name), with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        last.clear()
        for handle in handles:
            handle.remove()
