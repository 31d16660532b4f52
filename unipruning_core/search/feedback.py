r"""The search whose saliency contains the loss, measured at the masked weights.

At sample t the mask M_t of the current score, at a sparsity that rises from 0 to ``ramp_sparsity``, is applied to the
drifting weights W0 + D_t under one budget for all matrices, and one gradient g_t is taken there.  A weight that was
masked early can come back, because its gradient is still measured.  The threshold of M_t is a quantile of the scores
of some rows of every matrix, drawn anew for each sample: in a large model M_t meets the sparsity of the ramp to a few
tenths of a percent, in a fraction of the time.  The final masks are exact.

.. math:: v \leftarrow v + \gamma (g_t^2 - v), \qquad D \leftarrow D - \eta_t \frac{m}{v^{1/2}}, \qquad
          V \leftarrow V + \kappa (S - \Gamma), \qquad
          \text{score} = |W^0|\, v^{1/2}\; V^{a}\; e^{b \operatorname{sign}(W^0) D / \eta}

**How much.**  Removing weight w changes the loss by about w g to first order; the mean square :math:`F = (W^0)^2 v` is
the diagonal Fisher term (Theis et al., arXiv 1801.05787).  Its root has the unit of the loss, so scores are comparable
between matrices and the budget may be global.  v is the second moment that AdamW keeps to drift the weights, and
``second_moment_rate`` is 1 - beta_2; no gradient is clipped, since AdamW is invariant to scale.  Its first moment is m.

**Which way.**  Let a mask entry be a number from 0 to 1: the derivative of the loss with respect to it is W0 g.  One
step of exponentiated gradient, mirror descent under the entropy, multiplies the entry by exp(-b W0 g / F^(1/2)), which
is exp(-b sign(W0) g / v^(1/2)).  AdamW accumulates these steps in D: a weight that the loss drives away from zero is
kept, one that it drives to zero is pruned.  ``drift_weight`` is b; a large one overshoots, since weights that pull the
same way are then pruned together.  The logarithm of the product of all factors is a sum, the dual of that mirror map.

Only D is held: W0 is the model's weight and does not change, and D in half precision keeps steps that W0 + D would
round away.  If nothing drifts (``learning_rate`` 0), F is a separate dual, with S = (W0 g)^2 and tau = 0.

Along the ramp each weight is judged near the sparsity at which it would be pruned, as on the regularisation path of
split linearised Bregman iteration (Huang et al., NeurIPS 2016).  The measured effect is a trade-off: low sparsities
seem to gain, while the end of the ramp loses the samples that they take (docs/results.md).  With a ``pattern`` N:M the
ramp masks only what the pattern would: of each M the M - N weakest, the weakest of all groups first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.substituted_weights import substituted_weights
from unipruning_core.search.adamw import BETAS, AdamW
from unipruning_core.search.base import Outcome
from unipruning_core.search.loss import LossSearch
from unipruning_core.selection.radix import kth_largest

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.activations import InputStatistics
    from unipruning_core.search.modes.feedback import FeedbackSettings

PROTECTED = torch.finfo(torch.float32).max  # the score of a weight that the pattern keeps at any sparsity


class FeedbackSearch(LossSearch):
    """Search that takes gradients at the masked weights along the ramp, and scores the weights by them.

    Scores, masks and masked weights are made one matrix at a time and never held.
    """

    settings: FeedbackSettings

    def prepare(self) -> None:
        super().prepare()
        self.total = sum(dual.numel() for dual in self.duals)

    def step(self, sample: int, input_ids: Tensor) -> float:
        threshold = self._ramp_threshold(sample)
        with substituted_weights(self.layers, lambda position: self._masked(position, threshold)):
            return self._backward(input_ids, lambda position, seen: self._step(position, sample, seen))

    @torch.no_grad()
    def _step(self, position: int, sample: int, seen: dict[str, InputStatistics]) -> None:
        if (statistics := self._statistics(position, seen)) is not None:
            self._mirror_step(position, sample, statistics, self.duals[position], self.thresholds[position])
        parameter = self.layers[position].parameter
        assert parameter.grad is not None
        self._follow(position, sample, parameter.grad)
        parameter.grad = None

    @abstractmethod
    def _follow(self, position: int, sample: int, gradient: Tensor) -> None:
        """Use a layer's gradient at the masked weights, as the module stores it."""

    @abstractmethod
    def _unmasked(self, position: int) -> Tensor:
        """Return the weight to mask, as the module stores it, in memory of its own."""

    @abstractmethod
    def _score(self, position: int, rows: Tensor | None = None) -> Tensor:
        """Return the score of a matrix, or of some ``rows`` of it, (out or rows, in) float32."""

    def sparsity_at(self, sample: int) -> float:
        """Return the model's sparsity ratio at this sample: a linear rise from 0, then constant from the ramp's end."""
        rising = max(1.0, self.settings.ramp_fraction * self.samples)
        return self.settings.most_sparse * min(1.0, sample / rising)

    def _ramp_threshold(self, sample: int) -> Tensor | None:
        """Return the score, 0-D float32, below which weights are masked at this sample; None if all are kept."""
        if not round(self.sparsity_at(sample) * self.total):
            return None
        rows = [self._drawn_rows(position, sample) for position in range(len(self.layers))]
        seen = sum(len(drawn) * dual.shape[1] for drawn, dual in zip(rows, self.duals, strict=True))
        keep = seen - round(self.sparsity_at(sample) * seen)
        return kth_largest(lambda: map(self._ranked, range(len(rows)), rows), keep, self.backend).threshold

    def _drawn_rows(self, position: int, sample: int) -> Tensor:
        """Draw distinct rows of a matrix, int64 on its device."""
        dual = self.duals[position]
        count = ceil(self.settings.rows_fraction(self.total) * len(dual))
        return torch.randperm(len(dual), generator=self._generator(position, sample))[:count].to(dual.device)

    @torch.no_grad()
    def _masked(self, position: int, threshold: Tensor | None) -> Tensor:
        """Return (W0 + D) * M as the module stores it."""
        weight = self._unmasked(position)
        if threshold is not None:
            score = self._ranked(position)
            every_tie = torch.tensor(score.numel(), device=score.device)
            mask = self.backend.threshold_mask(score, threshold.to(score.device), every_tie)
            weight.mul_(self._turned(mask, position))  # torch does not vectorise masked_fill_ on a CPU
        return weight

    def _ranked(self, position: int, rows: Tensor | None = None) -> Tensor:
        """Return the score by which the ramp masks weights: those that the pattern keeps come last."""
        score = self._score(position, rows)
        if (pattern := self.settings.ramp_pattern) is None:
            return score
        return score.masked_fill_(self.backend.nm_mask(score, pattern.n, pattern.m), PROTECTED)

    def _turned(self, stored: Tensor, position: int) -> Tensor:
        """Convert a matrix from the module's layout to (out, in), or back."""
        return stored.t() if self.layers[position].target.transposed else stored

    def outcomes(self) -> Iterator[Outcome]:
        for position, outcome in enumerate(super().outcomes()):
            score = self._score(position)
            yield Outcome(outcome.target, score, score.new_zeros(()), outcome.steps)


