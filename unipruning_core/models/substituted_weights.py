"""Forward and backward passes with other weights than the model's, one such matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.models.made_again import Again, made_again

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unipruning_core.models.layer import Layer


@contextmanager
def given_weights(
    layers: Sequence[Layer], make: Callable[[int], Tensor], remake: Callable[[int], Tensor]
) -> Iterator[None]:
    """Do the same where the layers are divided: substitutes of the parts are gathered in the place of the parts."""
    made: set[int] = set()

    def give(position: int) -> Tensor:
        weight = (remake if position in made else make)(position)
        made.add(position)
        return weight

    givens = [layer.given for layer in layers]
    for position, given in enumerate(givens):
        assert given is not None
        given.make = partial(give, position)
    try:
        yield
    finally:
        for given in givens:
            assert given is not None
            given.make = None


@contextmanager
def substituted_weights(
    layers: Sequence[Layer],
    make: Callable[[int], Tensor],  # a layer's substitute by its position, as its module stores it
    remake: Callable[[int], Tensor],  # the same once more, bit for bit
) -> Iterator[None]:
    """Compute with substitute weights inside; their gradients arrive on the model's own parameters.

    A layer has its substitute while its module runs.  Autograd would hold all of them until the backward pass, for the
    gradients of the layers' inputs; it gets a placeholder instead, and the substitute is made again when needed.
    A parameter's gradient is complete only after that, so its use may change what ``remake`` would return later.
    """
    originals = [layer.parameter.data for layer in layers]
    running: dict[int, int] = {}  # the storage of a substitute in use -> its layer's position
    made: set[int] = set()

    def put_in(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            # a layer may run again: where blocks share it, or where activations are recomputed
            layers[position].parameter.data = weight = (remake if position in made else make)(position)
            made.add(position)
            running[weight.untyped_storage().data_ptr()] = position

        return hook

    def take_out(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            running.clear()
            layers[position].parameter.data = originals[position]

        return hook

    def pack(saved: Tensor) -> object:
        position = running.get(saved.untyped_storage().data_ptr())
        if position is not None:
            return position, saved.size(), saved.stride(), saved.storage_offset()
        if (again := made_again(saved)) is not None:
            return again
        # an operator's own result would hold the operator, and both would stay where no backward pass follows
        return saved.detach()

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        if isinstance(packed, Again):
            return packed.remade()
        position, *view = packed
        return remake(position).as_strided(*view)

    modules = [(position, module) for position, layer in enumerate(layers) for module in layer.modules]
    handles = [module.register_forward_pre_hook(put_in(position)) for position, module in modules]
    handles += [
        # a forward that is run again for the backward pass may stop inside a layer, once nothing more is needed
        module.register_forward_hook(take_out(position), always_call=True)
        for position, module in modules
    ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()
        # a forward pass that failed has not taken its substitute out
        for layer, data in zip(layers, originals, strict=True):
            layer.parameter.data = data
