"""Whole jobs, from names to results: the order in which things are checked, cheapest first, the model last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.data.calibration import Packing, calibration_batches
from unipruning_core.data.perplexity import Perplexity, perplexity
from unipruning_core.data.text import load_text
from unipruning_core.extensions import hide_broken_extensions
from unipruning_core.models.hub import resolve_model
from unipruning_core.models.loading import (
    ModelChoice,
    choose_dtype,
    load_config_and_tokenizer,
    load_for_evaluation,
    outline,
    window_length,
)
from unipruning_core.models.targets import LeftOut
from unipruning_core.progress import Progress
from unipruning_core.projection.project import Projected, check_output, project
from unipruning_core.registry import Catalogue
from unipruning_core.search.loop import SearchTask, check_run_folder, finished_search, search
from unipruning_core.search.memory import check_memory, memory_errors_as_config_errors
from unipruning_core.search.run_folder import Run
from unipruning_core.storage.checkpoint import Checkpoint, Target

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.forms import Sparsity


@dataclass(frozen=True)
class DataChoice:
    """Which text, and how it is cut."""

    source: str
    split: str | None = None
    field: str | None = None
    samples: int = 128
    seq_len: int | None = None  # None is LONGEST_WINDOW, or all the model has positions for
    packing: Packing = "packed"


def run_search(
    choice: ModelChoice,
    data: DataChoice,
    settings: Settings,
    out: Path,
    *,
    backend: str | None = None,
    sparsities: Sequence[Sparsity] = (),
    overwrite: bool = False,
    reuse: bool = False,
    save_every: float,
    progress: Progress,
) -> Run:
    """Search, after everything that could be wrong has been looked at.

    ``sparsities`` are checked against the layers; with ``reuse`` the same search, finished before, is taken as it is.

    Raises:
        UnipruningError: whatever was wrong, before the model is loaded wherever that can be known.
    """
    check_run_folder(out, overwrite=overwrite, finished_ok=reuse)
    device = _select(backend, progress)
    checkpoint = Checkpoint.open(resolve_model(choice.name, trust_remote_code=choice.trust_remote_code))
    config, tokenizer = load_config_and_tokenizer(checkpoint, choice)
    seq_len = window_length(config, data.seq_len)
    targets, left_out = outline(checkpoint, config, choice)
    for sparsity in sparsities:
        sparsity.check(targets)
    settings.check(targets)
    report_targets(targets, left_out, progress)
    progress.note(f"mode {settings.mode}, metric {settings.metric}: {settings.summary}")
    text = load_text(data.source, split=data.split, field=data.field)
    calibration = calibration_batches(
        text,
        tokenizer,
        samples=data.samples,
        seq_len=seq_len,
        seed=settings.seed,
        packing=data.packing,
        progress=progress,
    )
    dtype = choose_dtype(choice, checkpoint, device, progress)
    described = {
        "source": data.source,
        "sha256": text.sha256,
        "samples": data.samples,
        "seq_len": seq_len,
        "packing": data.packing,
        "dtype": str(dtype).removeprefix("torch."),
    }
    task = SearchTask(checkpoint, calibration, settings, choice.name, described)
    if reuse and not overwrite and (finished := finished_search(task, device, out)):
        progress.note(f"the search in {str(out)!r} is finished already and is used again")
        return finished
    room = check_memory(checkpoint, targets, settings, dtype, device)
    floating = [name for name, info in checkpoint.tensors.items() if info.dtype.is_floating_point]
    checkpoint.check_finite(floating, progress)
    with memory_errors_as_config_errors(device):
        model, _ = load_for_evaluation(
            *(checkpoint.folder, dtype, device.device_type), room, trust_remote_code=choice.trust_remote_code
        )
        if len(room) > 1:
            progress.note(f"the model lies on {len(room)} devices")
        return search(task, model, device, out, overwrite=overwrite, save_every=save_every, progress=progress)


def run_project(
    choice: ModelChoice,
    run_folder: Path,
    sparsities: Sequence[Sparsity],
    out: Path,
    *,
    backend: str | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> list[Projected]:
    """Write pruned checkpoints from a finished search."""
    device = _select(backend, progress)
    checkpoint = Checkpoint.open(resolve_model(choice.name, trust_remote_code=choice.trust_remote_code))
    with memory_errors_as_config_errors(device):
        run = Run.open(run_folder)
        return project(checkpoint, run, sparsities, out, device, overwrite=overwrite, progress=progress)


def run_prune(
    choice: ModelChoice,
    data: DataChoice,
    settings: Settings,
    sparsities: Sequence[Sparsity],
    run_folder: Path,
    out: Path,
    *,
    backend: str | None = None,
    overwrite: bool = False,
    save_every: float,
    progress: Progress,
) -> list[Projected]:
    """Search, then project; the output is looked at before the search begins."""
    folder = resolve_model(choice.name, trust_remote_code=choice.trust_remote_code)
    check_output(Checkpoint.open(folder), (), sparsities, out, overwrite=overwrite, progress=progress)
    run_search(
        choice,
        data,
        settings,
        run_folder,
        backend=backend,
        sparsities=sparsities,
        overwrite=overwrite,
        reuse=True,
        save_every=save_every,
        progress=progress,
    )
    return run_project(choice, run_folder, sparsities, out, backend=backend, overwrite=overwrite, progress=progress)


def run_perplexity(
    choice: ModelChoice,
    data: DataChoice,
    *,
    backend: str | None = None,
    windows: int | None = None,
    progress: Progress,
) -> Perplexity:
    """Perplexity of a checkpoint on a text, by the field's standard protocol."""
    device = _select(backend, progress)
    checkpoint = Checkpoint.open(resolve_model(choice.name, trust_remote_code=choice.trust_remote_code))
    config, _ = load_config_and_tokenizer(checkpoint, choice)
    seq_len = window_length(config, data.seq_len)
    text = load_text(data.source, split=data.split or "test", field=data.field)
    with memory_errors_as_config_errors(device):
        model, tokenizer = load_for_evaluation(
            checkpoint.folder,
            choose_dtype(choice, checkpoint, device, progress),
            device.device_type,
            trust_remote_code=choice.trust_remote_code,
        )
        return perplexity(model, tokenizer, text, seq_len=seq_len, windows=windows, progress=progress)


def report_targets(targets: Sequence[Target], left_out: Sequence[LeftOut], progress: Progress) -> None:
    """Say what will be pruned, and what will not and why."""
    weights = sum(target.size for target in targets)
    progress.note(f"{len(targets)} target layers with {weights / 1e6:.1f} M weights")
    reasons: dict[str, list[str]] = {}
    for part in left_out:
        reasons.setdefault(part.why, []).append(part.name)
    for why, names in reasons.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        progress.note(f"left dense: {names[0]}{others} ({why})")


def _select(name: str | None, progress: Progress) -> Backend:
    backend = Catalogue().select(name)
    hide_broken_extensions()
    progress.note(f"backend {backend.name}")
    return backend
