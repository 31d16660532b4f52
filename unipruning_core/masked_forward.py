"""A forward and a backward at masked weights, with one masked matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unipruning_core.targets import Layer


@contextmanager
def masked_weights(
    layers: Sequence[Layer],
    mask: Callable[[int], Tensor],  # of the layer at a position, (out, in), bool; the same until its gradient is used
) -> Iterator[None]:
    """Inside, the model computes with W * M, and the gradient at W * M arrives on the parameters, which keep W.

    A layer has its masked weight while its module runs.  Autograd would hold all of them until the backward, for the
    gradients of the layers' inputs; it is given a note instead, and the masked weight is made again when asked for.
    A parameter's gradient is complete only after that, so what is done with it may change W and the mask.
    """
    whole = [layer.parameter.data for layer in layers]
    running: dict[int, int] = {}  # the storage of a masked weight in use -> the layer's position

    def masked(position: int) -> Tensor:
        kept = mask(position)
        kept = kept.t() if layers[position].target.transposed else kept
        return whole[position].masked_fill(~kept, 0.0)

    def put_in(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            layers[position].parameter.data = weight = masked(position)
            running[weight.untyped_storage().data_ptr()] = position

        return hook

    def take_out(position: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            running.clear()
            layers[position].parameter.data = whole[position]

        return hook

    def pack(saved: Tensor) -> object:
        position = running.get(saved.untyped_storage().data_ptr())
        return saved if position is None else (position, saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        position, *view = packed
        return masked(position).as_strided(*view)

    handles = [layer.module.register_forward_pre_hook(put_in(position)) for position, layer in enumerate(layers)]
    handles += [layer.module.register_forward_hook(take_out(position)) for position, layer in enumerate(layers)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()
        # a forward that failed has not taken its weight out
        for layer, data in zip(layers, whole, strict=True):
            layer.parameter.data = data
