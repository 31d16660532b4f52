"""How much memory a search holds, told before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from unipruning_core.backend import Backend
    from unipruning_core.checkpoint import Checkpoint, Target
    from unipruning_core.settings import SearchSettings

GIB = 2**30


def held_bytes(checkpoint: Checkpoint, targets: Sequence[Target], settings: SearchSettings, dtype: torch.dtype) -> int:
    """Bytes a search holds from its first sample to its last, activations not counted.

    With w the bytes of a weight's dtype: ``frozen`` holds w a weight of the model, and one matrix of float32;
    ``coupled`` w + 4 a target weight (V); ``drift`` 3 w + 8 (V, both moments, the gradient), or 2 w + 8 where no
    clipping makes it keep the gradient.
    """
    width = dtype.itemsize
    model = sum(info.nbytes // info.dtype.itemsize for info in checkpoint.tensors.values()) * width
    sizes = [target.shape[0] * target.shape[1] for target in targets]
    if settings.mode == "frozen":
        return model + 4 * max(sizes)
    if settings.mode == "coupled":
        return model + 4 * sum(sizes) + 2 * width * max(sizes)
    return model + (8 + width + (width if settings.max_grad_norm else 0)) * sum(sizes)


def check_memory(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    settings: SearchSettings,
    dtype: torch.dtype,
    backend: Backend,
) -> None:
    """Refuse a search that cannot fit, with the numbers.

    Raises:
        ConfigError: the device has less free memory than the search holds even without activations.
    """
    wanted, free = held_bytes(checkpoint, targets, settings, dtype), _free_bytes(backend.device_type)
    if free is not None and wanted > free:
        remedies = {"drift": "--mode frozen holds a seventh of it", "coupled": "--mode frozen holds less"}
        remedy = remedies.get(settings.mode, "use a machine with more memory, or --dtype bfloat16")
        raise ConfigError(
            f"the search would hold {wanted / GIB:.1f} GiB besides activations, but {free / GIB:.1f} GiB are free on "
            f"the {backend.name} device; {remedy}"
        )


def _free_bytes(device_type: str) -> int | None:
    """Free memory, or None where it cannot be asked."""
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
