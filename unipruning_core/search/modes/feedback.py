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
        "a weight in bfloat16"
    )
    # the scores have the unit of the loss, so they compare between matrices
    scope: ClassVar[Scope] = "global"
    follows_loss: ClassVar[bool] = True
    memory_remedy: ClassVar[str] = "--mode frozen holds a seventh of it"

    metric: str = setting("wanda", f"local metric: {', '.join(METRICS)}", choices=METRICS)
    learning_rate: float = setting(1e-4, "learning rate of AdamW; 0 keeps the weights", within="[0, inf)")
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
    pattern: str = setting("", "search for this pattern; without one, for unstructured sparsity", metavar="N:M")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.most_sparse

    @property
    def ramp_pattern(self) -> SemiStructured | None:
        """The N:M pattern within which the ramp takes weights away."""
        return pattern_of(self.pattern, "the pattern of a search") if self.pattern else None

    @property
    def most_sparse(self) -> float:
        """The sparsity ratio at which the ramp ends."""
        pattern = self.ramp_pattern
        return self.ramp_sparsity if pattern is None else min(self.ramp_sparsity, 1 - pattern.n / pattern.m)

    def rows_fraction(self, weights: int) -> float:
        """The fraction of a matrix's rows that the ramp's threshold is taken from, where all targets have ``weights``.

        All rows where the targets are few.
        """
        return min(1.0, max(ROWS_FRACTION, LEAST_WEIGHTS / weights))

    def patterns(self) -> tuple[SemiStructured, ...]:
        return (self.ramp_pattern,) if self.ramp_pattern else ()

    def start(self, model: PreTrainedModel, layers: Sequence[Layer], backend: Backend, samples: int) -> Search:
        from unipruning_core.search.feedback import DriftingFeedback, StillFeedback

        kind = DriftingFeedback if self.learning_rate else StillFeedback
        return kind(model, layers, self, backend, samples)

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        """V, both moments and the drift, 2 w + 8 bytes a weight, and one matrix more; no gradient is kept.

        Where the weights stay (learning rate 0) a second dual takes the place of moments and drift.
        """
        total = sum(sizes)
        own = (
            {"moments": (width + 4) * total, "drift": width * total}
            if self.learning_rate
            else {"second dual": 4 * total}
        )
        return (
            {"dual": 4 * total}
            | own
            | {"gradient, masked weights and score of one matrix": (2 * width + 4) * max(sizes)}
        )

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """AdamW reads the gradient, and reads and writes the drift and both moments.

        The score is blended afresh for each of three histograms of some rows, and for both masks: forward, backward.
        """
        parts = super().step_bytes(targets, width)
        drifts = bool(self.learning_rate)
        if drifts:
            parts["AdamW"] = float(5 * width + 8)
        else:
            parts["mirror_step of the second dual"] = float(8 + 2 * width)
        terms = 2 if drifts else 0  # the weight and its drift
        share = self.rows_fraction(sum(target.size for target in targets))
        parts["budget"] = share * 3 * (12 + terms * width + 4)
        parts["masked weights"] = float(2 * (12 + terms * width + 5 + 1 + (terms or 1) * width + width))
        if drifts:
            parts["drifting weights"] = float(3 * width)
        return parts
