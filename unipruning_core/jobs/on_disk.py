"""Jobs on a model on disk: checks run first, the cheapest before the others, and the weights are loaded last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.data.perplexity import Perplexity, measured
from unipruning_core.models.memory import LARGER_DEVICE, free_bytes, free_bytes_each, memory_errors_as_config_errors
from unipruning_core.projection.project import Projected, check_output, project
from unipruning_core.search.activation_memory import check_choice
from unipruning_core.search.loop import SAVE_EVERY, SearchTask, check_run_folder, finished_search, search
from unipruning_core.search.memory import check_memory, held_bytes
from unipruning_core.search.run_folder import Run

if TYPE_CHECKING:
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.jobs.prepared import OnDisk
    from unipruning_core.projection.decide import Scores
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.parse import Sparsity


def search_on_disk(
    model: OnDisk,
    data: DataChoice,
    settings: Settings,
    out: Path,
    *,
    sparsities: Sequence[Sparsity] = (),
    overwrite: bool = False,
    reuse: bool = False,
    save_every: float = SAVE_EVERY,  # seconds
    checkpoint_activations: str = "auto",
) -> Run:
    """Search and write the run folder ``out``.

    ``sparsities`` are checked against the targets; with ``reuse``, an identical finished search is returned.

    Raises:
        UnipruningError: what is wrong, before the model is loaded if possible.
    """
    check_choice(checkpoint_activations, settings)
    check_run_folder(out, overwrite=overwrite, finished_ok=reuse)
    backend, progress = model.backend, model.progress
    model.check(sparsities, settings)
    model.report_targets()
    progress.note(settings.announcement)
    calibrated = model.calibrate(data, settings.seed)
    task = SearchTask(model.checkpoint, calibrated.samples, settings, model.name, calibrated.described)
    if reuse and not overwrite and (finished := finished_search(task, backend, out)):
        progress.note(f"reusing the finished search in {str(out)!r}")
        return finished
    bytes_per_device = check_memory(model.checkpoint, model.targets, settings, model.dtype, backend)
    room = _room(model, settings, len(bytes_per_device))
    task = replace(task, digests=model.check_finite())
    with memory_errors_as_config_errors(backend):
        loaded = model.load(bytes_per_device)
        return search(
            task,
            loaded,
            backend,
            out,
            overwrite=overwrite,
            save_every=save_every,
            checkpoint_activations=checkpoint_activations,
            room=room,
            progress=progress,
        )


def _room(model: OnDisk, settings: Settings, devices: int) -> int | None:
    """Return the bytes free for activations on the devices of a search, before the model is loaded."""
    kind = model.backend.device_type
    free = sum(free_bytes_each(kind)) if devices > 1 else free_bytes(kind)
    return None if free is None else free - held_bytes(model.checkpoint, model.targets, settings, model.dtype)


def project_on_disk(
    model: OnDisk, scores: Scores, sparsities: Sequence[Sparsity], out: Path, *, overwrite: bool = False
) -> list[Projected]:
    """Write pruned checkpoints from scores, such as those of a finished search.

    Raises:
        UnipruningError: what is wrong, before anything is written.
    """
    backend = model.backend
    with memory_errors_as_config_errors(backend, LARGER_DEVICE):
        return project(model.checkpoint, scores, sparsities, out, backend, overwrite=overwrite, progress=model.progress)


def prune_on_disk(
    model: OnDisk,
    data: DataChoice,
    settings: Settings,
    sparsities: Sequence[Sparsity],
    run_folder: Path,
    out: Path,
    *,
    overwrite: bool = False,
    save_every: float = SAVE_EVERY,  # seconds
    checkpoint_activations: str = "auto",
) -> list[Projected]:
    """Search, then project; the output folder is checked before the search begins."""
    check_output(model.checkpoint, (), sparsities, out, overwrite=overwrite, progress=model.progress)
    run = search_on_disk(
        model,
        data,
        settings,
        run_folder,
        sparsities=sparsities,
        overwrite=overwrite,
        reuse=True,
        save_every=save_every,
        checkpoint_activations=checkpoint_activations,
    )
    return project_on_disk(model, run, sparsities, out, overwrite=overwrite)


def perplexity_on_disk(
    model: OnDisk, text: TextChoice, *, seq_len: int | None = None, windows: int | None = None
) -> Perplexity:
    """Measure the perplexity of a checkpoint on a text by the standard protocol.

    Raises:
        UnipruningError: what is wrong, before the model is loaded if possible.
    """
    made = model.windows(text, seq_len, windows)
    with memory_errors_as_config_errors(model.backend, f"{LARGER_DEVICE}, or a shorter --seq-len"):
        return measured(model.load(), made, model.progress)
