"""The operations of the feedback search in torch and numpy, one tile of rows at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unipruning_cpu.portable_groups import keep_in_groups
from unipruning_cpu.portable_rank import tiles

LARGEST = torch.finfo(torch.float32).max


class FeedbackOperations:
    """The four operations."""

    def feedback_scores(
        self,
        weight: Tensor,
        second: Tensor,
        drift: Tensor | None,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        *,
        learning_rate: float,
        exponent: float,
        pull: float,
    ) -> Tensor:
        score = torch.empty(weight.shape)
        for tile in tiles(weight):
            moved = _drifted(weight, drift, tile, learning_rate)
            u = None if drift is None else drift[tile]
            score[tile] = _score(weight[tile], moved, second[tile], u, (r[tile, None] * p).add_(q), exponent, pull)
        return score

    def mask_weight(
        self,
        weight: Tensor,
        second: Tensor,
        drift: Tensor | None,
        r: Tensor,
        p: Tensor,
        q: Tensor,
        threshold: Tensor,
        sample: Tensor,
        *,
        learning_rate: float,
        exponent: float,
        pull: float,
        first: int,
        stride: int,
        pattern: tuple[int, int] | None,
    ) -> tuple[Tensor, Tensor]:
        rows, columns = weight.shape
        masked = torch.empty(weight.shape, dtype=weight.dtype)
        bits = torch.empty(rows, -(-columns // 8), dtype=torch.uint8)
        for tile in tiles(weight):
            moved = _drifted(weight, drift, tile, learning_rate)
            u = None if drift is None else drift[tile]
            score = _score(weight[tile], moved, second[tile], u, (r[tile, None] * p).add_(q), exponent, pull)
            if pattern is not None:
                in_pattern = torch.empty(score.shape, dtype=torch.bool)
                keep_in_groups(score, *pattern, in_pattern)
                score.masked_fill_(in_pattern, LARGEST)
            # the tile begins so many weights after the first that is drawn, or before it
            begin = tile.start * columns - first
            place = max(0, -(-begin // stride))
            drawn = score.flatten()[place * stride - begin :: stride]
            sample[place : place + len(drawn)] = drawn
            kept = score >= threshold
            bits[tile] = torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little"))
            masked[tile] = torch.where(kept, moved, 0.0)
        return masked, bits

    def remask_weight(self, weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float) -> Tensor:
        masked = torch.empty(weight.shape, dtype=weight.dtype)
        for tile in tiles(weight):
            keep = np.unpackbits(kept[tile].numpy(), axis=1, count=weight.shape[1], bitorder="little")
            moved = _drifted(weight, drift, tile, learning_rate)
            masked[tile] = torch.where(torch.from_numpy(keep).bool(), moved, 0.0)
        return masked

    def feedback_step(
        self, second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float
    ) -> None:
        for tile in tiles(second):
            g, v = gradient[tile].float(), second[tile].float()
            # each product is rounded before it is added: add(alpha) may fuse the two
            v += (g * g).sub_(v).mul_(decay)
            second[tile] = v
            if drift is not None:
                change = (g / v.sqrt()).masked_fill_(v == 0, 0.0).mul_(rate)
                drift[tile] = drift[tile].float().sub_(change)


def _drifted(weight: Tensor, drift: Tensor | None, tile: slice, learning_rate: float) -> Tensor:
    """Return W + eta U of a tile in fp32; the product is rounded before the sum."""
    w = weight[tile].float()
    return w if drift is None else drift[tile].float().mul_(learning_rate).add_(w)


def _score(
    weight: Tensor,  # (rows, cols), any float, W
    moved: Tensor,  # (rows, cols), float32, W + eta U
    second: Tensor,  # (rows, cols), bfloat16, v
    drift: Tensor | None,  # (rows, cols), float16, U
    metric: Tensor,  # (rows, cols), float32; overwritten
    exponent: float,
    pull: float,
) -> Tensor:  # (rows, cols), float32
    """Return the scores of a tile, the products in the order of the definition, so that the same ones overflow."""
    w = weight.float()
    score = second.float().sqrt_().mul_(w.abs())
    if exponent:
        local = metric.mul_(moved.abs())
        if exponent != 1.0:
            # torch's power of an element depends on where it lies in its thread's share
            with np.errstate(over="ignore", invalid="ignore"):
                np.power(local.numpy(), exponent, out=local.numpy())
        score *= local
    if drift is not None:
        score *= drift.float().mul_(pull).mul_(w.sign()).exp_()
    return score
