"""How close is equal: bit for bit where the contract is exact, else one table of tolerances."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

EXACT = frozenset({"mirror_step", "magnitude_histogram", "threshold_mask", "topk_mask", "nm_mask", "remask_weight"})

# relative and absolute tolerance of what is not exact, by the dtype of the result; other dtypes are exact
TOLERANCES = {
    # sums of up to a thousand terms of one sign, in any order
    "accumulate_sumsq": {torch.float32: (1e-5, 0.0)},
    "abs_sums": {torch.float32: (1e-5, 0.0)},
    # a power function is good to a few units in the last place; below the normal range there is no relative precision
    "feedback_scores": {torch.float32: (1e-5, 2e-38)},
    # the sample holds scores; masks and masked weights are exact, but where a score equals the threshold to rounding
    "mask_weight": {torch.float32: (1e-5, 2e-38)},
    # the sweeps carry rounding errors on; a result between two 16-bit values may round to either
    "nm_prox": {torch.float32: (1e-4, 1e-5), torch.bfloat16: (2.0**-7, 1e-5), torch.float16: (2.0**-10, 1e-5)},
    # a sum of two signs cancels; a result between two 16-bit values may round to either
    "adamw_step": {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2.0**-7, 1e-6), torch.float16: (2.0**-10, 1e-6)},
    # the same; the second moment is positive and needs no absolute tolerance but for denormals
    "feedback_step": {torch.bfloat16: (2.0**-7, 1e-38), torch.float16: (2.0**-10, 1e-6)},
}


def bits(tensor: Tensor) -> Tensor:
    """The bytes as integers: NaN equals itself, -0.0 is not 0.0, and a bool is caught holding neither 0 nor 1."""
    # viewed first, for a copy of bools would mend their bytes
    return tensor.view(BITS[tensor.itemsize]).contiguous()


def require_equal(operation: str, name: str, actual: Tensor, expected: Tensor, case: str) -> None:
    """Compare one result with the reference's, and say where the first difference is."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise AssertionError(
            f"{operation}: {name} is {tuple(actual.shape)} {actual.dtype}, the reference gives "
            f"{tuple(expected.shape)} {expected.dtype}; {case}"
        )
    if operation in EXACT or expected.dtype not in TOLERANCES[operation]:
        differs = bits(actual) != bits(expected)
        if expected.is_floating_point():
            # a device chooses the bits of a NaN
            differs &= ~(actual.isnan() & expected.isnan())
    else:
        rtol, atol = TOLERANCES[operation][expected.dtype]
        differs = ~torch.isclose(actual.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)
    if differs.any():
        index = tuple(differs.nonzero()[0].tolist())
        raise AssertionError(
            f"{operation}: {name}{list(index)} is {_shown(actual[index])}, the reference gives "
            f"{_shown(expected[index])}; {int(differs.sum())} of {differs.numel()} differ; {case}"
        )


def _shown(value: Tensor) -> str:
    if value.dtype == torch.bool and int(bits(value)) > 1:
        return f"byte {int(bits(value))}, which no bool is: the element was never written"
    return repr(value.item())
