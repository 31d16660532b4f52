"""Every tensor of a quantised checkpoint as the numbers that it stands for, one at a time.

codes of eight bits       code times scale, less the zero point if there is one
packed codes              the same, of codes of four or eight bits that share int32 words, the first one lowest
sparse bitmask            the values that are not zero, row by row, and a bit for each place, the first one lowest
MXFP4                     codes of four bits, two a byte, times a power of two for each 32 of them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.codes import decoded, is_code
from unipruning_core.storage.quantised import BITMASK, ENDINGS, MXFP4, PACKED, SCALES, ZERO_POINTS, block_of

if TYPE_CHECKING:
    from unipruning_core.storage.checkpoint import Checkpoint

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
EXPONENT_OF_ONE = 127
WORD = 32  # bits
# what stands beside the codes of a layer for its activations
OF_ACTIVATIONS = ("input_scale", "activation_scale", "output_scale", "input_zero_point", "output_zero_point")
# all that stands beside the first tensor of a layout
PARTS = {
    *(end for ends in ENDINGS.values() for end in ends),
    *(f".{end}" for end in ("row_offsets", "weight_g_idx", *OF_ACTIVATIONS)),
}


@dataclass(frozen=True)
class Plain:
    """A tensor without codes: as it is to be written."""

    name: str
    source: str  # the tensor in whose file it is written
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def plain_tensors(checkpoint: Checkpoint) -> list[Plain]:
    """Return what the tensors of a checkpoint stand for, in their order; what was decoded is in bfloat16.

    Raises:
        CheckpointError: the shape of a tensor is not known, or its codes are of a kind that is not read.
    """
    tensors = checkpoint.tensors
    found: dict[str, Plain] = {}  # by the first tensor that it is read from
    used: set[str] = set()
    for name in tensors:
        for layout, (first, *others) in ENDINGS.items():
            stem = name.removesuffix(first)
            if name.endswith(first) and all(stem + other in tensors for other in others):
                made = _of_layout(checkpoint, layout, stem)
                found[made.source] = made
                used |= {stem + end for end in PARTS}
    for name, info in tensors.items():
        if name not in used and checkpoint.codes.holds(name):
            found[name] = Plain(name, name, torch.bfloat16, info.shape, partial(checkpoint.codes.values, name))
            layer = name.removesuffix("weight")
            used |= {name, checkpoint.codes.scales.get(name, name), *(layer + end for end in OF_ACTIVATIONS)}
    for name, info in tensors.items():
        if name not in used:
            found[name] = Plain(name, name, info.dtype, info.shape, partial(checkpoint.read, name))
    return [found[name] for name in tensors if name in found]


def _of_layout(checkpoint: Checkpoint, layout: str, stem: str) -> Plain:
    read = checkpoint.read
    first = stem + ENDINGS[layout][0]
    if layout == MXFP4:
        *stack, rows, groups, half = checkpoint.tensors[first].shape
        turned = (*stack, groups * half * 2, rows)
        return Plain(stem, first, torch.bfloat16, turned, lambda: _mxfp4(read(first), read(f"{stem}_scales")))
    if layout == ZERO_POINTS:
        name = f"{stem}.weight"
        return Plain(name, name, torch.bfloat16, checkpoint.tensors[name].shape, lambda: _shifted(checkpoint, stem))
    shape = tuple(int(side) for side in read(f"{stem}.shape" if layout == BITMASK else f"{stem}.weight_shape"))
    if layout == PACKED:
        return Plain(f"{stem}.weight", first, torch.bfloat16, shape, lambda: _packed(checkpoint, stem, shape))
    if is_code(dtype := checkpoint.tensors[first].dtype):
        raise CheckpointError(
            f"tensor {first!r} holds the codes of a sparse bitmask in eight bits, which is not read; pass the model "
            "that it was made from"
        )
    return Plain(stem, first, dtype, shape, lambda: _scattered(read(first), read(f"{stem}.bitmask"), shape))


def _mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Return blocks, (..., rows, groups, 16) of two codes each, as (..., groups * 32, rows)."""
    table = torch.tensor(FP4)
    values = torch.stack((table[(blocks & 15).long()], table[(blocks >> 4).long()]), -1)
    values = torch.ldexp(values.flatten(-2), scales.int().sub(EXPONENT_OF_ONE).unsqueeze(-1))
    return values.flatten(-2).transpose(-1, -2)


def _shifted(checkpoint: Checkpoint, stem: str) -> Tensor:
    name = f"{stem}.weight"
    codes, zeros = checkpoint.read(name).float(), checkpoint.read(f"{name}_zero_point")
    scales, block = checkpoint.read(f"{name}{SCALES[1]}"), block_of(checkpoint.codes.config)
    return decoded(codes, scales, block, name) - decoded(_spread(zeros, codes, block, name), scales, block, name)


def _spread(zeros: Tensor, codes: Tensor, block: tuple[int, int] | None, name: str) -> Tensor:
    """Return the zero point of each code."""
    return decoded(torch.ones_like(codes), zeros, block, name)


def _packed(checkpoint: Checkpoint, stem: str, shape: tuple[int, ...]) -> Tensor:
    name, rows, columns = f"{stem}.weight", *shape
    words, scales = checkpoint.read(f"{name}_packed"), checkpoint.read(f"{name}_scale")
    bits = next((bits for bits in (4, 8) if words.shape == (rows, -(-columns * bits // WORD))), None)
    if bits is None or words.dtype != torch.int32:
        raise CheckpointError(
            f"tensor '{name}_packed' is {tuple(words.shape)} of {str(words.dtype)!r} for a weight of {shape}, and only "
            "codes of 4 and 8 bits in int32 are read; pass the model that it was made from"
        )
    codes = _unpacked(words, bits)[:, :columns]
    if f"{name}_zero_point" in checkpoint.tensors:
        zeros = _unpacked(checkpoint.read(f"{name}_zero_point").t().contiguous(), bits).t()[:rows]
    else:
        zeros = torch.zeros(())
    if f"{name}_g_idx" in checkpoint.tensors:
        # columns were quantised in another order, and each names its group
        groups = checkpoint.read(f"{name}_g_idx").long()
        scales, zeros = scales[:, groups], zeros[:, groups] if zeros.dim() else zeros
    return decoded(codes - _spread(zeros, codes, None, name), scales, None, name)


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """Return the signed codes of int32 words along the last side, in float32."""
    shifts = torch.arange(0, WORD, bits)
    codes = (words.long().unsqueeze(-1) >> shifts) & (2**bits - 1)
    signed: Tensor = codes.flatten(-2).float() - 2 ** (bits - 1)
    return signed


def _scattered(values: Tensor, bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    mask = (bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    places = mask.flatten(-2)[..., : shape[-1]].bool()
    if places.shape != shape or int(places.sum()) != values.numel():
        raise CheckpointError(
            f"the bits of a sparse bitmask are {tuple(places.shape)} with {int(places.sum())} set, for {shape} weights "
            f"and {values.numel()} values; copy the complete checkpoint"
        )
    return torch.zeros(shape, dtype=values.dtype).masked_scatter_(places, values)
