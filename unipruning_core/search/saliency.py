r"""Local saliency: every metric as three vectors a matrix, so that S is never formed.

.. math:: S_{ij} \propto |W_{ij}| (r_i p_j + q_j), \qquad \operatorname{mean}(S) = 1

=========== ================================= =========== =========================================
metric      r_i                               p_j         q_j
=========== ================================= =========== =========================================
magnitude   0                                 0           1
wanda       0                                 0           n_j
ria         1 / sum_j abs(W_ij)               n_j^0.5     n_j^0.5 / sum_i abs(W_ij)
stochria    as ria, sums over random subsets  n_j^0.7     n_j^0.7 / (sum over a subset)
=========== ================================= =========== =========================================

n_j is the root mean square of input feature j.  Sources: Wanda (arXiv 2306.11695), RIA (Zhang et al., ICLR 2024),
stochRIA (Yi and Richtárik, arXiv 2501.18980).  A subset holds ``SUBSET_FRACTION * min(out, in)`` indices, the same for
all rows (all columns) of a matrix, and is drawn afresh for every step (``subsets.py``).

The vectors of all matrices of one device are the rows of one padded tensor each, and are made together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unipruning_core.search.subsets import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.search.metrics import Metric


@dataclass(frozen=True)
class Factors:
    """S of several matrices, or of several steps of one, as vectors; already divided by its mean."""

    r: Tensor  # (matrices or steps, outputs), float32
    p: Tensor  # (matrices or steps, inputs), float32
    q: Tensor  # (matrices or steps, inputs), float32


@dataclass(frozen=True)
class Sums:
    """Sums of abs(W), each with a row for every matrix or step, or one row for all."""

    rows: Tensor  # (..., outputs): of a row, or of a subset of it
    weighted: Tensor  # (..., outputs): of a row, times the feature
    columns: Tensor  # (..., inputs): of a column
    shares: Tensor  # (..., inputs): of a column, or of a subset of it


class Saliency:
    """The factors of some matrices of one device, for any input norms."""

    def __init__(
        self,
        metric: Metric,
        weights: Sequence[Tensor],  # (out, in) each, any float
        streams: Sequence[int],  # of random numbers, one a matrix
        backend: Backend,
        seed: int,
    ) -> None:
        self.metric, self.weights, self.backend = metric, weights, backend
        device = weights[0].device
        self.draws = Draws([(weight.shape[0], weight.shape[1]) for weight in weights], streams, seed, device)
        self.sizes = torch.tensor([float(weight.numel()) for weight in weights], device=device)[:, None]

    def feature(self, norm: Tensor) -> Tensor:
        """Return the metric's power of n, or ones for a metric that sees no inputs."""
        return norm.pow(self.metric.exponent) if self.metric.uses_inputs else torch.ones_like(norm)

    def of_sample(self, norm: Tensor, sample: int) -> Factors:
        """Return the factors of the weights as they are now, with one pass over each.

        Args:
            norm: (matrices, most inputs), float32, n; anything past a matrix's last input.
            sample: the number of the random subsets.
        """
        feature = self.feature(norm)
        inputs, outputs = (
            self.draws.of_sample(sample)
            if self.metric.random_subsets
            else (self.draws.every_input, self.draws.every_output)
        )
        rows, weighted = (torch.zeros_like(outputs) for _ in range(2))
        columns, shares = (torch.zeros_like(feature) for _ in range(2))
        for position, weight in enumerate(self.weights):
            height, width = weight.shape
            part = self._sums(
                weight,
                feature[position, :width],
                inputs[position : position + 1, :width],
                outputs[position : position + 1, :height],
            )
            columns[position, :width] = part.columns
            if self.metric.relative:
                rows[position, :height], weighted[position, :height] = part.rows[0], part.weighted
                shares[position, :width] = part.shares[0]
        return self._factors(feature, Sums(rows, weighted, columns, shares), self.sizes)

    def of_steps(self, position: int, norm: Tensor, steps: int) -> Factors:
        """Return the factors of one matrix, whose weight and norm, (in,) float32, stay, for all steps in one pass."""
        weight, feature = self.weights[position], self.feature(norm)
        sums = self._sums(weight, feature, *self._subsets(position, steps))
        factors = self._factors(feature, sums, self.sizes[position])
        return Factors(*(vectors.expand(steps, -1) for vectors in (factors.r, factors.p.unsqueeze(0), factors.q)))

    def _subsets(self, position: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return subsets of a matrix's inputs, (steps or 1, in), and outputs, (steps or 1, out), as zeros and ones."""
        if self.metric.random_subsets:
            return self.draws.of_matrix(position, steps)
        height, width = self.weights[position].shape
        return self.draws.every_input[position, None, :width], self.draws.every_output[position, None, :height]

    def _sums(self, weight: Tensor, feature: Tensor, inputs: Tensor, outputs: Tensor) -> Sums:
        """Sum abs(W) over subsets in one pass; only columns where the metric is not relative."""
        every = torch.ones_like(outputs[:1])
        if not self.metric.relative:
            columns = self.backend.abs_sums(weight, inputs[:0], every)[1][0]
            return Sums(torch.zeros_like(every), torch.zeros_like(every[0]), columns, columns[None])
        across = torch.cat([every, outputs]) if self.metric.random_subsets else every
        rows, columns = self.backend.abs_sums(weight, torch.cat([feature[None], inputs]), across)
        return Sums(rows[1:], rows[0], columns[0], columns[1:] if self.metric.random_subsets else columns)

    def _factors(self, feature: Tensor, sums: Sums, sizes: Tensor) -> Factors:
        if self.metric.relative:
            r, q = reciprocal(sums.rows), feature * reciprocal(sums.shares)
        else:
            r, q = torch.zeros_like(sums.rows), feature.expand_as(sums.shares)
        # sum(S) = sum_i r_i sum_j |W_ij| p_j + sum_j q_j sum_i |W_ij|
        total = (r * sums.weighted).sum(1, keepdim=True) + (q * sums.columns).sum(1, keepdim=True)
        scale = reciprocal(total / sizes)
        return Factors(r * scale, feature, q * scale)


class FixedSaliency(Saliency):
    """The factors where the weights stay: every pass over them is made here, once.

    Random subsets then depend on nothing, so their average over ``AVERAGED`` samples stands for all.
    """

    AVERAGED = 64

    def __init__(
        self, metric: Metric, weights: Sequence[Tensor], streams: Sequence[int], backend: Backend, seed: int
    ) -> None:
        super().__init__(metric, weights, streams, backend, seed)
        self.r = torch.zeros_like(self.draws.every_output)
        self.shares, self.columns, self.weighted = (torch.zeros_like(self.draws.every_input) for _ in range(3))
        for position, weight in enumerate(weights):
            height, width = weight.shape
            inputs, outputs = self._subsets(position, self.AVERAGED)
            sums = self._sums(weight, self.draws.every_input[position, :width], inputs, outputs)
            self.columns[position, :width] = sums.columns
            if metric.relative:
                self.r[position, :height] = reciprocal(sums.rows).mean(0)
                self.shares[position, :width] = reciprocal(sums.shares).mean(0)
                # sum_i r_i |W_ij|, so that sum(S) is a sum over inputs alone
                self.weighted[position, :width] = backend.abs_sums(weight, inputs[:0], self.r[position, None, :height])[
                    1
                ][0]

    def factors(self, norm: Tensor) -> Factors:
        """Return the factors for n, (matrices, most inputs) float32, without reading the weights."""
        feature = self.feature(norm)
        q = feature * self.shares if self.metric.relative else feature
        total = (feature * self.weighted + q * self.columns).sum(1, keepdim=True)
        scale = reciprocal(total / self.sizes)
        return Factors(self.r * scale, feature, q * scale)


def reciprocal(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 for 0: a row or column of zeros has no relative importance, not an infinite one."""
    return torch.where(x > 0, x.reciprocal(), torch.zeros_like(x))
