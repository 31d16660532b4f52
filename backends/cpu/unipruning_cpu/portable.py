"""The operations in torch and numpy, used without a compiler: in place, one tile of rows at a time, so that
temporaries stay in the cache."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softshrink

from unipruning_cpu.portable_adamw import adamw_step
from unipruning_cpu.portable_feedback import FeedbackOperations
from unipruning_cpu.portable_groups import keep_in_groups, keep_largest
from unipruning_cpu.portable_prox import prox_groups
from unipruning_cpu.portable_rank import Bracket, keys, tiles
from unipruning_kernels.reference import DIGIT_BITS

EVERY = slice(None)


class PortableOperations(FeedbackOperations):
    """All thirteen operations."""

    def accumulate_sumsq(self, x: Tensor, out: Tensor) -> None:
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for tile in tiles(x):
            square = x[tile].float()
            total += (square * square).sum(dim=0)
        out += total.float()

    def abs_sums(self, weight: Tensor, input_factors: Tensor, output_factors: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.empty(len(input_factors), len(weight))
        columns = torch.zeros(len(output_factors), weight.shape[1], dtype=torch.float64)
        for tile in tiles(weight):
            magnitude = weight[tile].float().abs()
            # one factor at a time: a matrix product's order of additions may change with the number of threads
            for sums, factor in zip(rows, input_factors, strict=True):
                sums[tile] = (magnitude * factor).sum(dim=1)
            for total, factor in zip(columns, output_factors, strict=True):
                total += (magnitude * factor[tile, None]).sum(dim=0)
        return rows, columns.float()

    def mirror_step(
        self,
        dual: Tensor,
        weight: Tensor,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        threshold: Tensor,
        *,
        step_size: float,
        rank: int | None,
        gradient: Tensor | None = None,
        phi: float = 0.0,
    ) -> None:
        old = float(threshold)

        def stepped(v: Tensor, rows: slice, columns: slice = EVERY) -> Tensor:
            w = weight[rows, columns].float()
            # each product is rounded before it is added: add(alpha) may fuse the two
            saliency = (r[rows, None] * p[columns]).add_(q[columns]).mul_(w.abs())
            if gradient is not None:
                saliency += w.mul(gradient[rows, columns].float()).square_().mul_(phi)
            # torch shrinks by no infinite threshold
            gamma = softshrink(v, old) if old < torch.inf else v - v
            return saliency.sub_(gamma).mul_(step_size).add_(v)

        bracket = Bracket.around(rank, dual, stepped) if rank else None
        for tile in tiles(dual):
            v = dual[tile]
            v.copy_(stepped(v, tile))
            if bracket:
                bracket.add(keys(v).ravel())
        if bracket:
            threshold.fill_(bracket.value(dual))
        elif rank == 0:
            threshold.zero_()

    def magnitude_histogram(self, score: Tensor, prefix: Tensor, level: int, counts: Tensor) -> None:
        below, bits = sum(DIGIT_BITS[level + 1 :]), DIGIT_BITS[level]
        digits, added = int(prefix), np.zeros(1 << bits, dtype=np.int64)
        for tile in tiles(score):
            key = keys(score[tile]).ravel()
            if level:
                key = key[(key >> (below + bits)) == digits]
            added += np.bincount((key >> below) & ((1 << bits) - 1), minlength=len(added))
        counts += torch.from_numpy(added)

    def threshold_mask(self, score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
        mask, left = torch.empty(score.shape, dtype=torch.bool), int(ties)
        for tile in tiles(score):
            magnitude = score[tile].abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)
            torch.gt(magnitude, threshold, out=mask[tile])
            if left > 0:
                equal = (magnitude == threshold).flatten().nonzero()[:left, 0]
                mask[tile].view(-1)[equal] = True
                left -= len(equal)
        return mask

    def topk_mask(self, score: Tensor, keep: int) -> Tensor:
        mask = torch.empty(score.shape, dtype=torch.bool)
        if keep in (0, score.shape[1]):
            return mask.fill_(keep > 0)
        for tile in tiles(score):
            keep_largest(keys(score[tile]), keep, mask[tile].numpy())
        return mask

    def nm_mask(self, score: Tensor, n: int, m: int) -> Tensor:
        mask = torch.empty(score.shape, dtype=torch.bool)
        for tile in tiles(score):
            keep_in_groups(score[tile], n, m, mask[tile])
        return mask

    def nm_prox(self, weight: Tensor, strength: float, n: int, m: int) -> None:
        for tile in tiles(weight):
            groups = weight[tile].float().reshape(-1, m)
            weight[tile] = prox_groups(groups, strength, n).view(-1, weight.shape[1])

    adamw_step = staticmethod(adamw_step)
