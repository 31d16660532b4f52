"""Triton kernel that applies a mask and packs it into one bit per weight, in one pass."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipruning_kernels.triton_launch import Launcher


@triton.jit
def apply_pack(
    weight,  # (numel,), any float
    mask,  # (numel,), uint8
    out,  # (numel,), as the weight
    packed,  # (ceil(numel / 8),), uint8; the first of eight weights in the lowest bit
    numel,
    block: tl.constexpr,
):
    """Write the weight where the mask keeps it, else +0, and the packed mask."""
    first = tl.program_id(0).to(tl.int64) * block
    index = first + tl.arange(0, block)
    inside = index < numel
    kept = tl.load(mask + index, mask=inside, other=0)
    value = tl.load(weight + index, mask=inside, other=0.0)
    # selected, not multiplied: a product could be -0.0
    tl.store(out + index, tl.where(kept != 0, value, tl.zeros_like(value)), mask=inside)
    bits = tl.reshape(kept.to(tl.int32), [block // 8, 8]) << tl.arange(0, 8)[None, :]
    byte = first // 8 + tl.arange(0, block // 8)
    tl.store(packed + byte, tl.sum(bits, axis=1).to(tl.uint8), mask=byte * 8 < numel)


def apply_and_pack(
    launch: Launcher,
    weight: Tensor,  # (out, in), any float
    mask: Tensor,  # (out, in), bool: True is kept
) -> tuple[Tensor, Tensor]:  # (out, in) as the weight, and (ceil(out * in / 8),) uint8
    """Return the pruned weight and its mask, one bit per weight, row-major, the first of eight in the lowest bit."""
    weight, mask = weight.contiguous(), mask.contiguous()
    numel = weight.numel()
    out = torch.empty_like(weight)
    packed = torch.empty(triton.cdiv(numel, 8), dtype=torch.uint8, device=weight.device)
    block = max(8, launch.flat(2048, numel))
    launch(apply_pack, triton.cdiv(numel, block), weight, mask.view(torch.uint8), out, packed, numel, block=block)
    return out, packed
