"""Count the memory a kernel moves, by watching every access that Triton's interpreter makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from _gates_cases import Case, tensors
from triton.runtime.interpreter import InterpreterBuilder

from unipruning_kernels.triton_launch import Launcher

SECTOR = 32  # bytes that a GPU moves at once
SHAPE = (256, 2048)
SMALL = (8, 2048)  # for what takes many Python steps a tile


@dataclass
class Traffic:
    moved: int = 0  # bytes
    sectors: int = 0
    atomics: int = 0  # lanes

    @property
    def efficiency(self) -> float:
        return self.moved / (SECTOR * self.sectors)

    def add(self, pointers: Any, mask: Any) -> None:
        """One access: the addresses of its active lanes, each sector counted once."""
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].ravel()
        self.moved += addresses.size * (pointers.get_element_ty().primitive_bitwidth // 8)
        self.sectors += np.unique(addresses // SECTOR).size


class GpuTiles(Launcher):
    """Runs in the interpreter, but in the tiles of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.interpreted = False


@contextmanager
def watched() -> Iterator[Traffic]:
    """Count all accesses of the kernels that run inside."""
    traffic = Traffic()
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw")
    load, store, atomic = (getattr(InterpreterBuilder, name) for name in names)

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        traffic.add(pointers, mask)
        return load(self, pointers, mask, *rest)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.add(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def counted_atomic(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.atomics += int(np.broadcast_to(mask.data, pointers.data.shape).sum())
        return atomic(self, operation, pointers, value, mask, *rest)

    for name, counted in zip(names, (counted_load, counted_store, counted_atomic), strict=True):
        setattr(InterpreterBuilder, name, counted)
    try:
        yield traffic
    finally:
        for name, original in zip(names, (load, store, atomic), strict=True):
            setattr(InterpreterBuilder, name, original)


def measure(case: Case) -> dict[str, float]:
    """Bytes a weight, their ratio to the least possible, sector efficiency and atomics a weight."""
    shape = SMALL if case.name.startswith(("nm_", "topk")) else SHAPE
    inputs = tensors(shape, "cpu")
    with watched() as traffic:
        case.call(GpuTiles(), inputs)
    weights = shape[0] * shape[1]
    return {
        "bytes": round(traffic.moved / weights, 3),
        "ratio": round(traffic.moved / weights / case.least, 3),
        "sectors": round(traffic.efficiency, 3),
        "atomics": round(traffic.atomics / weights, 4),
    }
