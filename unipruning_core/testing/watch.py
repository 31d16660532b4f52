"""What is watched while a backend works: memory it never wrote, and waiting for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UNINITIALISED = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})
# each of these needs the values on the host before it can return
WAITING = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2"})


class Watch(TorchDispatchMode):
    """Poison every uninitialised tensor and, if asked, forbid host synchronisation, on all calls made inside.

    Poison is NaN for floats and all-ones bytes for the rest, so that an element nobody wrote cannot pass for a
    result.  Synchronisation is seen where it passes through torch: item, bool, tolist, nonzero, a copy to the host.
    """

    def __init__(self, *, forbid_waiting: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forbid_waiting = forbid_waiting

    def __torch_dispatch__(
        self,
        func: Any,  # torch._ops.OpOverload
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if self.forbid_waiting and name in WAITING:
            raise AssertionError(f"no host synchronisation is allowed, but torch's {name} was called")
        result = func(*args, **(kwargs or {}))
        if self.forbid_waiting and "cpu" in devices_of(result) and devices_of((args, kwargs)) - {"cpu"}:
            raise AssertionError(f"no host synchronisation is allowed, but torch's {name} copied to the host")
        if name in UNINITIALISED:
            poison(result)
        return result


def poison(tensor: Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.bool:
        tensor.view(torch.uint8).fill_(255)
    else:
        tensor.fill_(255 if tensor.dtype == torch.uint8 else -1)


def devices_of(values: object) -> set[str]:
    """Return the types of device on which tensors of nested values lie."""
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
