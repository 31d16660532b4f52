"""How much memory a search holds, told before the model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError
from unipruning_core.models.placement import check_can_spread

if TYPE_CHECKING:
    import torch

    from unipruning_core.backend import Backend
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Checkpoint, Target

GIB = 2**30


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


def loaded_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes of the loaded weights alone."""
    return sum(info.nbytes // info.dtype.itemsize for info in checkpoint.tensors.values()) * dtype.itemsize


def free_bytes(device_type: str) -> int | None:
    """Free memory of the first device, or None where it cannot be asked."""
    import torch

    module = torch.get_device_module(device_type)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info()[0])
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    # not Linux, or a container that hides it
    except (OSError, KeyError, ValueError):
        return None


def free_bytes_each(device_type: str) -> list[int]:
    """Free memory of every device that can be asked."""
    import torch

    module = torch.get_device_module(device_type)
    if not hasattr(module, "mem_get_info"):
        return []
    return [int(module.mem_get_info(index)[0]) for index in range(module.device_count())]


@contextmanager
def memory_errors_as_config_errors(backend: Backend) -> Iterator[None]:
    """Say in one sentence, with torch's numbers, that a device ran out of memory in the middle of the work.

    Raises:
        ConfigError: it did.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        # what follows the numbers is advice on torch's allocator, which is not what helps here
        numbers = str(error).splitlines()[0].partition("If reserved")[0].partition(" See documentation")[0].rstrip(". ")
        raise ConfigError(
            f"the {backend.name} device ran out of memory ({numbers}); give a shorter --seq-len, take --mode frozen, "
            "or a device with more memory"
        ) from error
