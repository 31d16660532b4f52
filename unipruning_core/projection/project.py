"""Projection: from a checkpoint, scores and a sparsity to a pruned checkpoint, file to file, without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.distributed.world import ALONE
from unipruning_core.frames import Tabular
from unipruning_core.progress import Progress
from unipruning_core.projection.check import check_scores
from unipruning_core.projection.counts import nonzero
from unipruning_core.projection.decide import Scores, check_weight, checked_score, decide, weights_of_model
from unipruning_core.projection.masks import Decided, masks_of
from unipruning_core.projection.output import PrunedFolder
from unipruning_core.projection.parts import Part
from unipruning_core.projection.place import (
    Output,
    check_room,
    claimed_output,
    files_of,
    filled_by_all,
    size_of,
    slugs_of,
)
from unipruning_core.projection.report import KEEP_PER_ROW, NOT_COPIED, REVISION
from unipruning_core.projection.side_work import meanwhile, one_behind
from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import Sparsity, check_fits
from unipruning_core.sparsity.per_row import check_rows_fit
from unipruning_core.storage.beside import LEADS_OUTSIDE
from unipruning_core.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from threading import Event

    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.distributed.world import World
    from unipruning_core.storage.checkpoint import Target

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Projected(Tabular):
    """One pruned checkpoint that was written; a row of a table."""

    path: Path
    sparsity: Sparsity
    pruned: int  #: weights that the masks prune
    total: int  #: weights of all targets
    zero_fraction: float  #: of the targets' weights in the file
    model_weights: int  #: of the whole model
    empty_rows: int = 0  #: output rows that the masks remove whole
    empty_columns: int = 0  #: and input columns

    def records(self) -> list[dict[str, Any]]:
        return [
            {**vars(self), "path": str(self.path), "sparsity": str(self.sparsity), "ratio": self.pruned / self.total}
        ]

    @classmethod
    def of(cls, path: Path, output: PrunedFolder) -> Projected:
        """Return what was written to an output folder, which is now at ``path``."""
        all_ = output.overall
        counts = (all_.total - all_.kept, all_.total, all_.zeros / all_.total, output.model_weights)
        return cls(path, output.sparsity, *counts, all_.empty.rows, all_.empty.columns)


def project(
    checkpoint: Checkpoint,
    scores: Scores,
    sparsities: Sequence[Sparsity],
    out: str | Path,
    backend: Backend,
    *,
    keep_per_row: int = 0,  # weights that every output row keeps, of the same total
    overwrite: bool = False,
    progress: Progress | None = None,
    output: Output | None = None,  # where the caller has claimed it already
    apart: Iterable[tuple[str, Path]] = (),  # what else is read, and must not overlap
    world: World = ALONE,  # the ranks, which see the same folders; of each what follows is the same
    check: Callable[[Event], None] | None = None,  # of what is read, made in a thread meanwhile; it stops at the event
) -> list[Projected]:
    """Write one pruned checkpoint per sparsity: ``out`` itself for one, ``out/<slug>`` for several.

    Each target is read once, with one score and one mask in memory; global ratios read the scores three more times,
    and mixes once more.  Everything is checked before anything is written, and ``out`` appears whole or not at all.

    Raises:
        ConfigError: a sparsity occurs twice, does not divide a layer, does not fit the model, or leaves fewer weights
            than its rows are to keep.
        RunError: the scores belong to another model or other weights, or have a wrong shape, dtype or value.
        CheckpointError: a target is of a type that cannot be pruned, or cannot be read.
        OutputError: the output folder is in use, or does not fit on its disk.
        RanksError: another rank failed, or has been given other scores or sparsities.
    """
    progress = progress or Progress()
    check_scores(checkpoint, scores)
    for sparsity in sparsities:
        check_fits(sparsity, scores.targets, weights_of_model(scores, checkpoint))
    scoped = [with_scope(sparsity, scores, progress) for sparsity in sparsities]
    for sparsity in scoped:
        check_rows_fit(keep_per_row, sparsity, scores.targets, weights_of_model(scores, checkpoint))
    _agree(scores, sparsities, keep_per_row, world)

    def claim() -> AbstractContextManager[Output]:
        return claimed_output(
            checkpoint, scores.targets, sparsities, Path(out), overwrite=overwrite, progress=progress, apart=apart
        )

    with world.lead_holds(lambda: nullcontext(output) if output else claim()) as place, meanwhile(check) as look:
        folders = dict(zip(slugs_of(sparsities), scoped, strict=True))
        return _project(checkpoint, scores, folders, keep_per_row, place, backend, progress, world, look)


def _project(
    checkpoint: Checkpoint,
    scores: Scores,
    folders: Mapping[str, Sparsity],  # by what each is called below the output
    keep_per_row: int,
    place: Output | None,
    backend: Backend,
    progress: Progress,
    world: World,
    look: Callable[[], None],
) -> list[Projected]:
    slugs, sparsities = list(folders), list(folders.values())
    files, not_copied = files_of(checkpoint)
    if links := [name for name, reason in not_copied.items() if reason == LEADS_OUTSIDE]:
        more = f" and {len(links) - 1} more" if len(links) > 1 else ""
        progress.note(f"not copied: {links[0]}{more} ({LEADS_OUTSIDE})")
    about: dict[str, object] = {
        "backend": backend.name,
        "model_fingerprint": scores.fingerprint,
        **({REVISION: revision} if (revision := checkpoint.revision) else {}),
        "provenance": scores.provenance,
        NOT_COPIED: not_copied,
        KEEP_PER_ROW: keep_per_row,
    }

    def check_place() -> None:
        if place is not None:
            check_room(place.folder, checkpoint, files, scores.targets, len(sparsities))
            place.check_same([{"sparsity": str(sparsity), **about} for sparsity in sparsities])

    world.lead_does(check_place)
    part = Part.of(scores.targets, world)
    model_weights = weights_of_model(scores, checkpoint)
    decided = decide(scores, sparsities, backend, progress, model_weights, part, keep_per_row)

    with filled_by_all(place, world) as (folder, out), ExitStack() as stack:
        outputs = [
            stack.enter_context(
                PrunedFolder(
                    *(folder / slug, decision.sparsity, checkpoint, scores.targets, decision.cuts, model_weights, part)
                )
            )
            for slug, decision in zip(slugs, decided, strict=True)
        ]
        copied = part.files(files)
        with progress.task("copying", size_of(checkpoint, copied) * len(outputs), "B") as task:
            for output in outputs:
                output.copy(copied, task)
        world.each(None)  # each rank writes into what others have copied
        with progress.task("pruning", len(part.positions), "matrices") as task, one_behind() as behind:
            for number, position in enumerate(part.positions):
                look()
                target = scores.targets[position]
                # read once, and only after the matrix before is written
                weight = cache(partial(_searched_weight, scores, checkpoint, target))
                masks = _counted_masks(scores, number, target, decided, backend)
                for output, (mask, count) in zip(outputs, masks, strict=True):
                    behind(partial(_prune, output, target, weight, mask, count))
                del weight, masks, mask  # which would otherwise be there together with the next ones
                task.advance()
        part.sync(folder)
        for output in outputs:
            output.gather()
            if world.leads:
                output.write_report(**about)
    for output in outputs:
        _note_ties(output, progress)
        for note in output.overall.empty.notes(output.sparsity, scores.targets):
            progress.note(note)
    return [Projected.of(out / slug, output) for slug, output in zip(slugs, outputs, strict=True)]


def _agree(scores: Scores, sparsities: Sequence[Sparsity], keep_per_row: int, world: World) -> None:
    """Refuse to go on where ranks have been given different things.

    Raises:
        RanksError: they have.
    """
    found = json.dumps(scores.provenance, sort_keys=True), repr(sparsities)
    digests = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in found]
    world.agree(
        {"model": scores.fingerprint[:12], "search": digests[0], "sparsity": digests[1], "--keep-per-row": keep_per_row}
    )


def _counted_masks(
    scores: Scores, position: int, target: Target, decided: Sequence[Decided], backend: Backend
) -> Iterator[tuple[Tensor, int]]:
    """Yield the masks of one matrix, one a sparsity, on the host, with the number of its scores that are not zero."""
    score = checked_score(scores, target)
    count = nonzero(score)
    score = score.to(backend.device_type)
    for mask in masks_of(score, position, target.name, decided, backend):
        yield mask.cpu(), count


def _searched_weight(scores: Scores, checkpoint: Checkpoint, target: Target) -> Tensor:
    weight = checkpoint.read_target(target)
    check_weight(scores, target, weight)
    return weight


def _prune(output: PrunedFolder, target: Target, weight: Callable[[], Tensor], mask: Tensor, count: int) -> None:
    output.prune(target, weight(), mask, count)


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


def _note_ties(output: PrunedFolder, progress: Progress) -> None:
    tied = [name for name, layer in output.layers.items() if layer.tied]
    if tied:
        more = f" and {len(tied) - NAMES_SHOWN} more" if len(tied) > NAMES_SHOWN else ""
        progress.note(
            f"{output.sparsity}: {len(tied)} of {len(output.layers)} matrices have fewer scores above zero than weights"
            f" to keep, so their position decides: {', '.join(tied[:NAMES_SHOWN])}{more}"
        )
