"""The searches whose scratch weights follow the language-model loss: ``drift`` and ``coupled``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.activations import InputStatistics, watch_inputs
from unipruning_core.search.adamw import BETAS, EPSILON, Moments, schedule
from unipruning_core.search.base import Outcome, Search, zero_dual

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.models.targets import Layer
    from unipruning_core.search.settings import SearchSettings

TILE = 1 << 18  # elements of a temporary in the coupled weight step


class LossSearch(Search):
    """What ``drift`` and ``coupled`` share: one forward and one backward a sample, V and tau held for every layer."""

    follows_loss = True

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: SearchSettings, backend: Backend, samples: int
    ) -> None:
        super().__init__(model, layers, settings, backend, samples)
        self.duals, self.thresholds = map(list, zip(*map(zero_dual, layers), strict=True))
        self.thresholds = [self._first_threshold(threshold) for threshold in self.thresholds]

    def _first_threshold(self, zero: Tensor) -> Tensor:
        return zero

    def _loss(self, input_ids: Tensor) -> tuple[Tensor, dict[str, InputStatistics]]:
        with watch_inputs(self.layers, self.backend) as seen:
            loss = self.model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        return loss, seen

    def _refuse_without_gradient(self, seen: dict[str, InputStatistics], reached: Sequence[bool]) -> None:
        """Once a sample's backward is done: a layer that saw tokens and got no gradient would be judged without it."""
        missing = [
            layer.name
            for layer, ok in zip(self.layers, reached, strict=True)
            if not ok and layer.name in seen and seen[layer.name].tokens
        ]
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(self.layers)} target layers saw tokens but the loss has no gradient for them, "
                f"the first is {missing[0]!r}: the model computes with operators made for inference; turn those off in "
                "its code, or use --mode frozen"
            )

    def _statistics(self, position: int, seen: dict[str, InputStatistics]) -> InputStatistics | None:
        """What this sample showed of a layer; None where it says nothing (an expert that no token chose)."""
        layer = self.layers[position]
        if layer.name in seen and seen[layer.name].tokens:
            return seen[layer.name]
        if self.metric.uses_inputs:
            return None
        return InputStatistics(layer.weight.new_ones(layer.target.shape[1], dtype=torch.float32), 1)

    def tensors(self) -> dict[str, Tensor]:
        state = {"steps": self.steps}
        for layer, dual, threshold in zip(self.layers, self.duals, self.thresholds, strict=True):
            state[f"{layer.name}.dual"] = dual
            state[f"{layer.name}.threshold"] = threshold
        for position, layer in enumerate(self.layers):
            state[f"{layer.name}.scratch"] = self._moved(position)
        return state

    def _moved(self, position: int) -> Tensor:
        """What the loss moves, as the module stores the weight."""
        return self.layers[position].parameter.detach()

    def outcomes(self) -> Iterator[Outcome]:
        self._refuse_unreached([steps > 0 for steps in self.steps.tolist()])
        for position, layer in enumerate(self.layers):
            yield Outcome(layer.target, self.duals[position], self.thresholds[position], int(self.steps[position]))


