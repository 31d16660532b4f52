"""Projection: from a checkpoint, scores and a sparsity to a pruned checkpoint, file to file, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.errors import CheckpointError, OutputError, RunError
from unipruning_core.progress import Progress
from unipruning_core.projection.decide import Scores, check_weight, checked_score, decide, masks_of
from unipruning_core.projection.output import INTEGERS, PrunedFolder, is_pruned_checkpoint
from unipruning_core.projection.report import REPORT_FILE
from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import Sparsity, check_distinct
from unipruning_core.storage.checkpoint import LEADS_OUTSIDE, Checkpoint, Target
from unipruning_core.storage.staging import check_space, clean_up, staged

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Projected:
    """One pruned checkpoint that was written."""

    path: Path
    sparsity: Sparsity
    pruned: int  # weights that the masks prune
    total: int  # weights of all targets
    zero_fraction: float  # of the targets' weights in the file


def project(
    checkpoint: Checkpoint,
    scores: Scores,
    sparsities: Sequence[Sparsity],
    out: str | Path,
    backend: Backend,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Projected]:
    """Write one pruned checkpoint per sparsity: ``out`` itself for one, ``out/<slug>`` for several.

    Each target is read once, with one score and one mask in memory; global ratios read the scores three more times,
    and mixes once more.  Everything is checked before anything is written, and ``out`` appears whole or not at all.

    Raises:
        ConfigError: a sparsity occurs twice, does not divide a layer, or does not fit the model.
        RunError: the scores belong to another model or other weights, or have a wrong shape, dtype or value.
        CheckpointError: a target is of a type that cannot be pruned, or cannot be read.
        OutputError: the output folder is in use, or does not fit on its disk.
    """
    progress = progress or Progress()
    _check_scores(checkpoint, scores)
    for sparsity in sparsities:
        sparsity.check(scores.targets)
    out = Path(out).resolve()
    check_output(checkpoint, scores.targets, sparsities, out, overwrite=overwrite, progress=progress)
    slugs = _slugs(sparsities)
    sparsities = [with_scope(sparsity, scores, progress) for sparsity in sparsities]
    files, left_out = _files(checkpoint)
    if links := [name for name, reason in left_out.items() if reason == LEADS_OUTSIDE]:
        more = f" and {len(links) - 1} more" if len(links) > 1 else ""
        progress.note(f"not copied: {links[0]}{more} ({LEADS_OUTSIDE})")
    size = _size(checkpoint, files)
    decided = decide(scores, sparsities, backend, progress)

    with staged(out, replace=overwrite) as folder, ExitStack() as stack:
        outputs = [
            stack.enter_context(
                PrunedFolder(folder / slug, decision.sparsity, checkpoint, scores.targets, decision.cuts)
            )
            for slug, decision in zip(slugs, decided, strict=True)
        ]
        with progress.task("copying", size * len(outputs), "B") as task:
            for output in outputs:
                output.copy(files, task)
        with progress.task("pruning", len(scores.targets), "matrix") as task:
            for position, target in enumerate(scores.targets):
                score, weight = checked_score(scores, target, backend), checkpoint.read(target.name)
                check_weight(scores, target, weight)
                nonzero = int(score.count_nonzero())
                masks = masks_of(score, position, target.name, decided, backend)
                for output, mask in zip(outputs, masks, strict=True):
                    output.prune(target, weight, mask.cpu(), nonzero)
                task.advance()
        for output in outputs:
            output.write_report(
                backend=backend.name,
                model_fingerprint=scores.fingerprint,
                provenance=scores.provenance,
                left_out=left_out,
            )
    for output in outputs:
        _note_ties(output, progress)
    return [
        Projected(
            out / slug, output.sparsity, overall.total - overall.kept, overall.total, overall.zeros / overall.total
        )
        for slug, output in zip(slugs, outputs, strict=True)
        for overall in [output.overall]
    ]


def with_scope(sparsity: Sparsity, scores: Scores, progress: Progress) -> Sparsity:
    """Give a bare percentage the scope of the scores."""
    if not isinstance(sparsity, Unstructured) or (scoped := sparsity.within(scores.scope)) == sparsity:
        return sparsity
    if scoped.scope == "global":
        progress.note(
            f"{sparsity} applies to all matrices together, since this search's scores are comparable between them; "
            f"{sparsity}/matrix applies to each"
        )
    return scoped


def check_output(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    sparsities: Sequence[Sparsity],
    out: Path,
    *,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Refuse an output that could not be written, after removing what killed processes left beside it.

    Raises:
        ConfigError: a sparsity occurs twice.
        OutputError: the output is in use, overlaps the model, or does not fit on its disk.
    """
    check_distinct(sparsities)
    out = out.resolve()
    _check_apart(checkpoint.folder.resolve(), out)
    clean_up(out, progress)
    _check_free(out, _slugs(sparsities), overwrite)
    size = _size(checkpoint, _files(checkpoint)[0])
    check_space(out, len(sparsities) * (size + _own_bytes(targets)))


