"""``frozen``: fixed weights and no gradient; Wanda, RIA or averaged stochRIA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.search.metrics import METRICS
from unipruning_core.search.settings import QuantileSettings

if TYPE_CHECKING:
    from unipruning_core.search.base import Search


@dataclass(frozen=True, kw_only=True)
class FrozenSettings(QuantileSettings):
    """Settings of ``--mode frozen``."""

    mode: ClassVar[str] = "frozen"
    summary: ClassVar[str] = "forward passes only, fixed weights: Wanda, RIA or averaged stochRIA; 2 bytes per weight"
    remark: ClassVar[str] = "the cheapest mode; feedback gives better masks"
    offloads: ClassVar[bool] = True
    follows_loss: ClassVar[bool] = False

    def search(self) -> type[Search]:
        from unipruning_core.search.frozen import FrozenSearch

        return FrozenSearch

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        return {"dual of one matrix": 4 * max(sizes)}

    def steps(self, samples: int) -> int:
        # without random subsets every step is the same, and more would only scale V
        return samples if METRICS[self.metric].random_subsets else 1
