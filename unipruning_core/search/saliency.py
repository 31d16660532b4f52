r"""Local saliency: every metric as three vectors, so that S is never formed.

.. math:: S_{ij} \propto |W_{ij}| (r_i p_j + q_j), \qquad \operatorname{mean}(S) = 1

=========== ================================= =========== =========================================
metric      r_i                               p_j         q_j
=========== ================================= =========== =========================================
magnitude   0                                 0           1
wanda       0                                 0           n_j
ria         1 / sum_j abs(W_ij)               n_j^0.5     n_j^0.5 / sum_i abs(W_ij)
stochria    as ria, sums over random subsets  n_j^0.7     n_j^0.7 / (sum over a subset)
=========== ================================= =========== =========================================

n_j is the root mean square of input feature j.  Sources: Wanda (arXiv 2306.11695), RIA (Zhang et al., ICLR 2024),
stochRIA (Yi and Richtárik, arXiv 2501.18980).  A subset holds ``SUBSET_FRACTION * min(out, in)`` indices, the same for
all rows (all columns) of a matrix, and is drawn afresh at every step by a seeded generator on the host, so every device
sees the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unipruning_core.search.metrics import SUBSET_FRACTION

if TYPE_CHECKING:
    from typing import TypeAlias

    from torch import Tensor

    from unipruning_core.backend import Backend
    from unipruning_core.search.metrics import Metric

    Sums: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Factors:
    """S as vectors, already divided by its mean."""

    r: Tensor  # (out,), float32
    p: Tensor  # (in,), float32
    q: Tensor  # (in,), float32


def saliency_factors(
    metric: Metric,
    weight: Tensor,  # (out, in), any float
    input_norm: Tensor,  # (in,), float32, n
    backend: Backend,
    generator: torch.Generator,  # on the host; used only by a metric with random subsets
    sums: Sums | None = None,  # of this weight and norm, if already known
) -> Factors:
    """Return the vectors of ``metric`` for one matrix, with mean(S) = 1 (S = 0 if there is nothing to normalise)."""
    feature, rows, columns, weighted_rows = sums or whole_sums(metric, weight, input_norm, backend)
    if metric.relative:
        p = feature
        if metric.random_subsets:
            rows, subset_columns = _subset_sums(weight, backend, generator)
        else:
            subset_columns = columns
        r, q = _reciprocal(rows), feature * _reciprocal(subset_columns)
    else:
        p, r, q = torch.zeros_like(feature), torch.zeros_like(rows), feature
    # sum(S) = sum_i r_i sum_j |W_ij| p_j + sum_j q_j sum_i |W_ij|
    scale = _reciprocal((torch.dot(r, weighted_rows) + torch.dot(q, columns)) / weight.numel())
    return Factors(r * scale, p, q * scale)


def whole_sums(metric: Metric, weight: Tensor, input_norm: Tensor, backend: Backend) -> Sums:
    """Return the metric's power of n, (in,), and the ``abs_sums`` with it."""
    feature = input_norm.pow(metric.exponent) if metric.uses_inputs else torch.ones_like(input_norm)
    return feature, *backend.abs_sums(weight, feature)


def _subset_sums(weight: Tensor, backend: Backend, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    size = max(1, round(SUBSET_FRACTION * min(weight.shape)))
    columns, rows = (
        torch.randperm(length, generator=generator)[:size].to(weight.device) for length in weight.shape[::-1]
    )
    part = weight.index_select(1, columns)
    row_sums = backend.abs_sums(part, part.new_ones(size, dtype=torch.float32))[0]
    part = weight.index_select(0, rows)
    return row_sums, backend.abs_sums(part, part.new_ones(part.shape[1], dtype=torch.float32))[1]


def _reciprocal(x: Tensor) -> Tensor:
    # a row or column of zeros has no relative importance, not an infinite one
    return torch.where(x > 0, x.reciprocal(), torch.zeros_like(x))
