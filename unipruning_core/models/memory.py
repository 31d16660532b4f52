"""The free memory of devices, and how much of it a model takes."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import ConfigError, chain, first_line
from unipruning_core.models.host_memory import free_host_bytes

if TYPE_CHECKING:
    import torch

    from unipruning_core.backend import Backend
    from unipruning_core.storage.checkpoint import Checkpoint

GIB = 2**30
LARGER_DEVICE = "use a device with more memory"
SEARCH_REMEDY = "use a shorter --seq-len, --checkpoint-activations on, --mode frozen, or a device with more memory"
# how allocators on the host and on devices say that memory is exhausted where they raise only a RuntimeError
EXHAUSTED = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|alloc_cpu|DefaultCPUAllocator"
    r"|bad_alloc|_ALLOC_FAILED|unable to mmap|failed to map segment",
    re.IGNORECASE,
)


def loaded_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Return the bytes of the loaded weights alone."""
    return sum(info.nbytes // info.dtype.itemsize for info in checkpoint.codes.weights.values()) * dtype.itemsize


def free_bytes(device_type: str, limit: int | None = None) -> int | None:
    """Return the free bytes of the first device, at most the limit, or None if they cannot be known."""
    import torch

    module = torch.get_device_module(device_type)
    free = _free_of(module) if hasattr(module, "mem_get_info") else free_host_bytes()
    return free if limit is None else min(limit, limit if free is None else free)


def limit_device(device_type: str, limit: int) -> None:
    """Let the allocator of the devices, where it can, refuse more than so many bytes."""
    import torch

    module = torch.get_device_module(device_type)
    if hasattr(module, "set_per_process_memory_fraction"):
        for index in range(module.device_count()):
            total = int(module.mem_get_info(index)[1])
            module.set_per_process_memory_fraction(min(1.0, limit / total), index)


def free_bytes_each(device_type: str) -> list[int]:
    """Return the free bytes of every device, or an empty list if they cannot be known."""
    import torch

    module = torch.get_device_module(device_type)
    if not hasattr(module, "mem_get_info"):
        return []
    return [_free_of(module, index) for index in range(module.device_count())]


def _free_of(module: Any, *index: int) -> int:
    """Return the free bytes of a device; what earlier work in this process has freed, the allocator gives back."""
    if hasattr(module, "empty_cache"):
        module.empty_cache()
    return int(module.mem_get_info(*index)[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted, of the host or of a device; imports nothing."""
    # only where torch is imported can the error be one of its own
    kinds = (MemoryError, getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError))
    return any(
        isinstance(cause, kinds)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError | OSError | ImportError) and EXHAUSTED.search(first_line(cause)) is not None)
        for cause in chain(error)
    )


def exhausted(error: BaseException) -> str:
    """Return the numbers of an error that means exhausted memory, without advice on an allocator's settings."""
    cause = next((cause for cause in chain(error) if is_out_of_memory(cause) and str(cause)), error)
    numbers = first_line(cause).partition("If reserved")[0].partition(" See documentation")[0]
    # of the host's allocator: its place in the sources precedes
    return numbers.rpartition("DefaultCPUAllocator: ")[2].rstrip(". ")


@contextmanager
def memory_errors_as_config_errors(backend: Backend, remedy: str = SEARCH_REMEDY) -> Iterator[None]:
    """Turn an allocator's error into one sentence with its numbers and what helps.

    Raises:
        ConfigError: the host or a device ran out of memory.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"the {backend.name} device ran out of memory ({exhausted(error)}); {remedy}") from error


def check_model_fits(checkpoint: Checkpoint, dtype: torch.dtype, backend: Backend, processes: int = 1) -> None:
    """Refuse to load a model whose weights alone exceed the device's free memory.

    Args:
        processes: that each load it on this machine, and share the memory of the host.

    Raises:
        ConfigError: they do.
    """
    import torch

    needed, free = loaded_bytes(checkpoint, dtype), free_bytes(backend.device_type)
    copies = 1 if hasattr(torch.get_device_module(backend.device_type), "mem_get_info") else processes
    if free is not None and copies * needed > free:
        each = f" in each of {copies} processes" if copies > 1 else ""
        fewer = ", or fewer processes" if copies > 1 else ""
        raise ConfigError(
            f"the model's weights need {needed / GIB:.1f} GiB{each}, but only {free / GIB:.1f} GiB is free on the "
            f"{backend.name} device; use a device with more memory, or --dtype bfloat16{fewer}"
        )
