"""The base of the searches that use the language-model loss: one forward and one backward pass per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.recompute import recomputed
from unipruning_core.models.targets import decoder_blocks
from unipruning_core.search.base import Search
from unipruning_core.search.language_loss import LanguageLoss

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.targets import Layer


class NotFiniteError(Exception):
    """A sample's loss or input statistics are not finite, and such samples are left out."""


class LossSearch(Search):
    """Search with one forward and one backward pass per sample."""

    def prepare(self) -> None:
        super().prepare()
        self.language_loss = LanguageLoss(self.model)
        self.blocks = decoder_blocks(self.model)[1]

    def _loss(self, input_ids: Tensor) -> Tensor:
        """Run the forward pass, summing up the layers' inputs, and return the loss; not finite if a sum is not.

        Raises:
            NotFiniteError: it is not, and such samples are left out.
        """
        self.language_loss.compare(input_ids, self.notes.append)
        with self._watching(), recomputed(self.blocks if self.recomputes else ()):
            loss = self.language_loss(input_ids)
        # zero, or else NaN: the one value that the host reads then tells of the inputs too
        loss = loss + (self._peak() * 0).to(loss.device, loss.dtype)
        if self.skips_nonfinite and not bool(loss.detach().isfinite()):
            raise NotFiniteError
        return loss

    def _usable(self, position: int) -> bool:
        """Return whether a layer's gradient may be used; it is read on the host only if such are left out."""
        gradient = self.layers[position].parameter.grad
        if not self.skips_nonfinite or gradient is None:
            return True
        # squares are what the modes sum up, so they must be finite too
        if bool(torch.linalg.vector_norm(gradient, dtype=torch.float32).isfinite()):
            return True
        self.unusable.append(position)
        self.layers[position].parameter.grad = None
        return False

    def _backward(self, loss: Tensor, use: Callable[[int], None]) -> None:
        """Run the backward pass, and call ``use`` as soon as a layer's gradient is complete."""
        with on_gradient(self.layers, use) as reached:
            loss.backward()
        self._refuse_without_gradient(reached)

    def _refuse_without_gradient(self, reached: Sequence[bool]) -> None:
        """Refuse, after a sample's backward pass, a layer that saw tokens but got no gradient."""
        if all(reached):
            return
        names = [
            self.layers[position].name
            for positions, inputs in zip(self.positions, self.inputs, strict=True)
            for position, tokens in zip(positions, inputs.tokens, strict=True)
            if tokens and not reached[position]
        ]
        if names:
            raise ConfigError(
                f"{len(names)} of {len(self.layers)} target layers saw tokens but got no gradient (first: "
                f"{names[0]!r}), because the model computes with operators made for inference; turn those off in its "
                "code, or use --mode frozen"
            )

    def _named(self, kind: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name one tensor per layer by the layer and its ``kind``."""
        return {f"{layer.name}.{kind}": tensor for layer, tensor in zip(self.layers, tensors, strict=True)}


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
