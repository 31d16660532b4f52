"""Adapters of peft, merged so that pruned weights stay zero."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import ConfigError
from unipruning_core.tuning.hold import hold_masks, masks_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.progress import Progress


def merge_lora(
    model: Any, folder: str | os.PathLike[str], *, safe_merge: bool = True, progress: bool | Progress = True
) -> PreTrainedModel:
    r"""Merge a peft model's adapters into its pruned weights, masked: :math:`W + M \odot \Delta W`.

    peft adds the product of the adapters, in its own precision; then what the masks prune is set to zero.

    Args:
        model: what ``peft.get_peft_model`` or ``PeftModel.from_pretrained`` returned, not merged yet.
        folder: the pruned checkpoint with the masks, which the base model was loaded from.
        safe_merge: as peft's: refuse adapters whose product is not finite.

    Returns:
        The base model without adapters.

    Raises:
        ConfigError: the model has no adapters to merge, or its weights are quantised.
        CheckpointError: as ``hold_masks``; also where the adapters have been merged already.
    """
    if not hasattr(model, "merge_and_unload"):
        raise ConfigError(
            f"merging needs a model with adapters from peft, not a {type(model).__name__}; pass what get_peft_model "
            "returned"
        )
    with hold_masks(model, folder, progress):
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=safe_merge)
    # other parameters than before, where a module was copied to be trained
    for mask in masks_in(merged, folder, progress):
        mask.apply()
    return merged
