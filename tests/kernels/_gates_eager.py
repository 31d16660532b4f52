"""Count the memory that whole steps move: the CUDA kernels with the torch around them, and the released formulation."""

from __future__ import annotations

from typing import Any

import torch
from _gates_traffic import GpuTiles, watched
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from unipruning_core.testing.oracle import plain_torch
from unipruning_core.tools.bench.baseline import baseline
from unipruning_core.tools.bench.cases import Inputs, ready
from unipruning_cuda.backend import CudaBackend

STEPS = ("step ria", "step drift")
SHAPE = (256, 512)  # four chunks of the mirror step; a vector weighs more here than beside a matrix of a model
RELEASED_SHAPE = (2048, 2048)  # here the released sample of 100 000 for its threshold weighs as little as in a model
WARM = 3  # steps that are not counted: until the threshold, which starts from zero, has a bracket
ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
FILLS = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")  # they read only a shape
OVERWRITES = ("copy_", "fill_", "zero_")  # what they write they do not read
GATHERS = ("index", "index_select")  # they read as much as they write, and the indices


class EagerTraffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that go into and come out of every aten operator; views cost nothing.

    An operator is one pass over its inputs and its outputs, also where it really takes several (a sort, a random
    permutation, a top-k), and a gather reads no more than it needs, so that this is a lower bound.  What is updated in
    place counts as read and as written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ALLOCATES:
            leaves = tree_leaves((_read(name, args, result), kwargs, result))
            self.moved += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return result


class BesideEager(GpuTiles):
    """Leaves the interpreter's own copies out of the count."""

    def __call__(self, *arguments: Any, **options: Any) -> None:
        with _disable_current_modes():
            super().__call__(*arguments, **options)


def measure_step(operation: str) -> dict[str, float]:
    """Bytes a bfloat16 weight of one step of the benchmark, and those of the released formulation of it."""
    return {"bytes": round(_ours(operation), 2), "released": round(_released(operation), 1)}


def _ours(operation: str) -> float:
    """What the kernels move in the tiles of a GPU, access by access, and what torch moves around them."""
    backend, launcher = CudaBackend(), BesideEager()
    backend.launcher = launcher
    work = ready(operation, Inputs(*SHAPE, torch.bfloat16), backend)
    launcher.interpreted = True
    for _ in range(WARM):
        work()
    launcher.interpreted = False
    with watched() as kernels, EagerTraffic() as eager:
        work()
    return (kernels.moved + eager.moved) / (SHAPE[0] * SHAPE[1])


def _released(operation: str) -> float:
    work = baseline("released", operation, Inputs(*RELEASED_SHAPE, torch.bfloat16), plain_torch("cpu"))
    if work is None:
        raise ValueError(f"{operation!r} has no released formulation")
    work()
    with EagerTraffic() as eager:
        work()
    return eager.moved / (RELEASED_SHAPE[0] * RELEASED_SHAPE[1])


def _read(name: str, args: tuple[Any, ...], result: Any) -> Any:
    if name in FILLS:
        return ()
    if name in GATHERS:
        return result, args[1:]
    return args[1:] if name in OVERWRITES else args
