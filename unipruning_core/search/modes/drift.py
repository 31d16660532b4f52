"""``drift``: AdamW moves a scratch copy of the weights to lower the loss, as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.search.settings import QuantileSettings, pattern_of, setting

if TYPE_CHECKING:
    from unipruning_core.search.base import Search
    from unipruning_core.sparsity.forms import SemiStructured
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True, kw_only=True)
class DriftSettings(QuantileSettings):
    """Settings of ``--mode drift``."""

    mode: ClassVar[str] = "drift"
    summary: ClassVar[str] = (
        "as published: AdamW moves a scratch copy of the weights to lower the loss; 14 bytes per weight in bfloat16"
    )
    remark: ClassVar[str] = "feedback gives better masks at the same cost"
    follows_loss: ClassVar[bool] = True
    moves_weights: ClassVar[bool] = True

    learning_rate: float = setting(1e-4, "learning rate of AdamW; 0 keeps the weights fixed", within="[0, inf)")
    max_grad_norm: float = setting(
        1.0, "clip the gradient norm of all targets together to this value; 0 disables clipping", within="[0, inf)"
    )
    prox_strength: float = setting(0.0, "λ₂, strength of the N:M regulariser; 0 disables it", within="[0, inf)")
    prox_pattern: str = setting("2:4", "pattern of the N:M regulariser", metavar="N:M")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.regulariser

    @property
    def regulariser(self) -> SemiStructured:
        """The ``N:M`` pattern that the proximal step pulls towards."""
        return pattern_of(self.prox_pattern, "--prox-pattern")

    def patterns(self) -> tuple[SemiStructured, ...]:
        return (self.regulariser,) if self.prox_strength else ()

    def search(self) -> type[Search]:
        from unipruning_core.search.drift import DriftSearch

        return DriftSearch

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        """Return V, both moments, and the gradient if clipping keeps it: 2 w + 8 bytes per weight, or w + 8 without."""
        total = sum(sizes)
        parts = {"dual": 4 * total}
        if self.learning_rate:
            parts["moments"] = (width + 4) * total
        return parts | ({"gradient": width * total} if self.max_grad_norm else {})

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """Return the traffic, where AdamW reads the gradient, and reads and writes W and both moments."""
        parts = super().step_bytes(targets, width)
        if self.max_grad_norm:
            parts["gradient norm"] = float(width)
        if self.learning_rate:
            parts["AdamW"] = float(5 * width + 8)
        if self.prox_strength:
            parts["nm_prox"] = float(2 * width)
        return parts
