"""Jobs on a model on disk: checks run first, the cheapest before the others, and the weights are loaded last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.data.perplexity import Perplexity, measured
from unipruning_core.distributed.launched import processes_here
from unipruning_core.errors import RunError
from unipruning_core.jobs.layout import chosen_layout
from unipruning_core.models.divided import check_adds_up
from unipruning_core.models.layout import check_offload, size_of
from unipruning_core.models.memory import LARGER_DEVICE, check_model_fits, memory_errors_as_config_errors
from unipruning_core.projection.place import Output, claimed_output
from unipruning_core.projection.project import Projected, project
from unipruning_core.search.activation_memory import check_choice
from unipruning_core.search.claim import ClaimedRun, claimed_run
from unipruning_core.search.compilation import check_compiling_over_ranks
from unipruning_core.search.intervals import SAVE_EVERY, Interval
from unipruning_core.search.loop import SearchTask, finished_search, search
from unipruning_core.search.resume import KEPT, Resume
from unipruning_core.search.run_folder import Run
from unipruning_core.search.samples import check_skipping, check_skipping_over_ranks, goes_on
from unipruning_core.stopping import explained
from unipruning_core.storage.outputs import check_space
from unipruning_core.storage.staging import UNFINISHED

if TYPE_CHECKING:
    from unipruning_core.data.calibration import DataChoice
    from unipruning_core.data.text import TextChoice
    from unipruning_core.jobs.opened import OnDisk
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
    keep_per_row: int = 0,
    overwrite: bool = False,
    reuse: bool = False,
    save_every: float | str = SAVE_EVERY,
    checkpoint_activations: str = "auto",
    copies: int = 1,
    offload: str = "auto",
    max_memory: str | int | None = None,
    skip_nonfinite: bool = False,
    compile: bool = False,
) -> Run:
    """Search and write the run folder ``out``.

    ``sparsities`` and ``keep_per_row`` are checked against the targets; with ``reuse``, an identical finished search is
    returned.

    Raises:
        UnipruningError: what is wrong, before the model is loaded if possible.
    """
    check_choice(checkpoint_activations, settings)
    check_offload(offload)
    Interval.of(save_every)
    apart = [*data.text.files(), *model.choice.folders()]
    check_skipping(settings, skip_nonfinite=skip_nonfinite)
    world = model.world.with_copies(copies)
    with (
        world.watched(),
        world.lead_holds(lambda: claimed_run(out, overwrite=overwrite, finished_ok=reuse, apart=apart)) as claim,
    ):
        backend, progress = model.backend, model.progress
        if model.world.sharded:
            check_skipping_over_ranks(skip_nonfinite=skip_nonfinite)
            check_compiling_over_ranks(compiles=compile)
        if model.world.size > 1 and settings.follows_loss:
            check_adds_up()
        model.check_apart(out)
        model.check(sparsities, settings, keep_per_row=keep_per_row)
        if claim is not None:
            _check_disk(model, settings, claim)
        model.report_targets()
        progress.note(settings.announcement)
        calibrated = model.calibrate(data, settings.seed)
        task = SearchTask(
            model.checkpoint,
            calibrated.samples,
            settings,
            model.name,
            calibrated.described,
            skip_nonfinite,
            targets=model.choice.targets,
            compiles=compile,
        )
        if world.lead_does(lambda: claim is not None and _is_reusable(task, claim, model, overwrite=overwrite)):
            progress.note(f"reusing the finished search in {str(out)!r}")
            return Run.open(out)
        layout = chosen_layout(model, settings, world, offload, size_of(max_memory))
        if claim is not None and layout.offload == "disk":
            _check_disk(model, settings, claim, offloads=True)
        task = replace(task, digests=model.check_finite())
        world.agree(task.identity(backend))
        with memory_errors_as_config_errors(backend):
            loaded = model.load_for_ranks() if layout.world.sharded else model.load(layout.each)
            return search(
                task,
                loaded,
                backend,
                out,
                overwrite=overwrite,
                claimed=claim,
                world=layout.world,
                offload=layout.offload,
                save_every=save_every,
                checkpoint_activations=checkpoint_activations,
                room=layout.room,
                progress=progress,
            )


def _is_reusable(task: SearchTask, claim: ClaimedRun, model: OnDisk, *, overwrite: bool) -> bool:
    """Return whether a run folder holds this search, finished and not to be made again.

    What is to be overwritten is taken where a command was killed, since it may be what that command wrote.
    """
    if not claim.finished or (overwrite and not claim.was_killed):
        return False
    try:
        return finished_search(task, model.backend, claim.folder) is not None
    except RunError:
        if overwrite:
            return False
        raise


def _check_disk(model: OnDisk, settings: Settings, claim: ClaimedRun, *, offloads: bool = False) -> None:
    """Refuse a search whose saved states, with the next one or the result, V in float32, do not fit on the disk."""
    sizes = [target.size for target in model.targets]
    # a state holds about what the search holds, and the weights if it moves them
    state = sum(settings.held_bytes(sizes, model.dtype.itemsize).values())
    state += model.dtype.itemsize * sum(sizes) if settings.moves_weights else 0
    offloaded = state + model.dtype.itemsize * sum(sizes) if offloads else 0
    check_space(claim.folder, KEPT * state + max(state, 4 * sum(sizes)) + offloaded - claim.work.size())


def what_is_kept(out: Path) -> AbstractContextManager[None]:
    """Say, where a search is interrupted before it can save its state, what an earlier command saved in ``out``."""
    return explained(lambda: goes_on(Resume(out / UNFINISHED, {})))


def project_on_disk(
    model: OnDisk,
    scores: Scores,
    sparsities: Sequence[Sparsity],
    out: Path,
    *,
    keep_per_row: int = 0,
    overwrite: bool = False,
    output: Output | None = None,  # on the first rank, where the caller has claimed it
    compare: bool = False,  # whether the checksums of a run are still to be compared
) -> list[Projected]:
    """Write pruned checkpoints from scores, such as those of a finished search.

    Raises:
        UnipruningError: what is wrong, before the output appears.
    """
    backend, world = model.backend, model.world
    with world.watched(), memory_errors_as_config_errors(backend, LARGER_DEVICE):
        return project(
            model.checkpoint,
            scores,
            sparsities,
            out,
            backend,
            keep_per_row=keep_per_row,
            overwrite=overwrite,
            progress=model.progress,
            output=output,
            apart=[("run folder", scores.folder)] if isinstance(scores, Run) else (),
            world=world,
            check=scores.compare if compare and isinstance(scores, Run) and world.leads else None,
        )


def prune_on_disk(
    model: OnDisk,
    data: DataChoice,
    settings: Settings,
    sparsities: Sequence[Sparsity],
    run_folder: Path,
    out: Path,
    *,
    keep_per_row: int = 0,
    overwrite: bool = False,
    save_every: float | str = SAVE_EVERY,
    checkpoint_activations: str = "auto",
    copies: int = 1,
    offload: str = "auto",
    max_memory: str | int | None = None,
    skip_nonfinite: bool = False,
    compile: bool = False,
) -> list[Projected]:
    """Search, then project; both folders are looked at, and held, before the search begins."""
    Interval.of(save_every)
    apart = [("run folder", run_folder), *data.text.files(), *model.choice.folders()]
    world = model.world

    def claim() -> AbstractContextManager[Output]:
        return claimed_output(
            model.checkpoint, (), sparsities, out, overwrite=overwrite, progress=model.progress, apart=apart
        )

    with world.watched(), world.lead_holds(claim) as output, what_is_kept(run_folder):
        run = search_on_disk(
            model,
            data,
            settings,
            run_folder,
            sparsities=sparsities,
            keep_per_row=keep_per_row,
            overwrite=overwrite,
            reuse=True,
            save_every=save_every,
            checkpoint_activations=checkpoint_activations,
            copies=copies,
            offload=offload,
            max_memory=max_memory,
            skip_nonfinite=skip_nonfinite,
            compile=compile,
        )
        kept = f"; the search is finished and kept in {str(run_folder)!r}, from where the same command goes on"
        with explained(lambda: kept):
            return project_on_disk(
                model, run, sparsities, out, keep_per_row=keep_per_row, overwrite=overwrite, output=output
            )


def perplexity_on_disk(
    model: OnDisk, text: TextChoice, *, seq_len: int | None = None, windows: int | None = None
) -> Perplexity:
    """Measure the perplexity of a checkpoint on a text by the standard protocol.

    Raises:
        UnipruningError: what is wrong, before the model is loaded if possible.
    """
    made, world = model.windows(text, seq_len, windows), model.world
    with world.watched(), memory_errors_as_config_errors(model.backend, f"{LARGER_DEVICE}, or a shorter --seq-len"):
        if world.size > 1:  # before any of them has taken memory
            check_model_fits(model.checkpoint, model.dtype, model.backend, processes_here())
        given = {"text": made.data_sha256, "windows": tuple(made.ids.shape), "dtype": str(model.dtype)}
        world.agree({"model": model.checkpoint.fingerprint(), **given})
        return measured(model.load(), made, model.progress, world)