class DriftSearch(LossSearch):
    """The weights follow the loss by AdamW, clipped over all targets together, and S is taken from where they are.

    The clipping factor is known only when the whole backward is done, so this mode holds the gradient once, in the
    weight's dtype.  With ``max_grad_norm=0`` each gradient is used and freed as autograd makes it.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: SearchSettings, backend: Backend, samples: int
    ) -> None:
        super().__init__(model, layers, settings, backend, samples)
        self.betas, self.decays = BETAS, True
        self.moments = [Moments.zeros_like(layer.parameter) for layer in layers] if settings.learning_rate else []

    def consume(self, sample: int, input_ids: Tensor) -> float:
        loss, seen = self._loss(input_ids)
        if self.settings.max_grad_norm:
            loss.backward()
            self._refuse_without_gradient(seen, [layer.parameter.grad is not None for layer in self.layers])
            scale = self._clipping_factor()
            for position in range(len(self.layers)):
                self._step(position, sample, seen, scale)
        else:
            one = torch.ones((), device=loss.device)
            with on_gradient(self.layers, lambda position: self._step(position, sample, seen, one)) as reached:
                loss.backward()
            self._refuse_without_gradient(seen, reached)
        return float(loss.detach())

    def _clipping_factor(self) -> Tensor:
        gradients = [layer.parameter.grad for layer in self.layers if layer.parameter.grad is not None]
        norms = torch.stack(
            [torch.linalg.vector_norm(g, dtype=torch.float32).to(gradients[0].device) for g in gradients]
        )
        scale: Tensor = self.settings.max_grad_norm / (torch.linalg.vector_norm(norms) + 1e-6)
        return scale.clamp(max=1.0)

    @torch.no_grad()
    def _step(self, position: int, sample: int, seen: dict[str, InputStatistics], scale: Tensor) -> None:
        layer, settings = self.layers[position], self.settings
        if (statistics := self._statistics(position, seen)) is not None:
            self._mirror_step(position, sample, statistics, self.duals[position], self.thresholds[position])
        if (gradient := layer.parameter.grad) is not None:
            self._descend(position, sample, gradient, scale)
            layer.parameter.grad = None
        if settings.prox_strength:
            pattern = settings.regulariser
            self.backend.nm_prox(layer.weight, settings.prox_strength, pattern.n, pattern.m)

    def _descend(self, position: int, sample: int, gradient: Tensor, scale: Tensor) -> None:
        """Use a layer's gradient, both as the module stores its weight."""
        if not self.moments:
            return
        moments = self.moments[position]
        self.backend.adamw_step(
            *(self._moved(position), gradient, moments.first, moments.second, scale.to(gradient.device)),
            step=sample + 1,
            learning_rate=self.settings.learning_rate * schedule(sample, self.samples, decay=self.decays),
            betas=self.betas,
            epsilon=EPSILON,
        )

    def tensors(self) -> dict[str, Tensor]:
        state = super().tensors()
        # no moments where the weights stay
        for layer, moments in zip(self.layers, self.moments, strict=bool(self.moments)):
            state[f"{layer.name}.first"], state[f"{layer.name}.second"] = moments.first, moments.second
        return state


class CoupledSearch(LossSearch):
    r"""Gradient descent of the weights on loss and pull together, and a true soft threshold for Gamma.

    .. math:: W \leftarrow W - \alpha\kappa\,\nabla_W\bigl[L + \tfrac{\rho}{2}\|\Gamma - S(W)\|^2\bigr], \qquad
              V \leftarrow V + \alpha\rho\,(S - \Gamma), \qquad \Gamma = \operatorname{shrink}(V, \lambda)

    ``learning_rate`` is alpha*kappa, ``step_size`` is alpha*rho, ``coupling`` is rho and ``soft_threshold`` is lambda.
    In the derivative of S the factors r, p, q are held fixed, so that dS/dW is sign(W) (r p + q).
    Each gradient is used and freed as autograd makes it.
    """

    def _first_threshold(self, zero: Tensor) -> Tensor:
        return zero + self.settings.soft_threshold

    def consume(self, sample: int, input_ids: Tensor) -> float:
        loss, seen = self._loss(input_ids)
        with on_gradient(self.layers, lambda position: self._step(position, sample, seen)) as reached:
            loss.backward()
        self._refuse_without_gradient(seen, reached)
        return float(loss.detach())

    @torch.no_grad()
    def _step(self, position: int, sample: int, seen: dict[str, InputStatistics]) -> None:
        layer, statistics = self.layers[position], self._statistics(position, seen)
        gradient = layer.parameter.grad
        layer.parameter.grad = None
        if statistics is None or gradient is None:
            return
        weight, dual, threshold = layer.weight, self.duals[position], self.thresholds[position]
        gradient = gradient.t() if layer.target.transposed else gradient
        f = self._factors(position, sample, statistics, weight)
        moved = torch.empty_like(weight)
        rows = max(1, TILE // weight.shape[1])
        for start in range(0, weight.shape[0], rows):
            part = slice(start, start + rows)
            w, slope = weight[part].float(), f.r[part, None] * f.p + f.q
            gamma = torch.nn.functional.softshrink(dual[part], self.settings.soft_threshold)
            pull = (w.abs() * slope - gamma) * w.sign() * slope
            moved[part] = w - self.settings.learning_rate * (gradient[part].float() + self.settings.coupling * pull)
        self.backend.mirror_step(dual, weight, f.r, f.p, f.q, threshold, step_size=self.settings.step_size, rank=None)
        weight.copy_(moved)
        self.steps[position] += 1


@contextmanager
def on_gradient(layers: Sequence[Layer], use: Callable[[int], None]) -> Iterator[list[bool]]:
    """Call ``use(position)`` as soon as a layer's gradient is complete, while the backward goes on; yields for which.

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
