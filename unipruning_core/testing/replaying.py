"""A recorder of torch's operators that replays them in the memory where they were recorded, as a device does.

Nothing that the host computes is repeated.  What a device cannot record is refused: a read on the host, and a copy of
what the host has just made.  Memory from outside is not kept alive: a replay that needs it once it is gone fails, where
a device would read whatever lies there by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from unipruning_core.testing.watch import WAITING

REFUSED = "operation not permitted when stream is capturing"
# without an operator where the tensor is on the host
READING = frozenset(
    {"tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__"}
)
FROM_HOST = "lift_fresh"  # what torch.tensor() ends with
ALL_ONES = 255  # bytes that are NaN as floats


@dataclass(frozen=True)
class Place:
    """A tensor's place in a storage, whatever becomes of the tensor."""

    storage: Any  # UntypedStorage, or a weak reference to one that was there before
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        storage = self.storage
        if isinstance(storage, StorageWeakRef):
            storage = _alive(storage)
            assert storage is not None, f"a replay reads a tensor of {tuple(self.size)} {self.dtype} that is gone"
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class Recording(TorchDispatchMode):
    """What a piece of work asks of torch on the CPU, to be asked again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Place | None]]] = []
        self.inside: dict[int, Any] = {}  # storages that the work makes
        self.outside: dict[int, tuple[StorageWeakRef, Any]] = {}  # those before it, each with its bytes then

    def record(self, work: Callable[[], None]) -> None:
        """Note the operators of ``work``, and leave no trace of its having run."""
        try:
            with self, _NothingRead():
                work()
        finally:
            for weak, before in self.outside.values():
                if (storage := _alive(weak)) is not None:
                    storage.copy_(before)
            for storage in self.inside.values():
                storage.fill_(ALL_ONES)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, places in self.calls:
            made = function(*tree_map(_found, args), **tree_map(_found, kwargs))
            for value, place in zip(tree_leaves(made), places, strict=True):
                if place is not None:
                    place.tensor().copy_(value)

    def launch(self, function: Callable[..., None], *args: Any) -> None:
        """Record a call that changes its arguments past torch's operators, as a kernel does."""
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            given = self._placed(args)
            function(*args)
        self.calls.append((function, given, {}, [None]))

    def __torch_dispatch__(
        self,
        func: Any,  # torch._ops.OpOverload
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or name == FROM_HOST:
            raise RuntimeError(f"{REFUSED}: {name}")
        given = self._placed((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            places = [self._made(value) for value in tree_leaves(result)]
            self.calls.append((func, *given, places))
        return result

    def _placed(self, values: Any) -> Any:
        return tree_map(lambda value: self._place(value) if isinstance(value, Tensor) else value, values)

    def _made(self, value: Any) -> Place | None:
        """Return where a replay copies a result to; None where the operator itself writes there."""
        if not isinstance(value, Tensor) or (key := _key(value)) in self.inside or key in self.outside:
            return None
        self.inside[key] = value.untyped_storage()
        return self._place(value)

    def _place(self, tensor: Tensor) -> Place:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self.inside and key not in self.outside:
            self.outside[key] = StorageWeakRef(storage), storage.clone()
        kept = self.inside[key] if key in self.inside else self.outside[key][0]
        return Place(kept, tensor.dtype, int(tensor.storage_offset()), tensor.size(), tensor.stride())


class _NothingRead(TorchFunctionMode):
    """Refuses what reads a tensor of the CPU without an operator."""

    def __torch_function__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in READING:
            raise RuntimeError(f"{REFUSED}: {func.__name__}")
        return func(*args, **(kwargs or {}))


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _alive(weak: StorageWeakRef) -> Any:
    """Return the storage, or None if it is gone."""
    return torch.UntypedStorage._new_with_weak_ptr(weak.cdata)


def _found(value: Any) -> Any:
    return value.tensor() if isinstance(value, Place) else value
