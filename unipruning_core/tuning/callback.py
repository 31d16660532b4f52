"""Masks held in ``transformers.Trainer``, and kept beside its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from unipruning_core.progress import Progress, as_progress
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from unipruning_core.tuning.hold import HeldMasks, hold_masks
from unipruning_core.tuning.record import record_tuned

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments


class MaskCallback(TrainerCallback):  # type: ignore[misc]
    """The masks of a pruned folder, held from the start of training to its end, as by ``hold_masks``.

    Checkpoints with whole weights get the masks and a report that says the weights were tuned, as by ``record_tuned``.
    """

    def __init__(self, folder: str | os.PathLike[str], progress: bool | Progress = True) -> None:
        self.folder, self._progress = Path(folder), as_progress(progress)
        self._held: HeldMasks | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        self._held = hold_masks(model, self.folder, self._progress)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._held is not None:
            self._held.remove()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        saved = Path(args.output_dir or "") / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero:
            return
        if (saved / CONFIG_FILE).is_file() and any((saved / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
            record_tuned(self.folder, saved, self._progress)
        else:
            self._progress.note(
                f"{str(saved)!r} has no whole weights to keep masks beside; after merging or gathering them, call "
                f"record_tuned({str(self.folder)!r}, ...)"
            )