class DriftingFeedback(FeedbackSearch):
    """``feedback`` with a drift D beside the weights, and v kept by the AdamW that moves it."""

    def prepare(self) -> None:
        super().prepare()
        self.drift = [torch.zeros_like(layer.parameter) for layer in self.layers]
        rate, betas = self.settings.learning_rate, (BETAS[0], 1.0 - self.settings.second_moment_rate)
        # no decay: the last samples are those at full sparsity, and the drifting weights are never kept
        self.adamw = AdamW(self.drift, rate, self.samples, self.backend, betas=betas, decays=False)
        self.unclipped = torch.ones((), device=self.layers[0].weight.device)

    def _follow(self, position: int, sample: int, gradient: Tensor) -> None:
        self.adamw.step(position, self.drift[position], gradient, sample, self.unclipped)

    def _unmasked(self, position: int) -> Tensor:
        return self.layers[position].parameter + self.drift[position]

    def _weight(self, position: int) -> Tensor:
        return self.layers[position].weight + self._turned(self.drift[position], position)

    def _score(self, position: int, rows: Tensor | None = None) -> Tensor:
        second, drift = (
            self._turned(stored, position) for stored in (self.adamw.moments[position].second, self.drift[position])
        )
        return self.backend.blend_scores(
            _rows_of(second, rows),
            _rows_of(self.duals[position], rows),
            self.settings.local_exponent,
            _rows_of(self.layers[position].weight, rows),
            _rows_of(drift, rows),
            pull=self.settings.drift_weight / self.settings.learning_rate,
        )

    def tensors(self) -> dict[str, Tensor]:
        moments = self.adamw.tensors([layer.name for layer in self.layers])
        return super().tensors() | self._named("drift", self.drift) | moments


class StillFeedback(FeedbackSearch):
    """``feedback`` without drift (learning rate 0): F is a separate dual, with S = (W0 g)^2 and tau = 0."""

    def prepare(self) -> None:
        super().prepare()
        self.fisher = [torch.zeros_like(dual) for dual in self.duals]

    def _follow(self, position: int, sample: int, gradient: Tensor) -> None:
        layer, dual = self.layers[position], self.fisher[position]
        zeros = dual.new_zeros(dual.shape[1])
        self.backend.mirror_step(
            dual,
            layer.weight,
            dual.new_zeros(dual.shape[0]),
            zeros,
            zeros,
            dual.new_zeros(()),
            step_size=self.settings.second_moment_rate,
            rank=None,
            gradient=self._turned(gradient, position),
            phi=1.0,
        )

    def _unmasked(self, position: int) -> Tensor:
        return self.layers[position].parameter.clone()

    def _score(self, position: int, rows: Tensor | None = None) -> Tensor:
        fisher, local = _rows_of(self.fisher[position], rows), _rows_of(self.duals[position], rows)
        return self.backend.blend_scores(fisher, local, self.settings.local_exponent)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self._named("fisher", self.fisher)


def _rows_of(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows)
