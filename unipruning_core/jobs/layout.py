"""How a search lies over devices and memories, chosen by what is free before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipruning_core.distributed.world import HOST, World, solitary
from unipruning_core.errors import ConfigError
from unipruning_core.models.host_memory import return_freed_memory
from unipruning_core.models.memory import GIB, free_bytes, free_bytes_each, limit_device, loaded_bytes
from unipruning_core.search.memory import check_memory, held_bytes
from unipruning_core.search.modes import MODES

if TYPE_CHECKING:
    from unipruning_core.jobs.opened import OnDisk
    from unipruning_core.search.settings import Settings


@dataclass(frozen=True)
class Layout:
    """Where a search is made, and where what it holds lies."""

    world: World
    offload: str  # "none", "cpu" or "disk"
    each: Sequence[int] = ()  # bytes of the model for each device, if one process has several
    room: int | None = None  # bytes free for activations; None if unknown


def chosen_layout(model: OnDisk, settings: Settings, world: World, offload: str, limit: int | None) -> Layout:
    """Choose where a search lies; ``limit`` is the most bytes of each device to use.

    Raises:
        ConfigError: it does not fit in any way that is allowed, or the mode cannot be offloaded.
    """
    kind = model.backend.device_type
    if limit is not None:
        limit_device(kind, limit)
    if offload in ("cpu", "disk"):
        _check_offload(settings, offload, kind)
        return _offloaded(model, world, offload)
    if world.sharded:
        return Layout(world, "none")
    try:
        each = check_memory(model.checkpoint, model.targets, settings, model.dtype, model.backend, limit)
    except ConfigError:
        if offload == "none" or not settings.offloads:
            raise
        return _offloaded(model, world, _place(model, settings, kind))
    free = sum(free_bytes_each(kind)) if len(each) > 1 else free_bytes(kind, limit)
    held = held_bytes(model.checkpoint, model.targets, settings, model.dtype)
    return Layout(world, "none", each, None if free is None else free - held)


def _check_offload(settings: Settings, offload: str, kind: str) -> None:
    if not settings.offloads:
        modes = ", ".join(name for name, mode in MODES.items() if mode.offloads)
        raise ConfigError(f"--offload is for the modes {modes}; omit it with --mode {settings.mode}")
    if offload == "cpu" and kind == HOST:
        raise ConfigError("--offload cpu moves nothing where the backend computes in the host's memory; use disk")


def _place(model: OnDisk, settings: Settings, kind: str) -> str:
    """Return the faster place that has room."""
    needed, free = held_bytes(model.checkpoint, model.targets, settings, model.dtype), free_bytes(HOST)
    return "disk" if kind == HOST or (free is not None and needed > free) else "cpu"


def _offloaded(model: OnDisk, world: World, offload: str) -> Layout:
    where = {"cpu": "pinned memory of the host", "disk": "files in the run folder"}[offload]
    if offload == "disk":
        return_freed_memory()  # what is kept for later use would take the room that is short
    model.progress.note(
        f"weights and state lie in {where}, and pass through the device block by block; "
        f"{loaded_bytes(model.checkpoint, model.dtype) / GIB:.1f} GiB of weights"
    )
    return Layout(world if world.sharded else solitary(model.backend.device_type), offload)
