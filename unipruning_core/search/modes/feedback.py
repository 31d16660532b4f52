"""``feedback``: the gradient is taken at the masked weights while sparsity rises; the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.search.metrics import METRICS
from unipruning_core.search.settings import QuantileSettings, pattern_of, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.models.targets import Layer
    from unipruning_core.search.base import Search
    from unipruning_core.sparsity.forms import Scope, SemiStructured
    from unipruning_core.storage.checkpoint import Target

ROWS_FRACTION, LEAST_WEIGHTS = 1 / 32, 1 << 22  # see FeedbackSettings.rows_fraction


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings(QuantileSettings):
    """Settings of ``--mode feedback``; ``search/feedback.py`` has the mathematics."""

    mode: ClassVar[str] = "feedback"
    summary: ClassVar[str] = (
        "gradients at the masked weights while sparsity rises: the best masks, one budget for all matrices; 14 bytes "
        "per weight in bfloat16"
    )
    # the scores have the unit of the loss, so they are comparable between matrices
    scope: ClassVar[Scope] = "global"
    follows_loss: ClassVar[bool] = True
    memory_remedy: ClassVar[str] = "--mode frozen needs a seventh of the memory"

    metric: str = setting("wanda", f"local metric: {', '.join(METRICS)}", choices=METRICS)
    learning_rate: float = setting(1e-4, "learning rate of AdamW; 0 keeps the weights fixed", within="[0, inf)")
    ramp_sparsity: float = setting(0.7, "sparsity ratio at the end of the ramp", within="[0, 1)")
    ramp_fraction: float = setting(
        0.5, "fraction of the samples over which sparsity rises", within="(0, 1]", formerly=["ramp_share"]
    )
    second_moment_rate: float = setting(
        0.05, "1 - β₂ of AdamW: how fast v follows the squared gradient", within="(0, 1]", formerly=["feedback_step"]
    )
    local_exponent: float = setting(
        1.0, "a, exponent of the local metric V in the score |W|·√v·Vᵃ", within="[0, inf)", formerly=["exponent"]
    )
    drift_weight: float = setting(
        0.0075, "b, weight of the drift's direction in the score", within="[0, inf)", formerly=["pull"]
    )
    pattern: str = setting(
        "", "pattern to search for; without one, the search is for unstructured sparsity", metavar="N:M"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.most_sparse

    @property
    def ramp_pattern(self) -> SemiStructured | None:
        """The N:M pattern within which the ramp masks weights."""
        return pattern_of(self.pattern, "--pattern") if self.pattern else None

    @property
    def most_sparse(self) -> float:
        """The sparsity ratio at which the ramp ends."""
        pattern = self.ramp_pattern
        return self.ramp_sparsity if pattern is None else min(self.ramp_sparsity, 1 - pattern.n / pattern.m)

    def rows_fraction(self, weights: int) -> float:
        """Return the fraction of every matrix's rows that give the ramp's threshold, for ``weights`` in all targets.

        All rows if there are few weights.
        """
        return min(1.0, max(ROWS_FRACTION, LEAST_WEIGHTS / weights))

    def patterns(self) -> tuple[SemiStructured, ...]:
        return (self.ramp_pattern,) if self.ramp_pattern else ()

    def start(self, model: PreTrainedModel, layers: Sequence[Layer], backend: Backend, samples: int) -> Search:
        from unipruning_core.search.feedback import DriftingFeedback, StillFeedback

        kind = DriftingFeedback if self.learning_rate else StillFeedback
        return kind(model, layers, self, backend, samples)

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        """Return V, both moments and the drift, 2 w + 8 bytes per weight, and one matrix more; no gradient is kept.

        With learning rate 0, a second dual replaces moments and drift.
        """
        total = sum(sizes)
        extra = (
            {"moments": (width + 4) * total, "drift": width * total}
            if self.learning_rate
            else {"second dual": 4 * total}
        )
        return (
            {"dual": 4 * total}
            | extra
            | {"gradient, masked weights and score of one matrix": (2 * width + 4) * max(sizes)}
        )

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """Return the traffic, where AdamW reads the gradient, and reads and writes the drift and both moments.

        The score is blended anew for each of three histograms of some rows, and for the masks of both passes.
        """
        parts = super().step_bytes(targets, width)
        drifts = bool(self.learning_rate)
        if drifts:
            parts["AdamW"] = float(5 * width + 8)
        else:
            parts["mirror_step of the second dual"] = float(8 + 2 * width)
        terms = 2 if drifts else 0  # the weight and its drift
        fraction = self.rows_fraction(sum(target.size for target in targets))
        parts["budget"] = fraction * 3 * (12 + terms * width + 4)
        parts["masked weights"] = float(2 * (12 + terms * width + 5 + 1 + (terms or 1) * width + width))
        if drifts:
            parts["drifting weights"] = float(3 * width)
        return parts
