"""``drift``: AdamW moves the weights to lower the loss, and the saliency is computed from the moving weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unipruning_core.search.adamw import AdamW
from unipruning_core.search.loss import LossSearch

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.activations import InputStatistics
    from unipruning_core.search.modes.drift import DriftSettings


class DriftSearch(LossSearch):
    """Search that moves the weights by AdamW, with clipping over all targets together, and computes S from them.

    The clipping factor is known only after the whole backward pass, so this mode holds all gradients, in the weights'
    dtype.  With ``max_grad_norm=0`` each gradient is used and freed as autograd makes it.
    """

    settings: DriftSettings

    def prepare(self) -> None:
        super().prepare()
        rate = self.settings.learning_rate
        parameters = [layer.parameter for layer in self.layers]
        self.unclipped = torch.ones((), device=self.layers[0].weight.device)
        # no moments if the weights are fixed
        self.adamw = AdamW(parameters, rate, self.samples, self.backend) if rate else None

    def step(self, sample: int, input_ids: Tensor) -> float:
        if not self.settings.max_grad_norm:
            return self._backward(input_ids, lambda position, seen: self._step(position, sample, seen, self.unclipped))
        loss, seen = self._loss(input_ids)
        loss.backward()
        self._refuse_without_gradient(seen, [layer.parameter.grad is not None for layer in self.layers])
        scale = self._clipping_factor()
        for position in range(len(self.layers)):
            self._step(position, sample, seen, scale)
        return float(loss.detach())

    def _clipping_factor(self) -> Tensor:
        gradients = [layer.parameter.grad for layer in self.layers if layer.parameter.grad is not None]
        norms = torch.stack(
            [torch.linalg.vector_norm(g, dtype=torch.float32).to(gradients[0].device) for g in gradients]
        )
        scale: Tensor = self.settings.max_grad_norm / (torch.linalg.vector_norm(norms) + 1e-6)
        return scale.clamp(max=1.0)

    @torch.no_grad()
    def _step(self, position: int, sample: int, seen: dict[str, InputStatistics], scale: Tensor) -> None:
        layer, settings = self.layers[position], self.settings
        if (statistics := self._statistics(position, seen)) is not None:
            self._mirror_step(position, sample, statistics, self.duals[position], self.thresholds[position])
        if (gradient := layer.parameter.grad) is not None:
            if self.adamw:
                self.adamw.step(position, layer.parameter.detach(), gradient, sample, scale)
            layer.parameter.grad = None
        if settings.prox_strength:
            pattern = settings.regulariser
            self.backend.nm_prox(layer.weight, settings.prox_strength, pattern.n, pattern.m)

    def tensors(self) -> dict[str, Tensor]:
        moments = self.adamw.tensors([layer.name for layer in self.layers]) if self.adamw else {}
        return super().tensors() | self._scratch() | moments
