"""``coupled``: weights and Γ pull on each other, as written in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.search.settings import DualSettings, setting

if TYPE_CHECKING:
    from unipruning_core.search.base import Search
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True, kw_only=True)
class CoupledSettings(DualSettings):
    """Settings of ``--mode coupled``; here ``step_size`` is alpha * rho and ``learning_rate`` alpha * kappa."""

    mode: ClassVar[str] = "coupled"
    summary: ClassVar[str] = "weights and Γ pull on each other, as written in the paper; 6 bytes per weight"
    remark: ClassVar[str] = "feedback gives better masks"
    follows_loss: ClassVar[bool] = True
    moves_weights: ClassVar[bool] = True

    learning_rate: float = setting(1e-4, "step size of the weights, α·κ", within="[0, inf)")
    coupling: float = setting(1e-5, "ρ, strength of the pull between weights and Γ", within="[0, inf)")
    soft_threshold: float = setting(0.001, "λ, soft threshold on |V|", within="[0, inf)")

    def search(self) -> type[Search]:
        from unipruning_core.search.coupled import CoupledSearch

        return CoupledSearch

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        return {"dual": 4 * sum(sizes), "gradient and step of one matrix": 2 * width * max(sizes)}

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        return super().step_bytes(targets, width) | {"weight step": float(5 * width + 4)}
