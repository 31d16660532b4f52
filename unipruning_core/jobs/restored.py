"""A loaded model that is again as it was, once a job is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from unipruning_core.models.layer import Layer


@contextmanager
def restored(model: nn.Module, layers: Sequence[Layer] = ()) -> Iterator[None]:
    """Restore training modes, gradients, ``requires_grad`` flags and the weights of these layers."""
    training = {module: module.training for module in model.modules()}
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    copies = [layer.parameter.detach().cpu().clone() for layer in layers]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for layer, copy in zip(layers, copies, strict=True):
            layer.parameter.data.copy_(copy)
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, mode in training.items():
            module.training = mode
