r"""The search whose saliency contains the loss, measured where it matters: at the masked weights.

At sample t the mask M_t of the current score, at a sparsity that rises from 0 to ``ramp_sparsity``, is applied to the
drifting scratch weights W_t under one budget for all matrices, and one gradient g_t is taken at W_t * M_t.  A weight
that was masked early can come back, because its gradient is still measured.

.. math:: v \leftarrow v + \gamma (g_t^2 - v), \qquad V \leftarrow V + \kappa (S - \Gamma), \qquad
          \text{score} = |W^0|\, v^{1/2}\, V^{a}

Removing weight w of the original model changes the loss by about w g to first order; its mean square
:math:`F = (W^0)^2 v` is the diagonal Fisher term (Theis et al., arXiv 1801.05787).  The unit of its root is that of the
loss, so matrices compare and the budget may be global.  v is the second moment that AdamW keeps anyway to drift the
weights: there ``feedback_step`` is 1 - beta_2, no second dual is held, and no gradient is scaled, since AdamW does not
feel scale.  Where the weights stay (``learning_rate`` 0) F is a dual of its own, with S = (W0 g)^2 and tau = 0.

Along the ramp each weight is judged near the sparsity at which it would go, which is what makes one search serve every
sparsity: the regularisation path of split linearised Bregman iteration (Huang et al., NeurIPS 2016).  With a
``pattern`` N:M the ramp takes only what the pattern would: of each M the M - N weakest, weakest of all groups first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from unipruning_core.adamw import BETAS
from unipruning_core.masked_forward import masked_weights
from unipruning_core.mode_base import Outcome
from unipruning_core.mode_loss import DriftSearch, on_gradient
from unipruning_core.select import kth_largest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.settings import SearchSettings
    from unipruning_core.targets import Layer

PROTECTED = torch.finfo(torch.float32).max  # the score of a weight that the pattern keeps whatever the sparsity


class FeedbackSearch(DriftSearch):
    """``drift``, with the forward and backward at the masked weights and a score of what they say.

    Masks and masked weights are made one matrix at a time and never held.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: SearchSettings, backend: Backend, samples: int
    ) -> None:
        super().__init__(model, layers, settings, backend, samples)
        self.betas = BETAS[0], 1.0 - settings.feedback_step
        self.total = sum(dual.numel() for dual in self.duals)
        self.original = [layer.weight for layer in layers]
        self.feedback: list[Tensor] = []
        if settings.learning_rate:
            self.original = [weight.clone(memory_format=torch.contiguous_format) for weight in self.original]
        else:
            self.feedback = [torch.zeros_like(dual) for dual in self.duals]

    def consume(self, sample: int, input_ids: Tensor) -> float:
        with self._masked(sample):
            loss, seen = self._loss(input_ids)
            one = torch.ones((), device=loss.device)
            with on_gradient(self.layers, lambda position: self._step(position, sample, seen, one)):
                loss.backward()
        return float(loss.detach())

    def sparsity_at(self, sample: int) -> float:
        """How sparse the model is when it sees this sample: linear from 0, then level at the most the ramp reaches."""
        rising = max(1.0, self.settings.ramp_share * self.samples)
        return self.settings.most_sparse * min(1.0, sample / rising)

    def _masked(self, sample: int) -> AbstractContextManager[None]:
        """Have the model run at the weights that this sample's sparsity leaves."""
        keep = self.total - round(self.sparsity_at(sample) * self.total)
        if keep == self.total:
            return nullcontext()
        selection = kth_largest(lambda: map(self._ranked, range(len(self.layers))), keep, self.backend)

        def mask(position: int) -> Tensor:
            score = self._ranked(position)
            ties = torch.tensor(selection.ties_per_tensor[position], device=score.device)
            return self.backend.threshold_mask(score, selection.threshold.to(score.device), ties)

        return masked_weights(self.layers, mask)

    @torch.no_grad()
    def _descend(self, position: int, sample: int, gradient: Tensor, scale: Tensor) -> None:
        if self.moments:
            super()._descend(position, sample, gradient, scale)
            return
        layer, dual = self.layers[position], self.feedback[position]
        nothing = dual.new_zeros(dual.shape[1])
        self.backend.mirror_step(
            *(dual, layer.weight, dual.new_zeros(dual.shape[0]), nothing, nothing, dual.new_zeros(())),
            step_size=self.settings.feedback_step,
            rank=None,
            gradient=gradient.t() if layer.target.transposed else gradient,
            phi=1.0,
        )

    def _score(self, position: int) -> Tensor:
        local, exponent = self.duals[position], self.settings.exponent
        if not self.moments:
            return self.backend.blend_scores(self.feedback[position], local, exponent)
        second = self.moments[position].second
        second = second.t() if self.layers[position].target.transposed else second
        return self.backend.blend_scores(second, local, exponent, self.original[position])

    def _ranked(self, position: int) -> Tensor:
        """The score by which the ramp takes weights away: the pattern's own stay to the last."""
        score = self._score(position)
        if (pattern := self.settings.ramp_pattern) is None:
            return score
        return score.masked_fill_(self.backend.nm_mask(score, pattern.n, pattern.m), PROTECTED)

    def tensors(self) -> dict[str, Tensor]:
        state = super().tensors()
        # a dual of its own only where the weights stay
        for layer, feedback in zip(self.layers, self.feedback, strict=bool(self.feedback)):
            state[f"{layer.name}.feedback"] = feedback
        return state

    def outcomes(self) -> Iterator[Outcome]:
        for position, outcome in enumerate(super().outcomes()):
            score = self._score(position)
            yield Outcome(outcome.target, score, score.new_zeros(()), outcome.steps)
