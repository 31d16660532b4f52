"""The masks.  Counting gives ties to the lower index, never the order in which a sort leaves equal elements."""

from __future__ import annotations

import torch
from torch import Tensor

from unipruning_npu.chunks import row_chunks

INT32_MAX = 2**31 - 1  # no matrix has more elements, so counts fit in int32, which the vector cores handle natively


def threshold_mask(score: Tensor, threshold: Tensor, ties: Tensor) -> Tensor:
    mask = _empty(score)
    left = ties.clamp(max=INT32_MAX).int()
    for rows in row_chunks(score, 20):
        magnitude = _magnitude(score[rows])
        equal = magnitude == threshold
        place = _place(equal)
        through = place[:, -1:].cumsum(0, dtype=torch.int32)
        budget = left - (through - place[:, -1:])
        torch.where(equal, place <= budget, magnitude > threshold, out=mask[rows])
        left = left - through[-1]
    return mask


def topk_mask(score: Tensor, keep: int) -> Tensor:
    mask = _empty(score)
    if keep in (0, score.shape[1]):
        return mask.fill_(keep > 0)
    for rows in row_chunks(score, 40):
        magnitude = _magnitude(score[rows])
        bound = magnitude.sort(dim=1, descending=True).values[:, keep - 1 : keep]
        above, equal = magnitude > bound, magnitude == bound
        budget = keep - above.sum(dim=1, keepdim=True, dtype=torch.int32)
        torch.where(equal, _place(equal) <= budget, above, out=mask[rows])
    return mask


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    """Rank each element by the number ahead of it in its group, comparing all pairs at once."""
    mask = _empty(score)
    index = torch.arange(m, dtype=torch.int32, device=score.device)
    earlier = index < index[:, None]
    for rows in row_chunks(score, 8 + 8 * m):
        magnitude = _magnitude(score[rows]).reshape(-1, m)
        other, mine = magnitude[:, None], magnitude[:, :, None]
        ahead = torch.where(earlier, other >= mine, other > mine)
        torch.lt(ahead.sum(dim=2, dtype=torch.int32), n, out=mask[rows].view(-1, m))
    return mask


def _magnitude(score: Tensor) -> Tensor:
    """Return abs(score), and infinity for NaN."""
    return score.abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)


def _place(equal: Tensor) -> Tensor:
    """Return the position of each true element among those of its row, counted from 1."""
    return equal.int().cumsum(1, dtype=torch.int32)


def _empty(score: Tensor) -> Tensor:
    return torch.empty(score.shape, dtype=torch.bool, device=score.device)
