"""The feedback search: scores, masked weights and the step of their state, a few rows at a time.

Scores may round in any way, W + eta U in one only: its product and its sum are two operators, for one that adds a
multiple may round once.  Numbers that multiply 16-bit tensors are tensors of one dimension, so that products are fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_npu.chunks import row_chunks
from unipruning_npu.masks import nm_mask

PROTECTED = torch.finfo(torch.float32).max  # the score of a weight that the pattern keeps


def feedback_scores(
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
    score = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    if not len(weight):
        return score
    rate, zero = (_number(value, weight) for value in (learning_rate, 0.0))
    for rows in row_chunks(weight, 13):
        w, u = weight[rows], None if drift is None else drift[rows]
        local = _local(_drifted(w, u, rate), r[rows], p, q, exponent)
        _score(w, second[rows], u, local, pull, zero, score[rows])
    return score


def mask_weight(
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
    masked = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    bits = torch.empty(len(weight), -(-weight.shape[1] // 8), dtype=torch.uint8, device=weight.device)
    if not len(weight):
        return masked, bits
    rate, zero = (_number(value, weight) for value in (learning_rate, 0.0))
    nothing, powers = weight.new_zeros(()), _powers(weight, torch.float16)
    # within a chunk the pattern takes 8 + 8 m, too
    for rows in row_chunks(weight, 18 if pattern is None else 18 + 8 * pattern[1]):
        w, u = weight[rows], None if drift is None else drift[rows]
        moved = _drifted(w, u, rate)
        masked[rows] = moved
        local = _local(moved, r[rows], p, q, exponent)
        del moved
        score = torch.empty(w.shape, dtype=torch.float32, device=w.device)
        _score(w, second[rows], u, local, pull, zero, score)
        del local
        if pattern is not None:
            score.masked_fill_(nm_mask(score, *pattern), PROTECTED)
        _draw(score, rows.start * w.shape[1] - first, stride, sample)
        kept = score >= threshold
        torch.where(kept, masked[rows], nothing, out=masked[rows])
        bits[rows] = _packed(kept, powers)
    return masked, bits


def remask_weight(weight: Tensor, drift: Tensor | None, kept: Tensor, *, learning_rate: float) -> Tensor:
    masked = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    if not len(weight):
        return masked
    rate = _number(learning_rate, weight)
    powers = _powers(weight, torch.uint8)
    for rows in row_chunks(weight, 5):
        if drift is None:
            masked[rows] = weight[rows]
        else:
            torch.add(drift[rows] * rate, weight[rows], out=masked[rows])
        dropped = (kept[rows, :, None] & powers) == 0
        masked[rows].masked_fill_(dropped.flatten(1)[:, : weight.shape[1]], 0.0)
    return masked


def feedback_step(second: Tensor, drift: Tensor | None, gradient: Tensor, rate: Tensor, *, decay: float) -> None:
    for rows in row_chunks(second, 16):
        g = gradient[rows].float()
        v = torch.sub(second[rows], torch.addcmul(second[rows], g, g, value=-1), alpha=decay)
        second[rows] = v
        if drift is not None:
            # so that a drift without a second moment stays
            root = v.masked_fill_(v == 0, torch.inf).sqrt_()
            drift[rows].addcmul_(torch.div(g, root, out=root), rate, value=-1)


def _number(value: float, like: Tensor) -> Tensor:
    return torch.full((1,), value, dtype=torch.float32, device=like.device)


def _powers(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1, 2, 4 and so on to 128, made from their exponent bits: a power function need not be exact."""
    exponents = torch.arange(127 << 23, 135 << 23, 1 << 23, dtype=torch.int32, device=like.device)
    return exponents.view(torch.float32).to(dtype)


def _drifted(w: Tensor, u: Tensor | None, rate: Tensor) -> Tensor:
    """Return W + eta U, in fp32 if anything drifts."""
    return w if u is None else (u * rate).add_(w)


def _local(moved: Tensor, r: Tensor, p: Tensor, q: Tensor, exponent: float) -> Tensor | None:
    """Return the local metric's factor of the score, (rows, in) float32, of any sign; None if it is one."""
    if exponent == 0:
        return None
    local = torch.addcmul(q, r[:, None], p).mul_(moved)
    return local if exponent == 1 else local.abs_().pow_(exponent)


def _score(
    w: Tensor,
    second: Tensor,
    u: Tensor | None,
    local: Tensor | None,
    pull: float,
    zero: Tensor,
    score: Tensor,  # written
) -> None:
    torch.sqrt(second.float(), out=score)
    if local is not None:
        score.mul_(local)
    if u is not None:
        score.mul_(torch.addcmul(zero, u, w.sign(), value=pull).exp_())
    score.mul_(w).abs_()


def _draw(score: Tensor, begin: int, stride: int, sample: Tensor) -> None:
    """Write the part of the sample that a chunk holds, which begins so many elements after the first to be drawn."""
    place = max(0, -(-begin // stride))
    drawn = score.view(-1)[place * stride - begin :: stride]
    sample[place : place + len(drawn)] = drawn


def _packed(kept: Tensor, powers: Tensor) -> Tensor:
    """Return eight elements of a row a byte, as a product on the cube cores: (rows, ceil(in / 8)), float16."""
    hot = kept.half()
    if spare := -kept.shape[1] % 8:
        hot = torch.nn.functional.pad(hot, (0, spare))
    return (hot.view(-1, 8) @ powers[:, None]).view(len(kept), -1)
