"""One decoder block at a time: the inputs of the blocks and the output of one, for any architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError
from unipruning_core.models.decoder import bare_decoder

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from unipruning_core.models.layer import Layer


@dataclass(frozen=True)
class Call:
    """How the model calls one block on one sample; the hidden states come first, by position or by name."""

    args: tuple[Any, ...]  # after the hidden states
    kwargs: dict[str, Any]  # the hidden states not included
    name: str | None  # of the hidden states, where they come by name

    def on(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run the block on hidden states, (1, tokens, width)."""
        if self.name is None:
            return first_of(block(hidden, *self.args, **self.kwargs))
        return first_of(block(**{self.name: hidden}, **self.kwargs))


@dataclass
class Sample:
    """The state of one sample between two blocks."""

    hidden: Tensor  # (1, tokens, width), the input of the next block
    calls: list[Call]  # one per block


@torch.no_grad()
def enter(model: PreTrainedModel, blocks: Sequence[nn.Module], input_ids: Tensor) -> Sample:
    """Run the model once to record how it calls its blocks, assuming only that hidden states come first.

    Raises:
        CheckpointError: a block is skipped, called twice, or reads more or less than the output of the one before it.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []
    calls: list[Call] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = None if args else next(iter(kwargs))
        entered.append(args[0] if name is None else kwargs[name])
        calls.append(Call(args[1:], {key: value for key, value in kwargs.items() if key != name}, name))

    def after(_: nn.Module, __: Any, output: Any) -> None:
        left.append(first_of(output))

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        bare_decoder(model)(input_ids=input_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    chained = all(torch.equal(made, read) for made, read in zip(left, entered[1:], strict=False))
    if len(calls) != len(blocks) or not chained:
        raise CheckpointError(
            f"{type(model).__name__} does not pass each block's output only to the next, so it cannot be pruned block "
            "by block; compare methods that search instead"
        )
    return Sample(entered[0], calls)


def first_of(output: Any) -> Tensor:
    """Return the hidden states in a block's output: the tensor, or the first of a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def layers_by_block(layers: Sequence[Layer], blocks: Sequence[nn.Module]) -> list[list[Layer]]:
    """Return the target layers of each block."""
    inside = [{id(module) for module in block.modules()} for block in blocks]
    return [[layer for layer in layers if id(layer.module) in modules] for modules in inside]


@contextmanager
def hessians(layers: Sequence[Layer]) -> Iterator[dict[str, Tensor]]:
    r"""Yield H = 2/T sum_t x_t x_t^T of each layer's inputs, (in, in) float32, complete when the ``with`` block ends.

    Layers that read the same tensor share its product.
    """
    sums: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}
    last: list[Any] = [None, None]

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x: Tensor = args[0] if args else next(iter(kwargs.values()))
            if x is not last[0]:
                flat = x.detach().flatten(0, -2).float()
                last[:] = x, flat.t() @ flat
            # each layer has its own sum: another may see other tokens
            sums[name] = sums[name].add_(last[1]) if name in sums else last[1].clone()
            tokens[name] = tokens.get(name, 0) + x.numel() // x.shape[-1]

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(layer.name), with_kwargs=True)
        for layer in layers
        for module in layer.modules
    ]
    try:
        yield sums
        for name, product in sums.items():
            product.mul_(2 / max(tokens[name], 1))
    finally:
        last.clear()
        for handle in handles:
            handle.remove()
