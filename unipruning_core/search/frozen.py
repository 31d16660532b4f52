"""The search that changes no weight: Wanda, RIA and averaged stochRIA for one forward pass per sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.activations import norms_of
from unipruning_core.models.decoder import bare_decoder, text_model
from unipruning_core.models.one_sequence import one_sequence
from unipruning_core.search.base import Outcome, Search, zero_dual
from unipruning_core.search.dual import mirror_step
from unipruning_core.search.reach import reach_of, with_siblings
from unipruning_core.search.saliency import Saliency

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.search.modes.frozen import FrozenSettings
    from unipruning_core.search.reach import Reach


class FrozenSearch(Search):
    """Search with fixed weights: S depends on the text only through the input norms, pooled over all samples.

    A metric without random subsets then takes one mirror step, since more would only scale V: this is Wanda or RIA
    exactly.  ``stochria`` takes one per sample, each with its own subsets.  One matrix is held besides the weights.
    """

    settings: FrozenSettings

    def prepare(self) -> None:
        super().prepare()
        # the head would take a fifth of a small model's time, and its output is used only where it is a target
        self.decoder = bare_decoder(self.model)
        path = next(f"{name}." if name else "" for name, part in self.model.named_modules() if part is self.decoder)
        if not all(layer.name_in_model.startswith(path) for layer in self.layers):
            self.decoder = text_model(self.model)
        self.batch_size = self.world.size  # sums do not depend on it
        # the sum of squares of each layer's inputs, and its tokens, over all samples
        self.sums = [torch.zeros_like(inputs.sums) for inputs in self.inputs]
        self.tokens = torch.zeros(len(self.layers), dtype=torch.int64)
        self.peaks: dict[int, Tensor] = {}  # of every sample, read only if the sums are not finite

    @torch.no_grad()
    def step(self, sample: int, input_ids: Tensor) -> float | None:
        with self._watching():
            self.decoder(input_ids=input_ids, use_cache=False)
        peaks = self._spread(self._peak())
        if self.skips_nonfinite:
            if not bool(peaks[0].isfinite()):
                return nan
        else:
            self.peaks |= dict(enumerate(peaks, sample))
        for total, positions, inputs in zip(self.sums, self.positions, self.inputs, strict=True):
            for sums in self._spread(inputs.sums):
                total += sums
            for tokens in self.world.each(inputs.tokens)[: self.spread]:
                self.tokens[positions] += torch.tensor(tokens)
        return None

    @torch.no_grad()
    def rehearse(self, input_ids: Tensor) -> None:
        with one_sequence():
            self.decoder(input_ids=input_ids, use_cache=False)

    def process(self, number: int, batch: Sequence[Tensor]) -> list[float]:
        first, mine = number * self.batch_size, self._share(batch)
        losses = [self.step(first + index * self.spread, input_ids) for index, input_ids in enumerate(mine)]
        return [loss for loss in losses if loss is not None]

    def first_unfinite_sample(self) -> int | None:
        return next((sample for sample, peak in self.peaks.items() if not bool(peak.isfinite())), None)

    def tensors(self) -> dict[str, Tensor]:
        return {f"sums.{device}": sums for device, sums in enumerate(self.sums)} | {"tokens": self.tokens}

    def reach(self) -> Reach:
        seen = [tokens > 0 for tokens in self.tokens.tolist()]
        return reach_of(self.layers, seen if self.metric.uses_inputs else [True] * len(seen), seen)

    @torch.no_grad()
    def outcomes(self) -> Iterator[Outcome]:
        reach = self.reach()
        norms: dict[int, Tensor] = {}
        for positions, sums in zip(self.positions, self.sums, strict=True):
            counts = self.tokens[positions][:, None].to(sums.device)
            norms |= dict(zip(positions, norms_of(*with_siblings(reach, positions, sums, counts)), strict=True))
        # each rank takes its turn with whole matrices, so that their sums are those of a process that is alone
        for start in range(0, len(reach.kept), self.world.size):
            turn = reach.kept[start : start + self.world.size]
            mine = {p: self._outcome(p, norms[p], reach) for p in turn[self.world.rank : self.world.rank + 1]}
            for source, position in enumerate(turn):
                yield self._on_lead(source, position, mine.get(position), norms[position], reach)

    def _outcome(self, position: int, norm: Tensor, reach: Reach) -> Outcome:
        """Return the result for a layer, from its whole weight."""
        layer, weight = self.layers[position], self.layers[position].whole()
        norm = norm[: layer.target.shape[1]]
        saliency = Saliency(self.metric, [weight], [position], self.backend, self.settings.seed)
        # neither weights nor norms change any more, so one pass over W serves all steps
        steps = self.settings.steps(self.samples)
        factors = saliency.of_steps(0, norm, steps)
        dual, threshold = zero_dual(layer)
        for step in range(steps):
            vectors = factors.r[step], factors.p[step], factors.q[step]
            mirror_step(self.backend, self.settings, weight, vectors, dual, threshold)
        return Outcome(layer.target, dual, threshold, steps, self._known(position, norm, reach))

    def _known(self, position: int, norm: Tensor, reach: Reach) -> Tensor | None:
        return norm if bool(self.tokens[position]) or position in reach.siblings else None

    def _on_lead(self, source: int, position: int, made: Outcome | None, norm: Tensor, reach: Reach) -> Outcome:
        """Return a result on the first rank, from the rank that made it; on the others it is empty."""
        layer = self.layers[position]
        steps, norm = self.settings.steps(self.samples), norm[: layer.target.shape[1]]
        blank = zero_dual(layer, None if self.world.leads else torch.device("meta"))
        dual, threshold = (made.dual, made.threshold) if made else blank
        dual, threshold = (self.world.to_lead(part, source) for part in (dual, threshold))
        return Outcome(layer.target, dual, threshold, steps, self._known(position, norm, reach))
