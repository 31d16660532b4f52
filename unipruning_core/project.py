"""Projection: a checkpoint, scores and a sparsity give a pruned checkpoint, file to file, with no model built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from unipruning_core.checkpoint import Checkpoint, Target
from unipruning_core.errors import CheckpointError, OutputError, RunError
from unipruning_core.masks import packed_bytes
from unipruning_core.progress import Progress
from unipruning_core.pruned import INTEGERS, REPORT_FILE, PrunedFolder, is_pruned_checkpoint
from unipruning_core.select import Selection, kth_largest_many
from unipruning_core.sparsity import SemiStructured, Sparsity, Unstructured, check_distinct
from unipruning_core.staging import check_space, clean_up, staged

if TYPE_CHECKING:
    from unipruning_core.backend import Backend

NAMES_SHOWN = 5


class Scores(Protocol):
    """What a search leaves behind."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The layers that were searched, in checkpoint order."""

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint that was searched."""

    @property
    def provenance(self) -> dict[str, object]:
        """Settings and versions, as JSON can hold them."""

    def score(self, name: str) -> Tensor:  # (out, in), float32, finite, on the CPU
        """abs(Gamma) of one target."""


@dataclass(frozen=True)
class Projected:
    """One pruned checkpoint that was written."""

    path: Path
    sparsity: Sparsity
    pruned: int  # weights that the masks drop
    total: int  # weights of all targets
    zero_share: float  # of the targets' weights in the file


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
    """Write one pruned checkpoint a sparsity: ``out`` itself for one, ``out/<slug>`` for several.

    Each target is read once, beside one score and one mask; a budget over all matrices reads the scores three times
    more.  Nothing is written before all is checked, and ``out`` appears whole or not at all.

    Raises:
        ConfigError: a sparsity occurs twice or does not divide a layer.
        RunError: the scores belong to another model, or are not what they should be.
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
    files, left_out = _files(checkpoint)
    size = _size(checkpoint, files)
    budgets = _global_selections(scores, sparsities, backend, progress)

    with staged(out, replace=overwrite) as folder, ExitStack() as stack:
        outputs = [
            stack.enter_context(PrunedFolder(folder / slug, sparsity, checkpoint, scores.targets))
            for slug, sparsity in zip(slugs, sparsities, strict=True)
        ]
        with progress.task("copying", size * len(outputs), "B") as task:
            for output in outputs:
                output.copy(files, task)
        with progress.task("pruning", len(scores.targets), "matrix") as task:
            for position, target in enumerate(scores.targets):
                score, weight = _score(scores, target, backend), checkpoint.read(target.name)
                nonzero = int(score.count_nonzero())
                masks = _masks(score, position, sparsities, budgets, backend)
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
        Projected(out / slug, output.sparsity, whole.total - whole.kept, whole.total, whole.zeros / whole.total)
        for slug, output in zip(slugs, outputs, strict=True)
        for whole in [output.overall]
    ]


def check_output(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    sparsities: Sequence[Sparsity],
    out: Path,
    *,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Refuse an output that could not be written; what killed processes left beside it is cleared away.

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
    check_space(out, sum(size + _own_bytes(targets, sparsity) for sparsity in sparsities))


def _check_scores(checkpoint: Checkpoint, scores: Scores) -> None:
    if scores.fingerprint != checkpoint.fingerprint():
        raise RunError(
            f"the run was made from another model than {str(checkpoint.folder)!r}; give the model it searched"
        )
    if not scores.targets:
        raise RunError("the run has no target, so there is nothing to prune; search again")
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
                " take a checkpoint in bfloat16, float16 or float32"
            )
        seen.add(target.name)
    try:
        json.dumps(scores.provenance, allow_nan=False)
    # found now, not after the last matrix
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
        raise OutputError(f"output folder {str(out)!r} is not empty; choose another, or ask to overwrite it")
    foreign = [path for path in present if path.name not in slugs or not is_pruned_checkpoint(path)]
    if slugs == [""]:
        foreign = [] if is_pruned_checkpoint(out) else [out]
    if foreign:
        raise OutputError(
            f"only a pruned checkpoint of the same sparsity list is overwritten, but {str(foreign[0])!r} is none;"
            " choose another output folder"
        )


