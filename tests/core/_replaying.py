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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from unipruning_core import Backend
from unipruning_core.testing.watch import WAITING
from unipruning_kernels import reference

CAPTURING = "operation not permitted when stream is capturing"
READING = ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")
ALL_ONES = 255  # bytes that are NaN as floats


class ReplayingBackend(reference.Operations, Backend):
    """The definitions, recorded operator by operator."""

    name, device_type = "replaying", "cpu"

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        recording = Recording()
        recording.record(work)

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay


@dataclass(frozen=True)
class Place:
    """A tensor's place in a storage, whatever becomes of the tensor."""

    storage: torch.UntypedStorage | StorageWeakRef  # weak where it was there before the recording
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        storage = self.storage
        if isinstance(storage, StorageWeakRef):
            storage = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
            assert storage is not None, f"a replay reads a tensor of {tuple(self.size)} {self.dtype} that is gone"
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Place | None]]] = []
        self.inside: dict[int, torch.UntypedStorage] = {}  # made by the recorded work
        self.outside: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}  # with the bytes before

    def record(self, work: Callable[[], None]) -> None:
        """Note the operators of ``work``, and leave no trace of its having run."""
        try:
            with self, _NothingRead():
                work()
        finally:
            for weak, before in self.outside.values():
                if not weak.expired():
                    torch.UntypedStorage._new_with_weak_ptr(weak.cdata).copy_(before)
            for storage in self.inside.values():
                storage.fill_(ALL_ONES)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, places in self.calls:
            made = function(*tree_map(_found, args), **tree_map(_found, kwargs))
            for value, place in zip(tree_leaves(made), places, strict=True):
                if place is not None:
                    place.tensor().copy_(value)

    def __torch_dispatch__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name in WAITING or name == "lift_fresh":
            raise RuntimeError(f"{CAPTURING}: {name}\nmore")
        given = self.placed((args, kwargs))
        result = func(*args, **kwargs)
        if not func.is_view:
            self.calls.append((func, *given, self.results(result)))
        return result

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Record a call that writes into its arguments, past torch's operators."""
        given = self.placed((args, kwargs))
        function(*args, **kwargs)
        self.calls.append((function, *given, []))

    def placed(self, values: Any) -> Any:
        return tree_map(lambda value: self.place(value) if isinstance(value, Tensor) else value, values)

    def results(self, values: Any) -> list[Place | None]:
        """Return where a replay copies each result to; None for what lies in memory that is known."""
        places: list[Place | None] = []
        for value in tree_leaves(values):
            new = isinstance(value, Tensor) and value.untyped_storage()._cdata not in self.inside | self.outside
            if new:
                self.inside[value.untyped_storage()._cdata] = value.untyped_storage()
            places.append(self.place(value) if new else None)
        return places

    def place(self, tensor: Tensor) -> Place:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.inside and key not in self.outside:
            self.outside[key] = StorageWeakRef(storage), storage.clone()
        kept = self.inside[key] if key in self.inside else self.outside[key][0]
        return Place(kept, tensor.dtype, tensor.storage_offset(), tensor.size(), tensor.stride())


class _NothingRead(TorchFunctionMode):
    """Refuses what reads a tensor on the host without an operator."""

    def __torch_function__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in READING:
            raise RuntimeError(f"{CAPTURING}: {func.__name__}\nmore")
        return func(*args, **(kwargs or {}))


def _found(value: Any) -> Any:
    return value.tensor() if isinstance(value, Place) else value
