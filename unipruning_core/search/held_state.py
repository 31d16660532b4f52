"""What the search holds of each matrix, or of this rank's part of it: the weight W0, the second moment v, the drift U.

They may lie elsewhere than on the device (``models/home.py``); one matrix is then fetched at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.home import Home
from unipruning_core.search.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.models.layer import Layer


class HeldState:
    """W0, v in bfloat16 and U in float16 of every layer, v and U as the module stores its weight."""

    def __init__(self, layers: Sequence[Layer], home: Home | None, *, drifts: bool) -> None:
        self.layers = layers
        self.homes = [home or Home(layer.device) for layer in layers]
        self.originals = [layer.weight for layer in layers]  # (out, in), also while a substitute is in place
        self.dtypes = [weight.dtype for weight in self.originals]  # that the model computes in
        self.second = [self._zeros(position, torch.bfloat16) for position in range(len(layers))]
        self.drift = [self._zeros(position, torch.float16) for position in range(len(layers) if drifts else 0)]

    def _zeros(self, position: int, dtype: torch.dtype) -> Tensor:
        return self.homes[position].zeros(self.layers[position].held.shape, dtype)

    def narrow(self) -> None:
        """Hold each float32 weight whose values 16 bits have in 16 bits, and leave the model a stand-in of no size.

        The model can then run with substitutes alone.
        """
        for position, (layer, weight) in enumerate(zip(self.layers, self.originals, strict=True)):
            # one expert's matrix is a view of memory that stays
            narrowed = exactly_narrowed(weight) if layer.stack is None else None
            if narrowed is not None:
                self.originals[position] = narrowed
                layer.parameter.data = weight.new_zeros(()).expand(layer.parameter.shape)

    def weight(self, position: int) -> Tensor:
        """Return W0, (out, in), on the device, in the dtype that the model computes in."""
        return self.homes[position].fetch(self.originals[position]).to(self.dtypes[position])

    def moment(self, position: int) -> Tensor:
        """Return v as the module stores its weight, on the device."""
        return self.homes[position].fetch(self.second[position])

    def drifted(self, position: int) -> Tensor | None:
        """Return U, (out, in), on the device; None if the weights do not drift."""
        return self.turned(self.homes[position].fetch(self.drift[position]), position) if self.drift else None

    def copied(self, position: int) -> Tensor:
        """Return a copy of W0 as the module stores it, on the device."""
        return self.turned(self.weight(position), position).clone()

    def turned(self, matrix: Tensor, position: int) -> Tensor:
        """Convert a matrix from the module's layout to (out, in), or back."""
        return matrix.t() if self.layers[position].transposed else matrix

    def step(self, position: int, gradient: Tensor, rate: Tensor, decay: float, backend: Backend) -> None:
        """Take a step of v and U, with the gradient as the module stores its weight."""
        home = self.homes[position]
        second = home.fetch(self.second[position])
        drift = home.fetch(self.drift[position]) if self.drift else None
        backend.feedback_step(second, drift, gradient, rate, decay=decay)
        home.put_back(self.second[position], second)
        if drift is not None:
            home.put_back(self.drift[position], drift)

    def tensors(self) -> dict[str, Tensor]:
        """Return v and U by layer and kind, for a saved state."""
        named: dict[str, Tensor] = {}
        for kind, tensors in (("second", self.second), ("drift", self.drift)):
            named |= {f"{layer.name}.{kind}": tensor for layer, tensor in zip(self.layers, tensors, strict=False)}
        return named

    def parts(self) -> dict[str, Part]:
        """Return where v and U of each layer lie among those of all ranks."""
        kinds = ("second", "drift") if self.drift else ("second",)
        return {
            f"{layer.name}.{kind}": Part(max(layer.begin), layer.target.shape[1 if layer.transposed else 0])
            for layer in self.layers
            for kind in kinds
        }


def exactly_narrowed(weight: Tensor) -> Tensor | None:
    """Return a float32 weight in a dtype of 16 bits that has all its values, or None."""
    if weight.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            narrowed = weight.to(dtype)
            if torch.equal(narrowed.float(), weight):
                return narrowed
    return None
