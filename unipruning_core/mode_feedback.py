r"""The search whose saliency contains the loss, measured where it matters: at the masked weights.

At sample t the mask M_t of the current score, at a sparsity that rises from 0 to ``ramp_sparsity``, is applied to the
drifting weights W0 + D_t under one budget for all matrices, and one gradient g_t is taken there.  A weight that was
masked early can come back, because its gradient is still measured.

.. math:: v \leftarrow v + \gamma (g_t^2 - v), \qquad D \leftarrow D - \eta_t \frac{m}{v^{1/2}}, \qquad
          V \leftarrow V + \kappa (S - \Gamma), \qquad
          \text{score} = |W^0|\, v^{1/2}\; V^{a}\; e^{b \operatorname{sign}(W^0) D / \eta}

**How much.**  Removing weight w changes the loss by about w g to first order; the mean square :math:`F = (W^0)^2 v` is
the diagonal Fisher term (Theis et al., arXiv 1801.05787).  The unit of its root is that of the loss, so matrices
compare and the budget may be global.  v is the second moment that AdamW keeps to drift the weights: ``feedback_step``
is 1 - beta_2, and no gradient is clipped, since AdamW does not feel scale.  Its first moment is m.

**Which way.**  Let a mask entry be a number from 0 to 1: the derivative of the loss in it is W0 g.  One step of
exponentiated gradient, mirror descent under the entropy, multiplies the entry by exp(-b W0 g / F^(1/2)), which is
exp(-b sign(W0) g / v^(1/2)).  The sum of these steps is what AdamW adds up in D: a weight that the loss drives away
from zero stays, one that it drives to zero goes.  ``pull`` is b; a large one overshoots, since weights that pull the
same way are then pruned together.  The product of all factors is a sum of logarithms, the dual of that mirror map.

Only D is held: W0 is the model's weight and stays, and D in a half precision keeps steps that W0 + D would round away.
Where nothing drifts (``learning_rate`` 0) F is a dual of its own, with S = (W0 g)^2 and tau = 0.

Along the ramp each weight is judged near the sparsity at which it would go, which is what makes one search serve every
sparsity: the regularisation path of split linearised Bregman iteration (Huang et al., NeurIPS 2016).  With a
``pattern`` N:M the ramp takes only what the pattern would: of each M the M - N weakest, weakest of all groups first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from unipruning_core.adamw import BETAS
from unipruning_core.masked_forward import substituted_weights
from unipruning_core.mode_base import Outcome
from unipruning_core.mode_loss import DriftSearch, on_gradient
from unipruning_core.select import kth_largest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.select import Selection
    from unipruning_core.settings import SearchSettings
    from unipruning_core.targets import Layer

PROTECTED = torch.finfo(torch.float32).max  # the score of a weight that the pattern keeps whatever the sparsity


class FeedbackSearch(DriftSearch):
    """``drift`` beside the weights, with the gradient at the masked weights and a score of what it says.

    Scores, masks and masked weights are made one matrix at a time and never held.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: SearchSettings, backend: Backend, samples: int
    ) -> None:
        super().__init__(model, layers, settings, backend, samples)
        # no decay: the last samples are those at full sparsity, and the drifting weights are never kept
        self.betas, self.decays = (BETAS[0], 1.0 - settings.feedback_step), False
        self.total = sum(dual.numel() for dual in self.duals)
        drifts = bool(settings.learning_rate)
        self.drift = [torch.zeros_like(layer.parameter) for layer in layers] if drifts else []
        self.feedback = [] if drifts else [torch.zeros_like(dual) for dual in self.duals]

    def consume(self, sample: int, input_ids: Tensor) -> float:
        selection = self._selection(sample)
        with substituted_weights(self.layers, lambda position: self._masked(position, selection)):
            loss, seen = self._loss(input_ids)
            one = torch.ones((), device=loss.device)
            with on_gradient(self.layers, lambda position: self._step(position, sample, seen, one)) as reached:
                loss.backward()
        self._refuse_without_gradient(seen, reached)
        return float(loss.detach())

    def sparsity_at(self, sample: int) -> float:
        """How sparse the model is when it sees this sample: linear from 0, then level at the most the ramp reaches."""
        rising = max(1.0, self.settings.ramp_share * self.samples)
        return self.settings.most_sparse * min(1.0, sample / rising)

    def _selection(self, sample: int) -> Selection | None:
        """Which weights this sample's sparsity leaves; None where it leaves all."""
        keep = self.total - round(self.sparsity_at(sample) * self.total)
        if keep == self.total:
            return None
        return kth_largest(lambda: map(self._ranked, range(len(self.layers))), keep, self.backend)

    @torch.no_grad()
    def _masked(self, position: int, selection: Selection | None) -> Tensor:
        """(W0 + D) * M as the module stores it."""
        layer = self.layers[position]
        weight = layer.parameter + self.drift[position] if self.drift else layer.parameter.clone()
        if selection is not None:
            score = self._ranked(position)
            ties = torch.tensor(selection.ties_per_tensor[position], device=score.device)
            mask = self.backend.threshold_mask(score, selection.threshold.to(score.device), ties)
            weight.masked_fill_(~self._faced(mask, position), 0.0)
        return weight

    def _weight(self, position: int) -> Tensor:
        weight = self.layers[position].weight
        return weight + self._faced(self.drift[position], position) if self.drift else weight

    def _moved(self, position: int) -> Tensor:
        return self.drift[position] if self.drift else super()._moved(position)

    def _descend(self, position: int, sample: int, gradient: Tensor, scale: Tensor) -> None:
        if self.drift:
            super()._descend(position, sample, gradient, scale)
            return
        layer, dual = self.layers[position], self.feedback[position]
        nothing = dual.new_zeros(dual.shape[1])
        self.backend.mirror_step(
            *(dual, layer.weight, dual.new_zeros(dual.shape[0]), nothing, nothing, dual.new_zeros(())),
            step_size=self.settings.feedback_step,
            rank=None,
            gradient=self._faced(gradient, position),
            phi=1.0,
        )

    def _score(self, position: int) -> Tensor:
        local, settings = self.duals[position], self.settings
        if not self.drift:
            return self.backend.blend_scores(self.feedback[position], local, settings.exponent)
        second, drift = (self._faced(t, position) for t in (self.moments[position].second, self.drift[position]))
        return self.backend.blend_scores(
            *(second, local, settings.exponent, self.layers[position].weight, drift),
            pull=settings.pull / settings.learning_rate,
        )

    def _ranked(self, position: int) -> Tensor:
        """The score by which the ramp takes weights away: the pattern's own stay to the last."""
        score = self._score(position)
        if (pattern := self.settings.ramp_pattern) is None:
            return score
        return score.masked_fill_(self.backend.nm_mask(score, pattern.n, pattern.m), PROTECTED)

    def _faced(self, stored: Tensor, position: int) -> Tensor:
        """From how the module stores a matrix to (out, in), or back."""
        return stored.t() if self.layers[position].target.transposed else stored

    def tensors(self) -> dict[str, Tensor]:
        state = super().tensors()
        # a dual of its own only where nothing drifts
        for layer, feedback in zip(self.layers, self.feedback, strict=not self.drift):
            state[f"{layer.name}.feedback"] = feedback
        return state

    def outcomes(self) -> Iterator[Outcome]:
        for position, outcome in enumerate(super().outcomes()):
            score = self._score(position)
            yield Outcome(outcome.target, score, score.new_zeros(()), outcome.steps)
