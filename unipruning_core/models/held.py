"""A weight of which this process holds a part, and what other processes are given of it.

FSDP gathers the parts of a block's parameters where the block runs.  A part that is a ``Held`` decides what is gathered
in its place: the search has the masked weights made of its own rows, so that no rank ever makes those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from torch import nn

ATEN = torch.ops.aten
# what FSDP does with a parameter while it divides it, after which the result is still such a part
DIVIDING = {
    getattr(ATEN, name).default
    for name in ("detach", "new_zeros", "view", "copy_", "alias", "clone", "_to_copy", "as_strided", "empty_like")
} | {ATEN.split.Tensor, ATEN.slice.Tensor, ATEN.new_empty.default, ATEN.narrow.default}


class Given:
    """What is gathered in place of a part of a weight; the part itself if ``make`` is None."""

    def __init__(self) -> None:
        self.make: Callable[[], Tensor] | None = None  # a tensor of the part's shape and dtype


class Held(Tensor):
    """A part of a parameter, as its module stores it; ``part`` has the numbers."""

    part: Tensor
    given: Given

    @staticmethod
    def __new__(cls, values: Tensor, given: Given) -> Held:
        wrapper: Held = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=values.device,
        )
        return wrapper

    def __init__(self, values: Tensor, given: Given) -> None:
        self.part, self.given = values, given

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Held({self.part!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        found: list[Given] = []

        def part_of(held: Held) -> Tensor:
            found.append(held.given)
            return held.part

        args, kwargs = tree_map_only(cls, part_of, (args, kwargs or {}))
        made = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda part: cls(part, found[0]), made) if func in DIVIDING else made

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: torch.Size, outer_stride: tuple[int, ...], module: nn.Module, policy: Any
    ) -> tuple[tuple[Tensor, ...], None]:
        """Return what this rank contributes, padded to the size that all ranks' parts have for FSDP."""
        made = self.part.to(self.device, non_blocking=True) if self.given.make is None else self.given.make()
        rows = -(-outer_size[0] // mesh.size())
        if made.dim() and len(made) < rows and made.shape[1:] == outer_size[1:]:
            made = torch.cat([made, made.new_zeros(rows - len(made), *made.shape[1:])])
        return (made.contiguous(),), None

    def fsdp_post_all_gather(
        self, gathered: tuple[Tensor, ...], metadata: None, dtype: torch.dtype, *, out: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the whole parameter, which shares the memory that was gathered into."""
        return (gathered[0], gathered) if out is None else None


def is_divided(module: nn.Module) -> bool:
    """Return whether FSDP gathers the parameters of a module when it runs."""
    return hasattr(module, "unshard")


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Have a module's parameters gathered inside, but for those that parts of it gather; nothing if it is whole."""
    if not is_divided(module):
        yield
        return
    module.unshard()  # type: ignore[operator]
    try:
        yield
    finally:
        module.reshard()  # type: ignore[operator]


def held_part(parameter: Tensor) -> Tensor:
    """Return the part of a parameter that this process holds, as its module stores it: all of it, if not divided."""
    local = local_part(parameter)
    return local.part if isinstance(local, Held) else local.detach()


def local_part(parameter: Tensor) -> Tensor:
    """Return the local tensor of a parameter that is divided, or else the parameter itself."""
    local: Tensor = getattr(parameter, "_local_tensor", parameter)  # of a DTensor
    return local
