"""The masks of a model in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unipruning_core.frames import Tabular


class Masks(dict[str, Tensor], Tabular):
    """Masks by parameter name: bool, in the parameter's own shape, on the host; True is kept."""

    def records(self) -> list[dict[str, Any]]:
        rows = []
        for name, mask in self.items():
            kept = int(mask.sum())
            rows.append(
                {
                    "parameter": name,
                    "shape": tuple(mask.shape),
                    "kept": kept,
                    "total": mask.numel(),
                    "sparsity": 1 - kept / mask.numel(),
                }
            )
        return rows
