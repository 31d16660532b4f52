"""A forward and a backward at other weights than the model's, with one such matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unipruning_core.models.targets import Layer


@contextmanager
def substituted_weights(
    layers: Sequence[Layer],
    make: Callable[[int], Tensor],  # the weight of the layer at a position, as its module stores it; always the same
) -> Iterator[None]:
    """Inside, the model computes with the weights that are made; their gradients arrive on its own parameters.

    A layer has its made weight while its module runs.  Autograd would hold all of them until the backward, for the
    gradients of the layers' inputs; it is given a note instead, and the weight is made again when asked for.
    A parameter's gradient is complete only after that: what is done with it may change what ``make`` gives next time.
    """
    own = [layer.parameter.data for layer in layers]
    running: dict[int, int] = {}  # the storage of a made weight in use -> the layer's position

    def put_in(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            layers[position].parameter.data = weight = make(position)
            running[weight.untyped_storage().data_ptr()] = position

        return hook

    def take_out(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            running.clear()
            layers[position].parameter.data = own[position]

        return hook

    def pack(saved: Tensor) -> object:
        position = running.get(saved.untyped_storage().data_ptr())
        return saved if position is None else (position, saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        position, *view = packed
        return make(position).as_strided(*view)

    handles = [layer.module.register_forward_pre_hook(put_in(position)) for position, layer in enumerate(layers)]
    handles += [layer.module.register_forward_hook(take_out(position)) for position, layer in enumerate(layers)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()
        # a forward that failed has not taken its weight out
        for layer, data in zip(layers, own, strict=True):
            layer.parameter.data = data
