"""Where a model lies that is too large for one device: block after block over all devices of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_can_spread(devices: int, name: str) -> None:
    """Refuse before the model is loaded.

    Raises:
        ConfigError: the library that places the blocks is not installed.
    """
    if find_spec("accelerate") is None:
        raise ConfigError(
            f"the search fits {devices} {name} devices and not one, and accelerate, which places a model on several, "
            "is not installed; pip install accelerate"
        )


def spread(model: PreTrainedModel, device_type: str, room: Sequence[int]) -> PreTrainedModel:
    """Move each block to one device, in order, and have what flows through the model follow.

    Args:
        model: its weights are on the host.
        room: bytes of the model's weights that each device takes, device 0 first.

    Raises:
        ConfigError: a block finds no room.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = {"no_split_module_classes": list(model._no_split_modules or ())}
    limits = get_balanced_memory(model, dict(enumerate(room)), **whole)
    places = infer_auto_device_map(model, limits, **whole)
    if homeless := [name for name, place in places.items() if place not in range(len(room))]:
        raise ConfigError(
            f"the model and its search do not fit {len(room)} {device_type} devices: {homeless[0]!r} and "
            f"{len(homeless) - 1} more parts find no room; use devices with more memory, or --mode frozen"
        )
    return dispatch_model(model, {name: f"{device_type}:{place}" for name, place in places.items()})
