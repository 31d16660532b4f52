"""Estimates of a search's memory, made before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.models.memory import GIB, free_bytes, free_bytes_each, loaded_bytes
from unipruning_core.models.placement import check_can_spread

if TYPE_CHECKING:
    import torch

    from unipruning_core.backend import Backend
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Checkpoint, Target


def held_parts(model_weights: int, sizes: Sequence[int], settings: Settings, width: int) -> dict[str, int]:
    """Bytes a search holds from its first sample to its last, by what they are, activations not counted.

    Args:
        model_weights: elements of the whole model.
        sizes: elements of each target.
        width: bytes of one element of the loaded weights.
    """
    return {"weights": model_weights * width} | settings.held_bytes(sizes, width)


def held_bytes(checkpoint: Checkpoint, targets: Sequence[Target], settings: Settings, dtype: torch.dtype) -> int:
    """All of ``held_parts`` together, for a model on disk."""
    model_weights = loaded_bytes(checkpoint, dtype) // dtype.itemsize
    sizes = [target.size for target in targets]
    return sum(held_parts(model_weights, sizes, settings, dtype.itemsize).values())


def check_memory(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    settings: Settings,
    dtype: torch.dtype,
    backend: Backend,
) -> list[int]:
    """How many bytes of the model each of the backend's devices takes; refuse a search that cannot fit, with numbers.

    One device, the first, where the whole search fits it; else all of them, each by what it has free.

    Raises:
        ConfigError: the devices have less free memory than the search holds even without activations.
    """
    wanted, free = held_bytes(checkpoint, targets, settings, dtype), free_bytes(backend.device_type)
    if free is None or wanted <= free:
        return [wanted]
    each = free_bytes_each(backend.device_type)
    if wanted <= sum(each):
        check_can_spread(len(each), backend.name)
        model = loaded_bytes(checkpoint, dtype)
        return [one * model // wanted for one in each]
    several = f"{len(each)} {backend.name} devices" if len(each) > 1 else f"{backend.name} device"
    raise ConfigError(
        f"the search would hold {wanted / GIB:.1f} GiB besides activations, but {max(free, sum(each)) / GIB:.1f} GiB "
        f"are free on the {several}; {settings.memory_remedy}"
    )
