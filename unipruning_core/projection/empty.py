"""Output rows and input columns of which a mask keeps no weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.sparsity.parse import Sparsity
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class Empty:
    """How many rows and columns masks remove whole."""

    rows: int = 0
    columns: int = 0

    @classmethod
    def of(cls, mask: Tensor) -> Empty:  # (out, in), bool, on the host
        kept = mask.numpy()
        return cls(*(side - int(np.count_nonzero(kept.any(axis=1 - axis))) for axis, side in enumerate(mask.shape)))

    @classmethod
    def of_all(cls, parts: Iterable[Empty]) -> Empty:
        """Return the sums over matrices."""
        found = list(parts)
        return cls(sum(part.rows for part in found), sum(part.columns for part in found))

    def notes(self, sparsity: Sparsity, targets: Sequence[Target]) -> list[str]:
        """Return what to say of them, with what it means: a sentence, or none where every row and column is used."""
        columns = f"{self.columns} of {sum(target.shape[1] for target in targets)} input columns"
        if self.rows:
            also = f" and {columns}" if self.columns else ""
            return [
                f"{sparsity}: the masks remove {self.rows} of {sum(target.shape[0] for target in targets)} output rows"
                f"{also} whole; such outputs are always zero, and NaN after some float8 quantisers: --keep-per-row 1"
                " keeps a weight of each row"
            ]
        return [f"{sparsity}: the masks remove {columns} whole, so these inputs are unused"] if self.columns else []
