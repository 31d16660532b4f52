"""A target and the modules that multiply by it: its weight, or the part of it that this process holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from unipruning_core.models.experts import Stacked
from unipruning_core.models.held import Given, Held, held_part, local_part
from unipruning_core.storage.checkpoint import Target

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.storage.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layer:
    """A target and the module that holds it."""

    target: Target
    module: nn.Module
    name_in_model: str = ""  # of its parameter
    transposed: bool = False  # the module stores (in, out)
    others: tuple[nn.Module, ...] = ()  # further modules with the same weight
    stack: Stacked | None = None  # the parameter that its weight is part of
    siblings: str | None = None  # a name for the same matrix of all experts of a mixture
    moved: bool = False  # the checkpoint has it under another name or in another layout
    begin: tuple[int, int] = (0, 0)  # the first row and column, of (out, in), that this process holds
    checkpoint: Checkpoint | None = field(default=None, repr=False)  # where the rest is, if it holds only a part

    @property
    def name(self) -> str:
        """The weight's name in the checkpoint."""
        return self.target.name

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules that multiply by this weight."""
        return (self.module, *self.others)

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module stores it."""
        parameter: nn.Parameter = self.module.weight  # type: ignore[assignment]
        return parameter

    @property
    def held(self) -> Tensor:
        """The part of the weight that this process holds, all of it unless it is divided, as the module stores it."""
        return held_part(self.parameter)

    @property
    def weight(self) -> Tensor:
        """What is held of the weight as (out, in), a view that shares the parameter's storage."""
        return self.held.t() if self.transposed else self.held

    @property
    def device(self) -> torch.device:
        """The device that computes with the weight, wherever what is held of it lies."""
        device: torch.device = self.parameter.device
        return device

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of what is held of the weight, as the module stores it."""
        return None if self.parameter.grad is None else held_part(self.parameter.grad)

    @property
    def given(self) -> Given | None:
        """What other processes are given of the part that this one holds; None for a weight that is not divided."""
        local = local_part(self.parameter)
        return local.given if isinstance(local, Held) else None

    @property
    def span(self) -> tuple[slice, slice]:
        """The rows and columns, of (out, in), of what is held."""
        return tuple(  # type: ignore[return-value]
            slice(first, first + count) for first, count in zip(self.begin, self.weight.shape, strict=True)
        )

    def whole(self) -> Tensor:
        """Return the whole weight, (out, in), as it was loaded, on the device of what is held of it."""
        if self.checkpoint is None:
            return self.weight
        loaded = self.as_loaded(self.checkpoint, self.held.dtype).to(self.device)
        return loaded.t() if self.transposed else loaded

    def as_loaded(self, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        """Read the whole weight as the module stores it, contiguous, on the host."""
        stored = checkpoint.values_of(self.target)
        return (stored.t() if self.target.transposed != self.transposed else stored).to(dtype).contiguous()

    def as_stored(self, matrix: Tensor) -> Tensor:
        """Return a matrix, (out, in), as the checkpoint stores it."""
        return matrix.t() if self.target.transposed else matrix
