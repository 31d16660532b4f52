r"""The arithmetic of SparseGPT on one matrix: a method to compare with, which changes the kept weights.

It minimises the squared error of each layer's outputs, whose second derivative is the same for every row,

.. math:: H = \frac{2}{T} \sum_t x_t x_t^T + \lambda I, \qquad
          \lambda = \text{dampening} \cdot \operatorname{mean}(\operatorname{diag} H)

Columns are visited from left to right.  When a weight of column j is pruned, the weights to its right in the row
compensate for it by the optimal brain surgeon's update, with F = {j, j+1, ...} the columns not yet visited:

.. math:: \delta_F = -\frac{w_j}{[H_F^{-1}]_{jj}} [H_F^{-1}]_{:,j}, \qquad \varepsilon_j = \frac{w_j^2}{[H_F^{-1}]_{jj}}

All these inverses are one Cholesky factor: with H^-1 = U^T U, U upper triangular, row j of H_F^-1 is U_jj U_j:.  A
mask is chosen by the least epsilon, for ``block`` columns at a time (for N:M, for a group of M), as they are reached;
columns right of the block are updated once per block.  Source: Frantar and Alistarh, arXiv 2301.00774, Algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import DataError
from unipruning_core.selection.radix import kth_largest
from unipruning_core.sparsity.forms import SemiStructured, Unstructured

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.backend import Backend


def inverse_factor(hessian: Tensor, dampening: float, name: str) -> Tensor:
    """Return U, float32 upper triangular with (H + lambda I)^-1 = U^T U, on the device of ``hessian`` (in, in).

    It is computed in float64 on the host, since some accelerators lack float64 or a Cholesky factorisation.

    Raises:
        DataError: the layer received no tokens, or inputs that are not finite.
    """
    H = hessian.double().cpu()
    mean = H.diagonal().mean()
    if not bool(mean > 0) or not bool(mean.isfinite()):
        raise DataError(f"layer {name!r} received no finite input; calibrate on more text (--samples)")
    H.diagonal().add_(dampening * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor.to(hessian.device)


def sparsify(
    weight: Tensor,  # (out, in), float32, changed in place
    factor: Tensor,  # (in, in), float32, U
    sparsity: Unstructured | SemiStructured,
    backend: Backend,
    block: int,
) -> Tensor:  # (out, in), bool, what is kept
    """Prune one matrix, compensating for the pruned weights; the count of kept weights is exact over the matrix."""
    rows, columns = weight.shape
    if isinstance(sparsity, SemiStructured):
        block = max(1, block // sparsity.m) * sparsity.m
    mask = torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        U = factor[start:stop, start:stop]
        part, kept = weight[:, start:stop].clone(), mask[:, start:stop]
        errors = torch.empty_like(part)
        if not isinstance(sparsity, SemiStructured):
            # counts over the columns so far, so that rounding adds up to the exact count of the matrix
            keep = sparsity.keep(rows * stop) - sparsity.keep(rows * start)
            kept.copy_(_largest(_losses(part, U), keep, backend))
        for column in range(stop - start):
            if isinstance(sparsity, SemiStructured) and column % sparsity.m == 0:
                group = slice(column, column + sparsity.m)
                losses = _losses(part[:, group], U[group, group])
                kept[:, group] = backend.nm_mask(losses, sparsity.n, sparsity.m)
            error = part[:, column].masked_fill(kept[:, column], 0.0) / U[column, column]
            part[:, column + 1 :] -= error[:, None] * U[column, column + 1 :]
            errors[:, column] = error
        weight[:, start:stop] = part.masked_fill_(~kept, 0.0)
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return mask


def _losses(weight: Tensor, factor: Tensor) -> Tensor:  # (out, n), (n, n) -> (out, n) float32, contiguous
    return (weight / factor.diagonal()).square()


def _largest(losses: Tensor, keep: int, backend: Backend) -> Tensor:
    selection = kth_largest(lambda: [losses], keep, backend)
    ties = torch.tensor(selection.ties_per_tensor[0], device=losses.device)
    return backend.threshold_mask(losses, selection.threshold.to(losses.device), ties)
