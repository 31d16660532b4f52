"""The masks of one matrix: from its scores and the sparsities that were decided for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.selection.radix import Selection, kth_largest, kth_largest_many
from unipruning_core.sparsity.forms import Kept, KeptRows, MatrixSparsity, SemiStructured, Unstructured
from unipruning_core.sparsity.parse import Sparsity

if TYPE_CHECKING:
    from unipruning_core.backend import Backend


@dataclass(frozen=True)
class Decided:
    """One sparsity resolved for a model."""

    sparsity: Sparsity
    cuts: Mapping[str, MatrixSparsity]  # by target
    selection: Selection | None = None  # over all matrices, for a ratio of them together, with the ties of this rank
    keep_per_row: int = 0  # weights of each row that are kept before any others


def masks_of(
    score: Tensor,  # (out, in), float32, on the backend's device
    position: int,  # of the target among those of this rank
    name: str,
    decided: Sequence[Decided],
    backend: Backend,
) -> Iterator[Tensor]:  # (out, in), bool, one a sparsity
    """Yield the masks of one matrix; the same passes over it find all of its own thresholds."""
    protected = protect(score, max(decision.keep_per_row for decision in decided), backend)
    keeps = [
        None if decision.selection else _keep(cut, score.numel())
        for decision in decided
        for cut in [decision.cuts[name]]
    ]
    counts = sorted({keep for keep in keeps if keep is not None})
    selections = dict(
        zip(counts, kth_largest_many(lambda: [protected], counts, backend) if counts else [], strict=True)
    )
    for decision, keep in zip(decided, keeps, strict=True):
        if decision.selection:
            yield _threshold_mask(protected, decision.selection, position, backend)
        elif keep is not None:
            yield _threshold_mask(protected, selections[keep], 0, backend)
        else:
            yield _mask(score, decision.cuts[name], backend)


def cut_mask(
    score: Tensor,  # (out, in), float32
    cut: MatrixSparsity,
    backend: Backend,
    keep_per_row: int = 0,
) -> Tensor:  # (out, in), bool
    """Return the mask of one matrix on its own."""
    if (keep := _keep(cut, score.numel())) is None:
        return _mask(score, cut, backend)
    score = protect(score, keep_per_row, backend)
    return _threshold_mask(score, kth_largest(lambda: [score], keep, backend), 0, backend)


def protect(score: Tensor, keep: int, backend: Backend) -> Tensor:  # (out, in), float32
    """Return scores with the ``keep`` largest of each row infinite, so that a threshold keeps them before all others.

    Only for ranking whole matrices: within a group or a row those that are infinite would be tied.
    """
    return score.masked_fill(backend.topk_mask(score, keep), torch.inf) if keep else score


def row_mask(
    score: Tensor,  # (out, in), float32
    keeps: Sequence[int],  # (out,), 0 <= keep <= in
    backend: Backend,
) -> Tensor:  # (out, in), bool
    """Keep the given number of weights in each row; rows with the same number go to the backend together."""
    # assembled on the host, so that a device needs no operation outside the contract
    mask = torch.empty(score.shape, dtype=torch.bool)
    counts = torch.tensor(keeps)
    for keep in sorted(set(keeps)):
        rows = (counts == keep).nonzero().flatten()
        mask[rows] = backend.topk_mask(score.index_select(0, rows.to(score.device)), keep).cpu()
    return mask.to(score.device)


def _keep(cut: MatrixSparsity, numel: int) -> int | None:
    """Return how many weights of a matrix are kept if they are its largest; None for every other form."""
    if isinstance(cut, Kept):
        return cut.weights
    return cut.keep(numel) if isinstance(cut, Unstructured) and cut.scope == "matrix" else None


def _mask(score: Tensor, cut: MatrixSparsity, backend: Backend) -> Tensor:
    """Return the mask of a form that ranks within rows."""
    if isinstance(cut, SemiStructured):
        return backend.nm_mask(score, cut.n, cut.m)
    if isinstance(cut, KeptRows):
        return row_mask(score, cut.weights, backend)
    keep = cut.keep(score.shape[1]) if isinstance(cut, Unstructured) else score.shape[1]
    return backend.topk_mask(score, keep)


def _threshold_mask(score: Tensor, selection: Selection, index: int, backend: Backend) -> Tensor:
    ties = torch.tensor(selection.ties_per_tensor[index], device=score.device)
    return backend.threshold_mask(score, selection.threshold.to(score.device), ties)
