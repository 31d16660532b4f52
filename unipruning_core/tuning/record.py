"""The masks and the report beside a tuned checkpoint, which say of what was trained that the masks were held."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.card import BASE_CARD_FILE, CARD, CARD_FILE, write_card
from unipruning_core.projection.counts import nonzero
from unipruning_core.projection.mask_file import MASK_FILE, MaskFile, read_masks
from unipruning_core.projection.report import MASKS, REPORT_FILE, TUNED, read_report, write_report
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.files import sha256
from unipruning_core.storage.outputs import errors_as_output_errors
from unipruning_core.storage.tensorfile import digest_of


def record_tuned(
    pruned: str | os.PathLike[str], tuned: str | os.PathLike[str], progress: bool | Progress = True
) -> None:
    """Put the masks and the report of a pruned folder beside a checkpoint that was trained from it.

    Every pruned weight is read and has to be zero.  The report keeps how the masks were found, says that the weights
    were tuned, and has the checksums and zeros of the tuned weights; ``read_masks`` reads the result like any other.
    Where there is no model card, one is written too.

    Raises:
        CheckpointError: a folder is incomplete, a matrix is missing, or a pruned weight is not zero.
        OutputError: the tuned folder cannot be written.
    """
    pruned, tuned, shown = Path(pruned), Path(tuned), as_progress(progress)
    masks, report, checkpoint = read_masks(pruned, shown), read_report(pruned), Checkpoint.open(tuned)
    matrices, zeros = {}, 0
    with shown.task("checking zeros", len(masks.targets), "matrix") as task:
        for target in masks.targets:
            here, digest = _looked_at(masks, target, checkpoint)
            counts = report["matrices"][target.name]
            matrices[target.name] = {**counts, "zero_share": here / counts["total"], "sha256": digest}
            zeros += here
            task.advance()
    overall = {**report["overall"], "zero_share": zeros / report["overall"]["total"]}
    source = next(info.file for info in masks.packed.values())  # whatever its name was in earlier versions
    with errors_as_output_errors(tuned):
        if source.resolve() != (tuned / MASK_FILE).resolve():
            shutil.copyfile(source, tuned / MASK_FILE)
        content = {**report, TUNED: True, MASKS: sha256(tuned / MASK_FILE), "overall": overall, "matrices": matrices}
        if not (tuned / CARD_FILE).exists():
            if (pruned / BASE_CARD_FILE).is_file():
                shutil.copyfile(pruned / BASE_CARD_FILE, tuned / BASE_CARD_FILE)
            content[CARD] = write_card(tuned, content, [])
        # the rest was written by whoever trained
        write_report(tuned, {**content, "written": [MASK_FILE, REPORT_FILE]})


def _looked_at(masks: MaskFile, target: Target, checkpoint: Checkpoint) -> tuple[int, str]:
    """Return the zeros of a tuned weight and its sha256, or refuse it."""
    info = checkpoint.tensors.get(target.tensor)
    if info is None or (target.within is None and info.shape != target.stored_shape):
        came = "is not in it" if info is None else f"has the shape {info.shape}, not {target.stored_shape}"
        raise CheckpointError(
            f"{str(checkpoint.folder)!r} was not trained from what was pruned: {target.tensor!r} {came}; save the tuned"
            " model with save_pretrained"
        )
    weight = checkpoint.read_target(target)
    mask = masks.read(target.name)
    if trained := nonzero(weight[~(mask.t() if target.transposed else mask)]):
        raise CheckpointError(
            f"{trained} pruned weights of {target.name!r} are not zero in {str(checkpoint.folder)!r}; hold the masks "
            "while it is trained, and merge adapters with merge_lora"
        )
    return weight.numel() - nonzero(weight), digest_of(weight)
