"""Whether scores belong to a checkpoint, and can be projected on it, checked before anything is written."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from unipruning_core.projection.decide import Scores
    from unipruning_core.storage.checkpoint import Checkpoint


def check_scores(checkpoint: Checkpoint, scores: Scores) -> None:
    """Refuse scores of another model, or with targets that the checkpoint does not hold.

    Raises:
        RunError: they are.
        CheckpointError: a target is of a type that cannot be pruned.
    """
    checkpoint.codes.check_prunable()
    if scores.fingerprint != checkpoint.fingerprint():
        raise RunError(
            f"the run was made from another model than {str(checkpoint.folder)!r}; pass the model it searched"
        )
    if not scores.targets:
        raise RunError("the run has no targets, so there is nothing to prune; search again")
    seen: set[str] = set()
    ends: dict[str, int] = {}  # of the targets so far, by tensor
    for target in scores.targets:
        info = checkpoint.tensors.get(target.tensor)
        if info is None or target.name in seen:
            fault = "is not in the checkpoint" if info is None else "occurs twice"
            raise RunError(f"target {target.name!r} of the run {fault}; search again")
        if target.within is None and info.shape != target.stored_shape:
            raise RunError(
                f"target {target.name!r} has the shape {info.shape!r} in the checkpoint, but {target.stored_shape!r}"
                " in the run; search again"
            )
        if target.start < ends.get(target.tensor, 0) or target.start + target.size > math.prod(info.shape):
            raise RunError(
                f"target {target.name!r} of the run does not fit in {target.tensor!r} of the checkpoint; search again"
            )
        ends[target.tensor] = target.start + target.size
        if not info.dtype.is_floating_point and not checkpoint.codes.holds(target.tensor):
            raise CheckpointError(
                f"target {target.name!r} is stored as {info.type_name!r}, which is quantised;"
                " use a checkpoint in bfloat16, float16 or float32"
            )
        seen.add(target.name)
    try:
        json.dumps(scores.provenance, allow_nan=False)
    # checked now, not after the last matrix
    except (TypeError, ValueError) as error:
        raise RunError(f"the provenance of the run cannot be written as JSON: {error}; search again") from error
