"""The result of a search of a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unipruning_core.frames import Tabular
from unipruning_core.models.choice import BY_ROLE, TargetChoice

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.sparsity.forms import Scope
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class FoundScores(Tabular):
    """The scores found by a search of a model in memory; they can be projected any number of times."""

    targets: tuple[Target, ...]
    fingerprint: str  #: of the weights that were searched
    scope: Scope
    provenance: dict[str, object]
    duals: Mapping[str, Tensor]  #: V by target, (out, in), float32, on the host
    thresholds: Mapping[str, float]  #: tau by target
    losses: tuple[float, ...]  #: one per calibration sample, if the mode computes them
    threshold_trace: tuple[float, ...] = ()  #: of the mode at each step, if it has one
    masked: set[str] = field(default_factory=set)  #: fingerprints of the weights masked by these scores
    digests: Mapping[str, str] = field(default_factory=dict)  #: sha256 of the weight that was searched, by target
    target_choice: TargetChoice = BY_ROLE
    model_weights: int | None = None  #: of the whole model

    def records(self) -> list[dict[str, Any]]:
        return [{**target.cells, "threshold": self.thresholds[target.name]} for target in self.targets]

    def score(self, name: str) -> Tensor:
        """Return abs(Gamma) = max(abs(V) - tau, 0) of one target, (out, in) float32 on the host."""
        return self.duals[name].abs().sub_(self.thresholds[name]).clamp_min_(0.0)
