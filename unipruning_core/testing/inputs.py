"""What the conformance cases are made of: shapes, values and memory layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipruning_core.testing.compare import BITS

Shape = tuple[int, int]

SHAPES: tuple[Shape, ...] = ((1, 4), (3, 8), (63, 100), (128, 512), (257, 1028))
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "transposed", "sliced", "strided")
SCORES = ("distinct", "levels", "equal", "zeros", "signed zeros", "signs", "denormals", "not finite")
WEIGHTS = ("normal", "levels", "zero rows", "zero columns", "zeros", "large", "tiny", "not finite")
NOT_FINITE = {  # infinities, and NaN of either sign with no, all or the fewest bits beside the one that makes it quiet
    torch.float32: (0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001),
    torch.bfloat16: (0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7FFF, 0xFFFF, 0x7F81, 0xFF81),
    torch.float16: (0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7FFF, 0xFFFF, 0x7C01, 0xFC01),
}
FILL = 3  # what lies around a view that is no whole storage

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
floats = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
layouts = pytest.mark.parametrize("layout", LAYOUTS)
score_kinds = pytest.mark.parametrize("kind", SCORES)
weight_kinds = pytest.mark.parametrize("kind", WEIGHTS)


def make_score(rng: torch.Generator, shape: Shape, kind: str = "distinct") -> Tensor:
    """Scores, (out, in) float32, of which every kind but the first ties somewhere or is hard to compare."""
    normal = torch.randn(shape, generator=rng)
    whole = torch.randint(-(2**20), 2**20, shape, generator=rng)
    return {
        "distinct": normal,
        "levels": (normal * 1.2).round().clamp(-2, 2),
        "equal": torch.full(shape, -0.75),
        "zeros": torch.zeros(shape),
        "signed zeros": torch.where(normal > 0.5, normal, torch.where(normal > 0, 0.0, -0.0)),
        "signs": normal.sign(),
        "denormals": whole.float() * 2.0**-149,
        "not finite": spoilt(rng, normal, 0.1),
    }[kind]


def make_scores(rng: torch.Generator, shape: Shape) -> Tensor:
    """Scores of every kind, one kind below the other: for operations whose rows do not know of each other."""
    return torch.cat([make_score(rng, shape, kind) for kind in SCORES])


def make_weight(rng: torch.Generator, shape: Shape, dtype: torch.dtype, kind: str = "normal") -> Tensor:
    """Weights, gradients or activations, (out, in) of ``dtype``."""
    normal = torch.randn(shape, generator=rng)
    rows, columns = (torch.arange(size) % 2 == 0 for size in shape)
    if kind == "not finite":
        return spoilt(rng, normal.to(dtype), 0.01)
    return {
        "normal": normal,
        "levels": (normal * 1.2).round().clamp(-2, 2) * 0.5,
        "zero rows": normal * rows[:, None],
        "zero columns": normal * columns,
        "zeros": torch.zeros(shape),
        # a float16 overflows when this is squared, so the conversion has to come first
        "large": normal * 1000.0,
        "tiny": normal * torch.finfo(dtype).smallest_normal,
    }[kind].to(dtype)


def not_finite(dtype: torch.dtype) -> Tensor:
    """Return one of each kind, (8,) of ``dtype``."""
    return torch.tensor(NOT_FINITE[dtype]).to(BITS[dtype.itemsize]).view(dtype)


def spoilt(rng: torch.Generator, values: Tensor, share: float) -> Tensor:
    """Return the values with about this share of them replaced by infinities and NaN of every kind."""
    kinds = not_finite(values.dtype)
    drawn = kinds[torch.randint(len(kinds), values.shape, generator=rng)]
    return torch.where(torch.rand(values.shape, generator=rng) < share, drawn, values)


def make_weights(rng: torch.Generator, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Weights of every kind, one kind below the other: for operations whose rows do not know of each other."""
    return torch.cat([make_weight(rng, shape, dtype, kind) for kind in WEIGHTS])


def frame(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape of the storage in which a tensor of ``shape`` lies under ``layout``."""
    if layout == "contiguous":
        return shape
    if len(shape) == 2:
        rows, columns = shape
        return {
            "transposed": (columns, rows),
            "sliced": (rows + 3, columns + 5),
            "strided": (2 * rows, 3 * columns),
        }[layout]
    return (2 * shape[0] + 1,) if shape else (3,)


def window(base: Tensor, shape: tuple[int, ...], layout: str) -> Tensor:
    """The view of ``base`` that holds the tensor."""
    if layout == "contiguous":
        return base
    if len(shape) == 2:
        rows, columns = shape
        return {
            "transposed": lambda: base.t(),
            "sliced": lambda: base[1 : 1 + rows, 2 : 2 + columns],
            "strided": lambda: base[1::2, 2::3],
        }[layout]()
    return base[1::2] if shape else base[1]
