"""From sparsities and scores to the sparsity of each matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from unipruning_core.distributed.world import ALONE
from unipruning_core.errors import RunError
from unipruning_core.projection.masks import Decided, cut_mask, protect
from unipruning_core.projection.parts import Part
from unipruning_core.selection.radix import Selection
from unipruning_core.selection.ranks import kth_largest_over_ranks
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import Dense, MatrixSparsity, Scope, Unstructured
from unipruning_core.sparsity.mix import Mix
from unipruning_core.sparsity.parse import Sparsity
from unipruning_core.storage.tensorfile import digest_of

if TYPE_CHECKING:
    from unipruning_core.backend import Backend
    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Checkpoint, Target


class Scores(Protocol):
    """The result of a search, as projection reads it."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """The matrices that were searched, in checkpoint order."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the checkpoint that was searched."""

    @property
    def scope(self) -> Scope:
        """The scope of a bare percentage, which is matrix, row or global."""

    @property
    def provenance(self) -> dict[str, object]:
        """Settings and versions, serialisable as JSON."""

    def score(self, name: str) -> Tensor:  # (out, in), float32, finite, on the CPU
        """Return abs(Gamma) of one target, (out, in), float32, finite, on the host."""


def checked_score(scores: Scores, target: Target) -> Tensor:  # (out, in), float32, on the host
    """Return the score of one target.

    Raises:
        RunError: its shape, dtype or values are wrong.
    """
    score = scores.score(target.name)
    if score.shape != target.shape or score.dtype != torch.float32:
        raise RunError(
            f"the score of {target.name!r} should be float32 of shape {target.shape!r}, but is"
            f" {str(score.dtype)!r} of {tuple(score.shape)!r}; search again"
        )
    # NaN is both the smallest and the largest
    if not all(math.isfinite(bound) for bound in score.aminmax()):
        raise RunError(f"the score of {target.name!r} has NaN or infinite values; search again")
    return score


def check_weight(scores: Scores, target: Target, weight: Tensor) -> None:
    """Refuse a weight, as stored, that differs in any bit from the one that was searched, if the scores know it.

    Raises:
        RunError: it does.
    """
    digests: Mapping[str, str] = getattr(scores, "digests", {})
    if target.name in digests and digest_of(weight) != digests[target.name]:
        raise RunError(
            f"the weights of {target.name!r} are not those that were searched; pass the model as it was, or search it"
            " again"
        )


def weights_of_model(scores: Scores, checkpoint: Checkpoint) -> int:
    """Return how many weights the model has: as its search counted, or else the elements of its checkpoint."""
    counted: int | None = getattr(scores, "model_weights", None)
    return counted or sum(math.prod(info.shape) for info in checkpoint.tensors.values())


def decide(
    scores: Scores,
    sparsities: Sequence[Sparsity],
    backend: Backend,
    progress: Progress,
    model_weights: int,
    part: Part | None = None,  # of this rank, which reads no other scores; None for all
    keep_per_row: int = 0,  # weights of each row that are kept before any others
) -> list[Decided]:
    """Decide the sparsity of each matrix; only global ratios and mixes read scores, since they need all of them."""
    part = part or Part.of(scores.targets, ALONE)
    mixes = [sparsity for sparsity in sparsities if isinstance(sparsity, Mix)]
    mixed = dict(zip(mixes, _mixed(scores, mixes, backend, progress, part, keep_per_row), strict=True))
    ranked = _global_selections(scores, sparsities, backend, progress, model_weights, part, keep_per_row)
    decided = []
    for sparsity in sparsities:
        if isinstance(sparsity, Mix):
            decided.append(Decided(sparsity, mixed[sparsity]))
        elif isinstance(sparsity, Budget):
            decided.append(Decided(sparsity, sparsity.cuts(scores.targets)))
        else:
            cuts = dict.fromkeys((target.name for target in scores.targets), sparsity)
            decided.append(Decided(sparsity, cuts, ranked.get(sparsity)))
    return [replace(decision, keep_per_row=keep_per_row) for decision in decided]


def _global_selections(
    scores: Scores,
    sparsities: Sequence[Sparsity],
    backend: Backend,
    progress: Progress,
    model_weights: int,
    part: Part,
    keep_per_row: int,
) -> dict[Sparsity, Selection]:
    """Find one threshold over all matrices for each ratio of them together, or of the model."""
    ratios = [sparsity for sparsity in sparsities if isinstance(sparsity, Unstructured) and sparsity.spans_matrices]
    if not ratios:
        return {}
    total = sum(target.size for target in scores.targets)
    with progress.task("ranking all weights", 3 * len(part.positions), "matrices") as task:

        def stream() -> Iterator[Tensor]:
            for position in part.positions:
                score = checked_score(scores, scores.targets[position]).to(backend.device_type)
                yield protect(score, keep_per_row, backend)
                del score  # which would otherwise be there together with the next one
                task.advance()

        keeps = [sparsity.keep_together(total, model_weights) for sparsity in ratios]
        return dict(zip(ratios, kth_largest_over_ranks(stream, keeps, backend, part.world), strict=True))


def _mixed(
    scores: Scores, mixes: Sequence[Mix], backend: Backend, progress: Progress, part: Part, keep_per_row: int
) -> Iterator[dict[str, MatrixSparsity]]:
    """Yield the forms that each mix chooses, reading the scores once for all of them."""
    if not mixes:
        return
    losses: list[list[list[float]]] = [[] for _ in mixes]
    with progress.task("comparing forms", len(part.positions), "matrices") as task:
        for position in part.positions:
            target = scores.targets[position]
            score = checked_score(scores, target).to(backend.device_type)
            loss_of: dict[MatrixSparsity, float] = {
                cut: _lost(score, cut, backend, keep_per_row)
                for cut in dict.fromkeys(choice for mix in mixes for choice in mix.fitting(target))
            }
            for mix, by_target in zip(mixes, losses, strict=True):
                by_target.append([loss_of[cut] for cut in mix.fitting(target)])
            task.advance()
    by_rank = part.world.each(losses)
    for number, mix in enumerate(mixes):
        yield mix.choose(scores.targets, [lost for of_rank in by_rank for lost in of_rank[number]])


def _lost(score: Tensor, cut: MatrixSparsity, backend: Backend, keep_per_row: int) -> float:
    """Return the sum of score**2 over the pruned weights, in float64 on the host, so that every device agrees."""
    if isinstance(cut, Dense):
        return 0.0
    pruned = score.masked_fill(cut_mask(score, cut, backend, keep_per_row), 0.0).cpu().numpy().astype(np.float64)
    return float(np.square(pruned).sum())