def _check_scores(checkpoint: Checkpoint, scores: Scores) -> None:
    if scores.fingerprint != checkpoint.fingerprint():
        raise RunError(
            f"the run was made from another model than {str(checkpoint.folder)!r}; pass the model it searched"
        )
    if not scores.targets:
        raise RunError("the run has no targets, so there is nothing to prune; search again")
    seen: set[str] = set()
    for target in scores.targets:
        info = checkpoint.tensors.get(target.name)
        if info is None or target.name in seen:
            fault = "is not in the checkpoint" if info is None else "occurs twice"
            raise RunError(f"target {target.name!r} of the run {fault}; search again")
        if info.shape != target.stored_shape:
            raise RunError(
                f"target {target.name!r} has the shape {info.shape!r} in the checkpoint, but {target.stored_shape!r}"
                " in the run; search again"
            )
        if not info.dtype.is_floating_point or info.dtype.itemsize not in INTEGERS:
            raise CheckpointError(
                f"target {target.name!r} is stored as {str(info.dtype)!r}, which is quantised;"
                " use a checkpoint in bfloat16, float16 or float32"
            )
        seen.add(target.name)
    try:
        json.dumps(scores.provenance, allow_nan=False)
    # checked now, not after the last matrix
    except (TypeError, ValueError) as error:
        raise RunError(f"the provenance of the run cannot be written as JSON: {error}; search again") from error


def _slugs(sparsities: Sequence[Sparsity]) -> list[str]:
    return [""] if len(sparsities) == 1 else [sparsity.slug for sparsity in sparsities]


def _size(checkpoint: Checkpoint, files: Iterable[Path]) -> int:
    return sum((checkpoint.folder / path).stat().st_size for path in files)


def _check_apart(model: Path, out: Path) -> None:
    if out == model or out in model.parents or model in out.parents:
        raise OutputError(f"output folder {str(out)!r} and model folder {str(model)!r} overlap; choose another output")


def _check_free(out: Path, slugs: list[str], overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"output {str(out)!r} is a file; choose a folder that does not exist yet")
    present = sorted(out.iterdir())
    if not present:
        return
    if not overwrite:
        raise OutputError(f"output folder {str(out)!r} is not empty; choose another, or pass --overwrite")
    foreign = [path for path in present if path.name not in slugs or not is_pruned_checkpoint(path)]
    if slugs == [""]:
        foreign = [] if is_pruned_checkpoint(out) else [out]
    if foreign:
        raise OutputError(
            f"--overwrite only replaces checkpoints pruned to the same sparsities, and {str(foreign[0])!r} is not one;"
            " choose another output folder"
        )


def _files(checkpoint: Checkpoint) -> tuple[list[Path], dict[str, str]]:
    """Return the files to copy, shards first, and those left out, with the reason."""
    files, left_out = checkpoint.files_to_copy()
    if (report := Path(REPORT_FILE)) in files:
        files.remove(report)
        left_out[REPORT_FILE] = "the report of an earlier pruning"
    return [Path(shard.name) for shard in checkpoint.shards] + files, left_out


def _own_bytes(targets: Iterable[Target]) -> int:
    """Estimate the mask file, at most one bit per weight, and the report, with room for names and numbers."""
    return 65536 + sum(-(-target.size // 8) + 1024 for target in targets)


def _note_ties(output: PrunedFolder, progress: Progress) -> None:
    tied = [name for name, layer in output.layers.items() if layer.tied]
    if tied:
        more = f" and {len(tied) - NAMES_SHOWN} more" if len(tied) > NAMES_SHOWN else ""
        progress.note(
            f"{output.sparsity}: {len(tied)} of {len(output.layers)} matrices have fewer scores above zero than weights"
            f" to keep, so their position decides: {', '.join(tied[:NAMES_SHOWN])}{more}"
        )
