"""The search that changes no weight: Wanda, RIA and averaged stochRIA for one forward pass per sample."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.activations import norms_of
from unipruning_core.models.decoder import bare_decoder, text_model
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
        # the sum of squares of each layer's inputs, and its tokens, over all samples
        self.sums = [torch.zeros_like(inputs.sums) for inputs in self.inputs]
        self.tokens = torch.zeros(len(self.layers), dtype=torch.int64)
        self.peaks: dict[int, Tensor] = {}  # of every sample, read only if the sums are not finite

    @torch.no_grad()
    def step(self, sample: int, input_ids: Tensor) -> float | None:
        with self._watching():
            self.decoder(input_ids=input_ids, use_cache=False)
        peak = self._peak()
        if self.skips_nonfinite:
            if not bool(peak.isfinite()):
                return nan
        else:
            self.peaks[sample] = peak
        for total, positions, inputs in zip(self.sums, self.positions, self.inputs, strict=True):
            total += inputs.sums
            self.tokens[positions] += torch.tensor(inputs.tokens)
        return None

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
        for position in reach.kept:
            layer = self.layers[position]
            norm = norms[position][: layer.target.shape[1]]
            saliency = Saliency(self.metric, [layer.weight], [position], self.backend, self.settings.seed)
            # neither weights nor norms change any more, so one pass over W serves all steps
            steps = self.settings.steps(self.samples)
            known = bool(self.tokens[position]) or position in reach.siblings
            factors = saliency.of_steps(0, norm, steps)
            dual, threshold = zero_dual(layer)
            for step in range(steps):
                vectors = factors.r[step], factors.p[step], factors.q[step]
                mirror_step(self.backend, self.settings, layer.weight, vectors, dual, threshold)
            yield Outcome(layer.target, dual, threshold, steps, norm if known else None)
