"""Weights stored as one code of eight bits each, with scales in a tensor beside them.

A weight is its code times the scale of its block.  The code 0 is exactly zero under any scale, so such a checkpoint is
pruned where it is stored, and its scales stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.config import read_config
from unipruning_core.storage.quantised import (
    BITMASK,
    SCALES,
    block_of,
    check_prunable,
    method_of,
    packed_layout,
    sections_of,
)
from unipruning_core.storage.tensorfile import TensorInfo


class Codes:
    """The tensors of a checkpoint that hold codes, with what they stand for."""

    def __init__(self, config: Path, tensors: Mapping[str, TensorInfo], read: Callable[[str], Tensor]) -> None:
        self._path, self._tensors, self._read = config, tensors, read

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config."""
        return read_config(self._path)

    @property
    def is_quantised(self) -> bool:
        """Whether the config says so, or codes with scales show it."""
        return bool(self.scales) or next(sections_of(self.config), None) is not None

    @property
    def can_be_decoded(self) -> bool:
        """Whether every weight can be read here, of a quantised checkpoint."""
        known = method_of(self.config, self._tensors) is None and packed_layout(self._tensors) is None
        return known and self.is_quantised

    @cached_property
    def scales(self) -> Mapping[str, str]:
        """The tensor of scales of each tensor of codes."""
        found: dict[str, str] = {}
        for name, info in self._tensors.items():
            # with a zero point it is another code that is zero
            is_symmetric = f"{name}_zero_point" not in self._tensors
            scale = next((name + end for end in SCALES if name + end in self._tensors), None)
            if is_code(info.dtype) and is_symmetric and scale:
                found[name] = scale
        return found

    @cached_property
    def weights(self) -> Mapping[str, TensorInfo]:
        """The tensors, but for the scales of others: what parameters are made of."""
        scales = set(self.scales.values())
        return {name: info for name, info in self._tensors.items() if name not in scales} if scales else self._tensors

    def holds(self, name: str) -> bool:
        """Return whether a tensor holds codes: floats of eight bits, with or without scales, or integers with them."""
        dtype = self._tensors[name].dtype
        return is_code(dtype) and (dtype.is_floating_point or name in self.scales)

    def values(self, name: str) -> Tensor:
        """Read one tensor as numbers: codes in float32, any other as stored."""
        stored = self._read(name)
        if not self.holds(name):
            return stored
        scales = self._read(self.scales[name]) if name in self.scales else None
        return decoded(stored, scales, block_of(self.config), name)

    def check_loadable(self) -> None:
        """Refuse a checkpoint from which a model would be loaded with other weights, and without an error.

        Raises:
            CheckpointError: it is a sparse bitmask, of which the model library makes random weights, or codes lack
                their scales.
        """
        if self.can_be_decoded or packed_layout(self._tensors) == BITMASK:
            self.check_prunable()

    def check_prunable(self) -> None:
        """Refuse a checkpoint that is quantised in a way in which single weights cannot become zero.

        Raises:
            CheckpointError: it is, or codes lack their scales.
        """
        check_prunable(self._path.parent, self.config, self._tensors)
        if not self.is_quantised:
            return
        if bare := next((name for name in self.weights if self.holds(name) and name not in self.scales), ""):
            raise CheckpointError(
                f"tensor {bare!r} of {str(self._path.parent)!r} holds codes of eight bits, and there is no "
                f"{bare + SCALES[0]!r} or {bare + SCALES[1]!r} with their scales; copy the complete checkpoint"
            )


def is_code(dtype: torch.dtype) -> bool:
    """Return whether numbers of this type can be the codes of weights, with 0 for zero."""
    return dtype.itemsize == 1 and (dtype == torch.int8 or (dtype.is_floating_point and "e8m0" not in str(dtype)))


def decoded(codes: Tensor, scales: Tensor | None, block: tuple[int, int] | None, name: str) -> Tensor:
    """Return codes, (..., out, in), times their scales, in float32.

    There is one scale for all, for each matrix of a stack, for each row, or for each block.

    Raises:
        CheckpointError: there are too few or too many.
    """
    values = codes.float()
    if scales is None:
        return values
    grid = scales.float()
    if grid.numel() == 1:
        return values.mul_(grid.reshape(()))
    stack, sides = values.shape[:-2], values.shape[-2:]
    if grid.shape == values.shape[:-1]:
        grid = grid.unsqueeze(-1)
    elif stack and grid.shape == stack:
        grid = grid[..., None, None]
    counts = grid.shape[-2:]
    widths = [_width(*one) for one in zip(sides, counts, block or (0, 0), strict=False)]
    if len(sides) < 2 or len(counts) < 2 or grid.shape[:-2] != stack or 0 in widths:
        raise CheckpointError(
            f"the scales of {name!r} are {tuple(scales.shape)}, which does not fit its {tuple(codes.shape)} codes; "
            "copy the complete checkpoint"
        )
    height, width = widths
    along = grid if counts[1] == 1 else grid.repeat_interleave(width, -1)[..., : sides[1]]
    if height == 1:
        return values.mul_(along)
    for row in range(along.shape[-2]):
        values[..., row * height : (row + 1) * height, :] *= along[..., row : row + 1, :]
    return values


def _width(codes: int, scales: int, told: int) -> int:
    """Return how many codes along one side share a scale, or 0 if the scales do not fit."""
    if told and -(-codes // told) == scales:
        return told
    return codes // scales if scales and codes % scales == 0 else 0
