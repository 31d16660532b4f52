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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unipruning_core.distributed.world import ALONE
from unipruning_core.search.subsets import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World
    from unipruning_core.models.layer import Layer
    from unipruning_core.search.metrics import Metric


@dataclass(frozen=True)
class Factors:
    """S of several matrices, or of several steps of one, as vectors; already divided by its mean."""

    r: Tensor  # (matrices or steps, outputs), float32
    p: Tensor  # (matrices or steps, inputs), float32
    q: Tensor  # (matrices or steps, inputs), float32


class Shapes:
    """What the factors of some matrices of one device need besides their values."""

    def __init__(
        self,
        metric: Metric,
        shapes: Sequence[tuple[int, int]],  # (out, in) each
        streams: Sequence[int],  # of random numbers, one a matrix
        seed: int,
        device: torch.device,
    ) -> None:
        self.metric, self.shapes = metric, shapes
        self.draws = Draws(shapes, streams, seed, device)
        self.sizes = torch.tensor([float(rows * columns) for rows, columns in shapes], device=device)[:, None]

    def _feature(self, norm: Tensor) -> Tensor:
        """Return the metric's power of n, or ones for a metric that sees no inputs."""
        return norm.pow(self.metric.exponent) if self.metric.uses_inputs else torch.ones_like(norm)

    def _subsets(self, position: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return subsets of a matrix's inputs, (steps, in), and outputs, (steps, out), as zeros and ones."""
        if self.metric.random_subsets:
            return self.draws.of_matrix(position, steps)
        height, width = self.shapes[position]
        ones = self.draws.every_input.new_ones(1, 1)
        return ones.expand(steps, width), ones.expand(steps, height)


@dataclass(frozen=True)
class Parts:
    """Matrices of which each rank has some rows: their sums are those of all ranks."""

    shapes: Sequence[tuple[int, int]]  # of the whole matrices
    spans: Sequence[tuple[slice, slice]]  # the rows and columns that are here
    world: World

    @property
    def counts(self) -> bool:
        """Whether this rank's sums count: of several copies of the model those of the first."""
        return self.world.rank < self.world.shards


class Saliency(Shapes):
    """The factors of some matrices of one device, for any input norms."""

    def __init__(
        self,
        metric: Metric,
        weights: Sequence[Tensor],  # (out, in) each, any float
        streams: Sequence[int],  # of random numbers, one a matrix
        backend: Backend,
        seed: int,
        parts: Parts | None = None,  # of matrices that are divided among ranks
    ) -> None:
        shapes = [(len(w), w.shape[1]) for w in weights] if parts is None else parts.shapes
        super().__init__(metric, shapes, streams, seed, weights[0].device)
        self.weights, self.backend, self.parts = weights, backend, parts

    def of_sample(self, norm: Tensor, sample: int) -> Factors:
        """Return the factors of the weights as they are now, with one pass over each.

        Args:
            norm: (matrices, most inputs), float32, n; anything past a matrix's last input.
            sample: the number of the random subsets.
        """
        feature = self._feature(norm)
        inputs, outputs = self.draws.every_input, self.draws.every_output
        if self.metric.random_subsets:
            inputs, outputs = self.draws.of_sample(sample)
        along, across = self._asked(feature, inputs, outputs)
        rows, columns = (
            feature.new_zeros(*of.shape[:2], to.shape[1]) for of, to in ((along, outputs), (across, inputs))
        )
        for position, weight in enumerate(self.weights):
            height, width = slice(weight.shape[0]), slice(weight.shape[1])
            if self.parts is not None:
                height, width = self.parts.spans[position]
            if weight.numel() and (self.parts is None or self.parts.counts):
                sums = self.backend.abs_sums(weight, along[position, :, width], across[position, :, height])
                rows[position, :, height], columns[position, :, width] = sums
        if self.parts is not None:
            rows, columns = self.parts.world.total(rows), self.parts.world.total(columns)
        return self._factors(feature, rows, columns, outputs, self.sizes)

    def of_steps(self, position: int, norm: Tensor, steps: int) -> Factors:
        """Return the factors of one matrix, whose weight and norm, (in,) float32, stay, for all steps in one pass."""
        weight, feature = self.weights[position], self._feature(norm)[None]
        inputs, outputs = self._subsets(position, steps)
        if not self.metric.random_subsets:
            along, across = (part[0] for part in self._asked(feature, inputs[:1], outputs[:1]))
            rows, columns = self.backend.abs_sums(weight, along, across)
            made = self._factors(feature, rows[None], columns[None], outputs[:1], self.sizes[position])
            return Factors(*(vectors.expand(steps, -1) for vectors in (made.r, made.p, made.q)))
        every = outputs.new_ones(1, len(weight))
        sums = self.backend.abs_sums(weight, torch.cat([feature, inputs]), torch.cat([every, outputs]))
        # the whole sums, which stand first, belong to every step
        rows, columns = (torch.stack([part[:1].expand(steps, -1), part[1:]], 1) for part in sums)
        made = self._factors(feature, rows, columns, outputs, self.sizes[position])
        return Factors(made.r, made.p.expand(steps, -1), made.q)

    def _asked(self, feature: Tensor, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the sums that the metric needs: each (matrices or steps, sums, inputs or outputs)."""
        every = outputs.new_ones(1, 1).expand_as(outputs)
        along = (
            torch.stack([feature, inputs], 1)
            if self.metric.relative
            else feature.new_zeros(len(feature), 0, feature.shape[1])
        )
        return along, torch.stack([every, outputs], 1) if self.metric.random_subsets else every[:, None]

    def _factors(self, feature: Tensor, rows: Tensor, columns: Tensor, outputs: Tensor, sizes: Tensor) -> Factors:
        """Return the factors from the sums that were asked for."""
        whole, share = columns[:, 0], columns[:, -1]
        if not self.metric.relative:
            return scaled(torch.zeros_like(outputs), feature, feature, (feature * whole).sum(1, keepdim=True), sizes)
        weighted, chosen = rows.unbind(1)
        r, q = reciprocal(chosen), feature * reciprocal(share)
        # sum(S) = sum_i r_i sum_j |W_ij| p_j + sum_j q_j sum_i |W_ij|
        total = (r * weighted).sum(1, keepdim=True) + (q * whole).sum(1, keepdim=True)
        return scaled(r, feature, q, total, sizes)


class FixedSaliency(Shapes):
    """The factors where the weights stay: every pass over them is made here, once, and each matrix by one rank alone.

    Random subsets then depend on nothing, so their average over ``AVERAGED`` samples stands for all.
    """

    AVERAGED = 64

    def __init__(
        self,
        metric: Metric,
        shapes: Sequence[tuple[int, int]],  # (out, in) each
        whole: Callable[[int], Tensor],  # a matrix, (out, in) any float, by its place in the shapes
        streams: Sequence[int],
        backend: Backend,
        seed: int,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        super().__init__(metric, shapes, streams, seed, device)
        self.r = torch.zeros_like(self.draws.every_output)
        self.shares, self.columns, self.weighted = (torch.zeros_like(self.draws.every_input) for _ in range(3))
        for position in range(world.rank, len(shapes), world.size):
            weight, (height, width) = whole(position), shapes[position]
            inputs, outputs = self._subsets(position, self.AVERAGED if metric.random_subsets else 1)
            every = outputs.new_ones(1, height)
            if not metric.relative:
                self.columns[position, :width] = backend.abs_sums(weight, inputs[:0], every)[1][0]
                continue
            rows, columns = backend.abs_sums(weight, inputs, torch.cat([every, outputs]))
            self.columns[position, :width] = columns[0]
            self.r[position, :height] = reciprocal(rows).mean(0)
            self.shares[position, :width] = reciprocal(columns[1:]).mean(0)
            # sum_i r_i |W_ij|, so that sum(S) is a sum over inputs alone
            self.weighted[position, :width] = backend.abs_sums(weight, inputs[:0], self.r[position, None, :height])[1][
                0
            ]

        for made in (self.r, self.shares, self.columns, self.weighted):
            world.total(made)  # every row is zero on all ranks but one

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        metric: Metric,
        backend: Backend,
        seed: int,
        world: World,
        positions: Sequence[int],  # of those layers that share a device
    ) -> FixedSaliency:
        """Return the saliency of some layers' weights as they are now."""
        chosen = [layers[position] for position in positions]
        shapes, device = [layer.target.shape for layer in chosen], chosen[0].device
        return cls(metric, shapes, lambda row: chosen[row].whole(), positions, backend, seed, device, world)

    def factors(self, norm: Tensor) -> Factors:
        """Return the factors for n, (matrices, most inputs) float32, without reading the weights."""
        feature = self._feature(norm)
        q = feature * self.shares if self.metric.relative else feature
        total = (feature * self.weighted + q * self.columns).sum(1, keepdim=True)
        return scaled(self.r, feature, q, total, self.sizes)


def scaled(r: Tensor, p: Tensor, q: Tensor, total: Tensor, sizes: Tensor) -> Factors:
    """Divide S by its mean, given its sum and its elements; S = 0 if there is nothing to normalise."""
    scale = reciprocal(total / sizes)
    return Factors(r * scale, p, q * scale)


def reciprocal(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 for 0: a row or column of zeros has no relative importance, not an infinite one."""
    return torch.where(x > 0, x.reciprocal(), torch.zeros_like(x))
