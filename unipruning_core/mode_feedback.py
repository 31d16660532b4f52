r"""The search whose saliency contains the loss, measured where it matters: at the masked weights.

At sample t the mask M_t of the current score, at a sparsity that rises from 0 to ``ramp_sparsity``, is applied to the
drifting scratch weights W_t under one budget for all matrices, and one gradient g_t is taken at W_t * M_t.  A weight
that was masked early can come back, because its gradient is still measured.

.. math:: F \leftarrow F + \gamma \bigl((W^0 g_t)^2 - F\bigr), \qquad V \leftarrow V + \kappa (S - \Gamma), \qquad
          \text{score} = F^{1/2}\, V^{a}

(W0 g)^2 is the squared first-order change of the loss when a weight of the original model is removed, a diagonal Fisher
term (Theis et al., arXiv 1801.05787): its unit is that of the loss, so matrices compare and the budget may be global.
Both updates are the contract's mirror step: F is a dual with S = phi (W0 g)^2 and tau = 0.  Along the ramp each weight
is judged near the sparsity at which it would go, which is what makes one search serve every sparsity: the
regularisation path of split linearised Bregman iteration (Huang et al., NeurIPS 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unipruning_core.mode_base import Outcome
from unipruning_core.mode_loss import DriftSearch
from unipruning_core.select import kth_largest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.settings import SearchSettings
    from unipruning_core.targets import Layer


class FeedbackSearch(DriftSearch):
    """``drift``, with the forward and backward at the masked weights and a second dual for what they say."""

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: SearchSettings, backend: Backend, samples: int
    ) -> None:
        super().__init__(model, layers, settings, backend, samples)
        self.original = [layer.weight.clone(memory_format=torch.contiguous_format) for layer in layers]
        self.feedback = [torch.zeros_like(dual) for dual in self.duals]
        self.total = sum(dual.numel() for dual in self.duals)

    def consume(self, sample: int, input_ids: Tensor) -> float:
        with self._masked(sample):
            loss, seen = self._loss(input_ids)
            loss.backward()
        scale = self._clipping_factor() if self.settings.max_grad_norm else loss.new_ones(())
        for position in range(len(self.layers)):
            self._feed_back(position)
            self._step(position, sample, seen, scale)
        return float(loss.detach())

    def sparsity_at(self, sample: int) -> float:
        """How sparse the model is when it sees this sample: linear from 0, then level at ``ramp_sparsity``."""
        rising = max(1.0, self.settings.ramp_share * self.samples)
        return self.settings.ramp_sparsity * min(1.0, sample / rising)

    @contextmanager
    def _masked(self, sample: int) -> Iterator[None]:
        """Put masked copies into the model's place and take them out again, with the gradients left on the weights."""
        keep = self.total - round(self.sparsity_at(sample) * self.total)
        if keep == self.total:
            yield
            return
        full = [layer.parameter.data for layer in self.layers]
        selection = kth_largest(lambda: map(self._score, range(len(self.layers))), keep, self.backend)
        for position, layer in enumerate(self.layers):
            threshold = selection.threshold.to(full[position].device)
            ties = torch.tensor(selection.ties_per_tensor[position], device=threshold.device)
            mask = self.backend.threshold_mask(self._score(position), threshold, ties)
            mask = mask.t() if layer.target.transposed else mask
            layer.parameter.data = full[position].masked_fill(~mask, 0.0)
        try:
            yield
        finally:
            for layer, data in zip(self.layers, full, strict=True):
                layer.parameter.data = data

    @torch.no_grad()
    def _feed_back(self, position: int) -> None:
        layer, dual = self.layers[position], self.feedback[position]
        if (gradient := layer.parameter.grad) is None:
            return
        nothing = dual.new_zeros(dual.shape[1])
        self.backend.mirror_step(
            dual,
            self.original[position],
            dual.new_zeros(dual.shape[0]),
            nothing,
            nothing,
            dual.new_zeros(()),
            step_size=self.settings.feedback_step,
            rank=None,
            gradient=gradient.t() if layer.target.transposed else gradient,
            phi=1.0,
        )

    def _score(self, position: int) -> Tensor:
        return self.backend.blend_scores(self.feedback[position], self.duals[position], self.settings.exponent)

    def tensors(self) -> dict[str, Tensor]:
        state = super().tensors()
        for layer, feedback in zip(self.layers, self.feedback, strict=True):
            state[f"{layer.name}.feedback"] = feedback
        return state

    def outcomes(self) -> Iterator[Outcome]:
        for position, outcome in enumerate(super().outcomes()):
            score = self._score(position)
            yield Outcome(outcome.target, score, score.new_zeros(()), outcome.steps)
