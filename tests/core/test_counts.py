"""Elements counted piece by piece, against torch's own count."""

from __future__ import annotations

import pytest
import torch

from unipruning_core.projection.counts import PIECE, kept, nonzero

SPECIAL = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), 2.0**-14]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e4m3fnuz]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_of_either_sign_are_not_counted_and_everything_else_is(dtype):
    values = torch.tensor(SPECIAL).repeat(PIECE // 3).to(dtype).view(7, -1)
    assert nonzero(values) == int(values.float().count_nonzero())


def test_a_mask_is_counted_in_any_order_of_its_elements():
    mask = torch.arange(3 * PIECE).view(3, -1) % 3 == 0
    assert kept(mask) == kept(mask.t()) == PIECE
