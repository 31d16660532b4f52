"""Placement of a model too large for one device: block by block over all devices of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from unipruning_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_can_spread(devices: int, name: str) -> None:
    """Refuse to spread a model before it is loaded.

    Raises:
        ConfigError: the library that places the blocks is not installed.
    """
    if find_spec("accelerate") is None:
        raise ConfigError(
            f"the search fits on {devices} {name} devices but not on one, and accelerate, which spreads a model over "
            "several, is not installed; run 'pip install accelerate'"
        )


def spread(model: PreTrainedModel, device_type: str, bytes_per_device: Sequence[int]) -> PreTrainedModel:
    """Move each block to one device, in order, and let the activations follow.

    Args:
        model: its weights are on the host.
        bytes_per_device: bytes of the model's weights for each device, device 0 first.

    Raises:
        ConfigError: a block does not fit.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = {"no_split_module_classes": list(model._no_split_modules or ())}
    limits = get_balanced_memory(model, dict(enumerate(bytes_per_device)), **whole)
    places = infer_auto_device_map(model, limits, **whole)
    if unplaced := [name for name, place in places.items() if place not in range(len(bytes_per_device))]:
        raise ConfigError(
            f"the model and its search do not fit on {len(bytes_per_device)} {device_type} devices: there is no room "
            f"for {unplaced[0]!r} and {len(unplaced) - 1} more parts; use devices with more memory, or --mode frozen"
        )
    return dispatch_model(model, {name: f"{device_type}:{place}" for name, place in places.items()})
