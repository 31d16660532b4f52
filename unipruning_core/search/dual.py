"""The base of the searches whose saliency is computed from moving weights: V and tau of every layer are held."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from math import nan
from statistics import median_low
from typing import TYPE_CHECKING

import torch

from unipruning_core.distributed.world import ALONE
from unipruning_core.errors import ConfigError
from unipruning_core.models.activations import norms_of
from unipruning_core.models.divided import whole_of
from unipruning_core.search.base import Outcome, held_dual, zero_dual
from unipruning_core.search.loss import LossSearch, NotFiniteError
from unipruning_core.search.parts import Part
from unipruning_core.search.reach import with_siblings
from unipruning_core.search.saliency import Parts, Saliency
from unipruning_core.selection.ranks import kth_largest_over_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World
    from unipruning_core.search.base import Vectors
    from unipruning_core.search.settings import DualSettings


def mirror_step(
    backend: Backend,
    settings: DualSettings,
    weight: Tensor,
    factors: Vectors,
    dual: Tensor,
    threshold: Tensor,
    world: World = ALONE,
    numel: int | None = None,  # of the whole matrix, if each rank has a part of it
) -> None:
    """Update one layer: V += kappa (S - Gamma), and the next exact tau."""
    rank = settings.threshold_rank(numel or dual.numel())
    if not world.sharded:
        backend.mirror_step(dual, weight, *factors, threshold, step_size=settings.step_size, rank=rank)
        return
    if dual.numel():
        backend.mirror_step(dual, weight, *factors, threshold, step_size=settings.step_size, rank=None)
    if rank:
        # the rank-th smallest of the whole; every copy of the model holds each element once more
        keep = ((numel or dual.numel()) - rank) * world.copies + 1
        (found,) = kth_largest_over_ranks(lambda: [dual] if dual.numel() else [], [keep], backend, world)
        threshold.copy_(found.threshold)
    elif rank == 0:
        threshold.zero_()


class DualSearch(LossSearch):
    """Search with a mirror step per sample towards the saliency of the weights as they are then."""

    def prepare(self) -> None:
        super().prepare()
        if self.world.sharded and any(layer.siblings or layer.transposed for layer in self.layers):
            raise ConfigError(
                f"--mode {self.settings.mode} runs in one process where a model has experts, or stores weights by "
                "inputs; use --mode feedback with torchrun"
            )
        self.duals, self.thresholds = map(list, zip(*map(held_dual, self.layers), strict=True))
        self.thresholds = [self._first_threshold(threshold) for threshold in self.thresholds]
        self.saliencies = [
            Saliency(
                self.metric,
                [self.layers[position].weight for position in positions],
                positions,
                self.backend,
                self.settings.seed,
                self._parts_of(positions),
            )
            for positions in self.positions
        ]
        self.factors: list[Vectors | None] = [None] * len(self.layers)

    def _parts_of(self, positions: Sequence[int]) -> Parts | None:
        layers = [self.layers[position] for position in positions]
        if not self.world.sharded:
            return None
        return Parts([layer.target.shape for layer in layers], [layer.span for layer in layers], self.world)

    def _first_threshold(self, zero: Tensor) -> Tensor:
        return zero

    def _sample_loss(self, sample: int, input_ids: Tensor) -> Tensor:
        """Run the forward pass, and make the factors of every layer that saw a token, before any weight moves."""
        loss = self._loss(input_ids)
        self._count_inputs()
        heard = self._heard()
        with torch.no_grad():
            for positions, inputs, saliency in zip(self.positions, self.inputs, self.saliencies, strict=True):
                made = saliency.of_sample(norms_of(inputs.sums, inputs.counts), sample)
                for row, position in enumerate(positions):
                    rows, columns = self.layers[position].span
                    vectors = made.r[row, rows], made.p[row, columns], made.q[row, columns]
                    self.factors[position] = vectors if heard[position] else None
        return loss

    def step(self, sample: int, input_ids: Tensor) -> float:
        try:
            loss = self._sample_loss(sample, input_ids)
        except NotFiniteError:
            return nan
        self._move(sample, self._contributed(loss))
        self._count_steps()
        by_device = [torch.stack([self.thresholds[one] for one in positions]) for positions in self.positions]
        on_one = [thresholds.to(loss.device) for thresholds in by_device]
        value, *thresholds = torch.cat([loss.detach().float().view(1), *on_one]).tolist()  # read at once
        self._note_threshold(sample, median_low(thresholds))
        return float(value)

    @abstractmethod
    def _move(self, sample: int, loss: Tensor) -> None:
        """Run the backward pass, and take the steps of every layer."""

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self._named("dual", self.duals) | self._named("threshold", self.thresholds)

    def _scratch(self) -> dict[str, Tensor]:
        """Return the weights themselves, for a mode that moves them."""
        return self._named("scratch", [layer.held for layer in self.layers])

    def parts(self) -> dict[str, Part]:
        return {
            f"{layer.name}.{kind}": Part(layer.begin[0], layer.target.shape[0])
            for layer in self.layers
            for kind in ("dual", "scratch", "first", "second")
            if not layer.transposed  # which no ranks share
        }

    @torch.no_grad()
    def outcomes(self) -> Iterator[Outcome]:
        reach = self.reach()
        for positions, sums, counts in zip(self.positions, self.sums, self.counts, strict=bool(self.sums)):
            norms = norms_of(*with_siblings(reach, positions, sums, counts))
            for row, position in enumerate(positions):
                if siblings := reach.siblings.get(position):
                    self._take_over(position, norms[row], siblings)
        for position in reach.kept:
            layer = self.layers[position]
            dual = whole_of(self.duals[position], layer, self.world)
            yield Outcome(layer.target, dual, self.thresholds[position], int(self.steps[position]))

    def _take_over(self, position: int, norm: Tensor, siblings: Sequence[int]) -> None:
        """Set V of an expert that no token reached to S by its siblings' inputs, as large as their V is on average."""
        layer = self.layers[position]
        saliency = Saliency(self.metric, [layer.weight], [position], self.backend, self.settings.seed)
        made = saliency.of_steps(0, norm[: layer.target.shape[1]], 1)
        size = torch.stack([self.duals[sibling].mean() for sibling in siblings]).mean()
        dual, threshold = zero_dual(layer)
        vectors = made.r[0], made.p[0], made.q[0]
        self.backend.mirror_step(dual, layer.weight, *vectors, threshold, step_size=float(size), rank=None)
        self.duals[position], self.thresholds[position] = dual, threshold
