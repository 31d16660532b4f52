"""``coupled``: weights and Γ pull on each other, as written in the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unipruning_core.search.dual import DualSearch

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.modes.coupled import CoupledSettings

TILE = 1 << 18  # elements of a temporary in the weight step


class CoupledSearch(DualSearch):
    r"""Gradient descent of the weights on the loss plus the pull, and a true soft threshold for Gamma.

    .. math:: W \leftarrow W - \alpha\kappa\,\nabla_W\bigl[L + \tfrac{\rho}{2}\|\Gamma - S(W)\|^2\bigr], \qquad
              V \leftarrow V + \alpha\rho\,(S - \Gamma), \qquad \Gamma = \operatorname{shrink}(V, \lambda)

    ``learning_rate`` is alpha*kappa, ``step_size`` is alpha*rho, ``coupling`` is rho and ``soft_threshold`` is lambda.
    In the derivative of S the factors r, p, q are held fixed, so that dS/dW is sign(W) (r p + q).
    Each gradient is used and freed as autograd makes it.
    """

    settings: CoupledSettings

    def _first_threshold(self, zero: Tensor) -> Tensor:
        return zero + self.settings.soft_threshold

    def _move(self, sample: int, loss: Tensor) -> None:
        self._backward(loss, self._step)

    @torch.no_grad()
    def _step(self, position: int) -> None:
        if not self._usable(position):
            return
        layer, factors = self.layers[position], self.factors[position]
        gradient = layer.gradient
        layer.parameter.grad = None
        if factors is None or gradient is None or not gradient.numel():
            return
        weight, dual, threshold = layer.weight, self.duals[position], self.thresholds[position]
        gradient = gradient.t() if layer.transposed else gradient
        r, p, q = factors
        moved = torch.empty_like(weight)
        rows = max(1, TILE // weight.shape[1])
        for start in range(0, weight.shape[0], rows):
            part = slice(start, start + rows)
            w, slope = weight[part].float(), r[part, None] * p + q
            gamma = torch.nn.functional.softshrink(dual[part], self.settings.soft_threshold)
            pull = (w.abs() * slope - gamma) * w.sign() * slope
            moved[part] = w - self.settings.learning_rate * (gradient[part].float() + self.settings.coupling * pull)
        self.backend.mirror_step(dual, weight, r, p, q, threshold, step_size=self.settings.step_size, rank=None)
        weight.copy_(moved)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self._scratch()
