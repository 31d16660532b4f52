"""How the operations cut a matrix, so that what they hold besides it stays small."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# bytes of temporaries at once, of which several times as many fit a card's second-level cache; a row is never cut
BOUND = 64 << 20


def row_chunks(matrix: Tensor, temporary_bytes: int) -> Iterator[slice]:
    """Slices of whole rows, for an operation that holds ``temporary_bytes`` an element."""
    rows, columns = matrix.shape
    step = max(1, BOUND // (temporary_bytes * max(1, columns)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
