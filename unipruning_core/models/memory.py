"""The free memory of devices, and how much of it a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from unipruning_core.backend import Backend
    from unipruning_core.storage.checkpoint import Checkpoint

GIB = 2**30


def loaded_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Return the bytes of the loaded weights alone."""
    return sum(info.nbytes // info.dtype.itemsize for info in checkpoint.tensors.values()) * dtype.itemsize


def free_bytes(device_type: str) -> int | None:
    """Return the free bytes of the first device, or None if they cannot be known."""
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
    """Return the free bytes of every device, or an empty list if they cannot be known."""
    import torch

    module = torch.get_device_module(device_type)
    if not hasattr(module, "mem_get_info"):
        return []
    return [int(module.mem_get_info(index)[0]) for index in range(module.device_count())]


@contextmanager
def memory_errors_as_config_errors(backend: Backend) -> Iterator[None]:
    """Turn torch's out-of-memory error into one sentence with torch's numbers.

    Raises:
        ConfigError: a device ran out of memory.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        # torch's advice on its allocator, which follows the numbers, does not help here
        numbers = str(error).splitlines()[0].partition("If reserved")[0].partition(" See documentation")[0].rstrip(". ")
        raise ConfigError(
            f"the {backend.name} device ran out of memory ({numbers}); use a shorter --seq-len, "
            "--checkpoint-activations on, --mode frozen, or a device with more memory"
        ) from error


def check_model_fits(checkpoint: Checkpoint, dtype: torch.dtype, backend: Backend) -> None:
    """Refuse to load a model whose weights alone exceed the device's free memory.

    Raises:
        ConfigError: they do.
    """
    needed, free = loaded_bytes(checkpoint, dtype), free_bytes(backend.device_type)
    if free is not None and needed > free:
        raise ConfigError(
            f"the model's weights need {needed / GIB:.1f} GiB, but only {free / GIB:.1f} GiB is free on the "
            f"{backend.name} device; use a device with more memory, or --dtype bfloat16"
        )