def _files(checkpoint: Checkpoint) -> tuple[list[Path], dict[str, str]]:
    """What is copied, shards first, and what is not, with the reason."""
    files, left_out = checkpoint.files_to_copy()
    if (report := Path(REPORT_FILE)) in files:
        files.remove(report)
        left_out[REPORT_FILE] = "the report of an earlier pruning"
    return [Path(shard.name) for shard in checkpoint.shards] + files, left_out


def _own_bytes(targets: Iterable[Target], sparsity: Sparsity) -> int:
    """Of the mask file and the report, rounded up generously for names and numbers."""
    return 65536 + sum(packed_bytes(target.shape, sparsity) + 1024 for target in targets)


def _score(scores: Scores, target: Target, backend: Backend) -> Tensor:
    score = scores.score(target.name)
    if score.shape != target.shape or score.dtype != torch.float32:
        raise RunError(
            f"the score of {target.name!r} should be float32 of shape {target.shape!r}, but is"
            f" {str(score.dtype)!r} of {tuple(score.shape)!r}; search again"
        )
    score = score.to(backend.device_type)
    if not bool(score.isfinite().all()):
        raise RunError(f"the score of {target.name!r} has NaN or infinite values; search again")
    return score


def _global_selections(
    scores: Scores, sparsities: Sequence[Sparsity], backend: Backend, progress: Progress
) -> dict[Sparsity, Selection]:
    """One threshold over all matrices for each sparsity that has one budget for them all."""
    wanted = [sparsity for sparsity in sparsities if isinstance(sparsity, Unstructured) and sparsity.scope == "global"]
    if not wanted:
        return {}
    total = sum(target.shape[0] * target.shape[1] for target in scores.targets)
    with progress.task("ranking all weights", 3 * len(scores.targets), "matrix") as task:

        def stream() -> Iterator[Tensor]:
            for target in scores.targets:
                yield _score(scores, target, backend)
                task.advance()

        return dict(zip(wanted, kth_largest_many(stream, [s.keep(total) for s in wanted], backend), strict=True))


def _masks(
    score: Tensor,  # (out, in), float32, on the backend's device
    position: int,  # of the target among the targets
    sparsities: Sequence[Sparsity],
    budgets: Mapping[Sparsity, Selection],
    backend: Backend,
) -> Iterator[Tensor]:  # (out, in), bool, one a sparsity
    per_matrix = [s for s in sparsities if isinstance(s, Unstructured) and s.scope == "matrix"]
    keeps = [sparsity.keep(score.numel()) for sparsity in per_matrix]
    own = dict(zip(per_matrix, kth_largest_many(lambda: [score], keeps, backend) if keeps else [], strict=True))
    for sparsity in sparsities:
        if isinstance(sparsity, SemiStructured):
            yield backend.nm_mask(score, sparsity.n, sparsity.m)
        elif sparsity.scope == "row":
            yield backend.topk_mask(score, sparsity.keep(score.shape[1]))
        else:
            selection, index = (own[sparsity], 0) if sparsity in own else (budgets[sparsity], position)
            ties = torch.tensor(selection.ties_per_tensor[index], device=score.device)
            yield backend.threshold_mask(score, selection.threshold.to(score.device), ties)


def _note_ties(output: PrunedFolder, progress: Progress) -> None:
    tied = [name for name, layer in output.layers.items() if layer.tied]
    if tied:
        more = f" and {len(tied) - NAMES_SHOWN} more" if len(tied) > NAMES_SHOWN else ""
        progress.note(
            f"{output.sparsity}: {len(tied)} of {len(output.layers)} matrices have fewer scores above zero than weights"
            f" to keep, so position decides: {', '.join(tied[:NAMES_SHOWN])}{more}"
        )
