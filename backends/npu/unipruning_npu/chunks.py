"""How the operations split a matrix, so that their temporaries stay small."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# bytes of temporaries at a time, a fraction of a device's second-level cache; a row is never split
BOUND = 64 << 20


def row_chunks(matrix: Tensor, temporary_bytes: int) -> Iterator[slice]:
    """Return slices of whole rows, for an operation that holds ``temporary_bytes`` per element."""
    rows, columns = matrix.shape
    step = max(1, BOUND // (temporary_bytes * max(1, columns)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
