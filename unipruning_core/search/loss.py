"""The base of the searches that use the language-model loss: one forward and one backward pass per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.activations import InputStatistics, watch_inputs
from unipruning_core.search.base import Outcome, Search, zero_dual

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.targets import Layer


class LossSearch(Search):
    """Search with one forward and one backward pass per sample, holding V and tau of every layer."""

    def prepare(self) -> None:
        super().prepare()
        self.duals, self.thresholds = map(list, zip(*map(zero_dual, self.layers), strict=True))
        self.thresholds = [self._first_threshold(threshold) for threshold in self.thresholds]

    def _first_threshold(self, zero: Tensor) -> Tensor:
        return zero

    def _loss(self, input_ids: Tensor) -> tuple[Tensor, dict[str, InputStatistics]]:
        with watch_inputs(self.layers, self.backend) as seen:
            loss = self.model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        return loss, seen

    def _backward(self, input_ids: Tensor, use: Callable[[int, dict[str, InputStatistics]], None]) -> float:
        """Run one forward and backward, call ``use`` as soon as a layer's gradient is complete, and return the loss."""
        loss, seen = self._loss(input_ids)
        with on_gradient(self.layers, lambda position: use(position, seen)) as reached:
            loss.backward()
        self._refuse_without_gradient(seen, reached)
        return float(loss.detach())

    def _refuse_without_gradient(self, seen: dict[str, InputStatistics], reached: Sequence[bool]) -> None:
        """Refuse, after a sample's backward pass, a layer that saw tokens but got no gradient."""
        missing = [
            layer.name
            for layer, ok in zip(self.layers, reached, strict=True)
            if not ok and layer.name in seen and seen[layer.name].tokens
        ]
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(self.layers)} target layers saw tokens but got no gradient (first: "
                f"{missing[0]!r}), because the model computes with operators made for inference; turn those off in its "
                "code, or use --mode frozen"
            )

    def _statistics(self, position: int, seen: dict[str, InputStatistics]) -> InputStatistics | None:
        """Return a layer's statistics from this sample; None if it has none (an expert that no token chose)."""
        layer = self.layers[position]
        if layer.name in seen and seen[layer.name].tokens:
            return seen[layer.name]
        if self.metric.uses_inputs:
            return None
        return InputStatistics(layer.weight.new_ones(layer.target.shape[1], dtype=torch.float32), 1)

    def tensors(self) -> dict[str, Tensor]:
        return {"steps": self.steps} | self._named("dual", self.duals) | self._named("threshold", self.thresholds)

    def _named(self, kind: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name one tensor per layer by the layer and its ``kind``."""
        return {f"{layer.name}.{kind}": tensor for layer, tensor in zip(self.layers, tensors, strict=True)}

    def _scratch(self) -> dict[str, Tensor]:
        """Return the weights themselves, for a mode that moves them."""
        return self._named("scratch", [layer.parameter.detach() for layer in self.layers])

    def outcomes(self) -> Iterator[Outcome]:
        self._refuse_unreached([steps > 0 for steps in self.steps.tolist()])
        for position, layer in enumerate(self.layers):
            yield Outcome(layer.target, self.duals[position], self.thresholds[position], int(self.steps[position]))


@contextmanager
def on_gradient(layers: Sequence[Layer], use: Callable[[int], None]) -> Iterator[list[bool]]:
    """Call ``use(position)`` once a layer's gradient is complete, during the backward pass; yield which were reached.

    By then autograd has made the gradient of the layer's input, so ``use`` may change the weight.
    """

    def hook_for(position: int) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            reached[position] = True
            use(position)

        return hook

    reached = [False] * len(layers)
    handles = [
        layer.parameter.register_post_accumulate_grad_hook(hook_for(position)) for position, layer in enumerate(layers)
    ]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()
