"""Estimates of a search's memory, made before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.models.memory import GIB, LARGER_DEVICE, free_bytes, free_bytes_each, loaded_bytes
from unipruning_core.models.placement import check_can_spread
from unipruning_core.search.modes import MODES

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Checkpoint, Target


def held_parts(model_weights: int, sizes: Sequence[int], settings: Settings, width: int) -> dict[str, int]:
    """Return the bytes a search holds from its first sample to its last, by kind, without activations.

    Args:
        model_weights: elements of the whole model.
        sizes: elements of each target.
        width: bytes of one element of the loaded weights.
    """
    return {"weights": model_weights * width} | settings.held_bytes(sizes, width)


def held_bytes(checkpoint: Checkpoint, targets: Sequence[Target], settings: Settings, dtype: torch.dtype) -> int:
    """Return the sum of ``held_parts`` for a model on disk."""
    model_weights = loaded_bytes(checkpoint, dtype) // dtype.itemsize
    sizes = [target.size for target in targets]
    return sum(held_parts(model_weights, sizes, settings, dtype.itemsize).values())


def room_beside(settings: Settings, targets: Sequence[Target], dtype: torch.dtype, backend: Backend) -> int | None:
    """Return the bytes free for activations beside the search of a loaded model; None if unknown.

    Raises:
        ConfigError: the search exceeds what is free even without activations.
    """
    sizes = [target.size for target in targets]
    needed, free = sum(settings.held_bytes(sizes, dtype.itemsize).values()), free_bytes(backend.device_type)
    if free is not None and needed > free:
        raise ConfigError(
            f"the search needs {needed / GIB:.1f} GiB besides the model and activations, but only "
            f"{free / GIB:.1f} GiB is free on the {backend.name} device; "
            + smaller_search(0, sizes, settings, [dtype], free)
        )
    return None if free is None else free - needed


def check_memory(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    settings: Settings,
    dtype: torch.dtype,
    backend: Backend,
    limit: int | None = None,  # most bytes of each device to use
) -> list[int]:
    """Return the bytes of the model that each device takes, or refuse a search that cannot fit, with numbers.

    Only the first device if the whole search fits on it; otherwise all, in proportion to their free memory.

    Raises:
        ConfigError: the search exceeds the free memory of the devices even without activations.
    """
    needed, free = held_bytes(checkpoint, targets, settings, dtype), free_bytes(backend.device_type, limit)
    if free is None or needed <= free:
        return [loaded_bytes(checkpoint, dtype)]
    each = [free if limit is None else min(free, limit) for free in free_bytes_each(backend.device_type)]
    if needed <= sum(each):
        check_can_spread(len(each), backend.name)
        model = loaded_bytes(checkpoint, dtype)
        return [free_there * model // needed for free_there in each]
    several = f"{len(each)} {backend.name} devices" if len(each) > 1 else f"{backend.name} device"
    smaller = smaller_search(
        loaded_bytes(checkpoint, dtype) // dtype.itemsize,
        [target.size for target in targets],
        settings,
        [dtype, torch.bfloat16] if dtype.itemsize > torch.bfloat16.itemsize else [dtype],
        max(free, sum(each)),
    )
    raise ConfigError(
        f"the search needs {needed / GIB:.1f} GiB besides activations, but only {max(free, sum(each)) / GIB:.1f} GiB "
        f"is free on the {several}; {smaller}"
    )


def smaller_search(
    model_weights: int, sizes: Sequence[int], settings: Settings, dtypes: Sequence[torch.dtype], free: int
) -> str:
    """Return which mode and dtype would fit into so many bytes, besides activations, or that none would.

    Args:
        model_weights: elements of the whole model.
        sizes: elements of each target.
        dtypes: that of this search, which does not fit, and then those that it could have instead.
    """
    words, needed = "", 0
    for kind in (settings, MODES["feedback"](), MODES["frozen"]()):
        for dtype in dtypes:
            mode = f"--mode {kind.mode}" if kind.mode != settings.mode else ""
            other = f"--dtype {str(dtype).removeprefix('torch.')}" if dtype != dtypes[0] else ""
            words = f"{mode} {other}".strip()
            needed = sum(held_parts(model_weights, sizes, kind, dtype.itemsize).values())
            if needed <= free:
                return f"{words} needs {needed / GIB:.1f} GiB"
    least = f"even {words} needs" if words else "nothing needs less than"
    return f"{least} {needed / GIB:.1f} GiB, so {LARGER_DEVICE}"
