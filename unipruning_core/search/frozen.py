"""The search that changes no weight: Wanda, RIA and averaged stochRIA for one forward pass per sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.activations import InputStatistics, watch_inputs
from unipruning_core.search.base import Outcome, Search, zero_dual
from unipruning_core.search.saliency import whole_sums

if TYPE_CHECKING:
    from torch import Tensor


class FrozenSearch(Search):
    """Search with fixed weights: S depends on the text only through the input norms, pooled over all samples.

    A metric without random subsets then takes one mirror step, since more would only scale V: this is Wanda or RIA
    exactly.  ``stochria`` takes one per sample, each with its own subsets.  One matrix is held besides the weights.
    """

    def prepare(self) -> None:
        super().prepare()
        self.sumsq = {
            layer.name: layer.weight.new_zeros(layer.target.shape[1], dtype=torch.float32) for layer in self.layers
        }
        self.tokens = torch.zeros(len(self.layers), dtype=torch.int64)

    @torch.no_grad()
    def step(self, sample: int, input_ids: Tensor) -> None:
        # the head would take a fifth of a small model's time, and its output is not used
        decoder = getattr(self.model, self.model.base_model_prefix, self.model)
        with watch_inputs(self.layers, self.backend) as seen:
            decoder(input_ids=input_ids, use_cache=False)
        for position, layer in enumerate(self.layers):
            if layer.name in seen:
                self.sumsq[layer.name] += seen[layer.name].sumsq
                self.tokens[position] += seen[layer.name].tokens

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}.sumsq": sumsq for name, sumsq in self.sumsq.items()} | {"tokens": self.tokens}

    @torch.no_grad()
    def outcomes(self) -> Iterator[Outcome]:
        if self.metric.uses_inputs:
            self._refuse_unreached([tokens > 0 for tokens in self.tokens.tolist()])
        for position, layer in enumerate(self.layers):
            dual, threshold = zero_dual(layer)
            statistics = InputStatistics(self.sumsq[layer.name], int(self.tokens[position]))
            # neither weights nor norms change any more, so one pass over W serves all steps
            sums = whole_sums(self.metric, layer.weight, statistics.norm, self.backend)
            for step in range(self.settings.steps(self.samples)):
                self._mirror_step(position, step, statistics, dual, threshold, sums)
            norm = statistics.norm if statistics.tokens else None
            yield Outcome(layer.target, dual, threshold, int(self.steps[position]), norm)
