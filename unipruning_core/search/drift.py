"""``drift``: AdamW moves the weights to lower the loss, and the saliency is computed from the moving weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unipruning_core.models.held import gathered
from unipruning_core.search.adamw import AdamW
from unipruning_core.search.dual import DualSearch, mirror_step

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.modes.drift import DriftSettings


class DriftSearch(DualSearch):
    """Search that moves the weights by AdamW, with clipping over all targets together, and computes S from them.

    The clipping factor is known only after the whole backward pass, so this mode holds all gradients, in the weights'
    dtype.  With ``max_grad_norm=0`` each gradient is used and freed as autograd makes it.
    """

    settings: DriftSettings

    def prepare(self) -> None:
        super().prepare()
        rate = self.settings.learning_rate
        parameters = [layer.held for layer in self.layers]
        self.unclipped = torch.ones((), device=self.layers[0].device)
        # no moments if the weights are fixed
        self.adamw = AdamW(parameters, rate, self.samples, self.backend) if rate else None

    def _move(self, sample: int, loss: Tensor) -> None:
        if not self.settings.max_grad_norm:
            self._backward(loss, lambda position: self._step_if_usable(position, sample))
        else:
            with gathered(self.language_loss.model):
                loss.backward()
            self._note_gradients([layer.parameter.grad is not None for layer in self.layers])
            usable = [position for position in range(len(self.layers)) if self._usable(position)]
            scale = self._clipping_factor() if usable else self.unclipped
            for position in usable:
                self._step(position, sample, scale)

    def _clipping_factor(self) -> Tensor:
        gradients = [gradient for layer in self.layers if (gradient := layer.gradient) is not None]
        norms = torch.stack(
            [torch.linalg.vector_norm(g, dtype=torch.float32).to(gradients[0].device) for g in gradients]
        )
        norm = torch.linalg.vector_norm(norms)
        if self.world.sharded:
            norm = (self.world.total(norm.square()) / self.world.copies).sqrt()
        scale: Tensor = self.settings.max_grad_norm / (norm + 1e-6)
        return scale.clamp(max=1.0)

    def _step_if_usable(self, position: int, sample: int) -> None:
        if self._usable(position):
            self._step(position, sample, self.unclipped)

    @torch.no_grad()
    def _step(self, position: int, sample: int, scale: Tensor) -> None:
        layer, settings = self.layers[position], self.settings
        if (factors := self.factors[position]) is not None:
            dual, threshold = self.duals[position], self.thresholds[position]
            numel = layer.target.size
            mirror_step(self.backend, settings, layer.weight, factors, dual, threshold, self.world, numel)
        if (gradient := layer.gradient) is not None:
            if self.adamw and gradient.numel():
                self.adamw.step(position, layer.held, gradient, sample, scale)
            layer.parameter.grad = None
        if settings.prox_strength and layer.held.numel():
            pattern = settings.regulariser
            self.backend.nm_prox(layer.weight, settings.prox_strength, pattern.n, pattern.m)

    def tensors(self) -> dict[str, Tensor]:
        moments = self.adamw.tensors([layer.name for layer in self.layers]) if self.adamw else {}
        return super().tensors() | self._scratch() | moments
