"""``feedback``: the gradient is taken at the masked weights while sparsity rises; the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unipruning_core.search.metrics import METRICS
from unipruning_core.search.settings import Settings, pattern_of, setting

if TYPE_CHECKING:
    from unipruning_core.search.base import Search
    from unipruning_core.sparsity.forms import Scope, SemiStructured
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings(Settings):
    """Settings of ``--mode feedback``; ``search/feedback.py`` has the mathematics."""

    mode: ClassVar[str] = "feedback"
    summary: ClassVar[str] = (
        "gradients at the masked weights while sparsity rises: the best masks, one budget for all matrices; 6 bytes "
        "per weight in bfloat16"
    )
    # the scores have the unit of the loss, so they are comparable between matrices
    scope: ClassVar[Scope] = "global"
    offloads: ClassVar[bool] = True
    follows_loss: ClassVar[bool] = True

    batch_size: int = setting(1, "samples that form one step, whose gradient is their mean", within="[1, inf)")
    metric: str = setting("wanda", f"local metric: {', '.join(METRICS)}", choices=METRICS)
    learning_rate: float = setting(1e-4, "η, learning rate of the drift; 0 keeps the weights fixed", within="[0, inf)")
    ramp_sparsity: float = setting(0.7, "sparsity ratio at the end of the ramp", within="[0, 1)")
    ramp_fraction: float = setting(
        0.5, "fraction of the samples over which sparsity rises", within="(0, 1]", formerly=["ramp_share"]
    )
    second_moment_rate: float = setting(
        0.05, "γ, how fast v follows the squared gradient", within="[1e-9, 1]", formerly=["feedback_step"]
    )
    local_exponent: float = setting(
        1.0, "a, exponent of the local metric S in the score |W|·√v·Sᵃ", within="[0, inf)", formerly=["exponent"]
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
        """The ``N:M`` pattern within which the ramp masks weights."""
        return pattern_of(self.pattern, "--pattern") if self.pattern else None

    @property
    def most_sparse(self) -> float:
        """The sparsity ratio at which the ramp ends."""
        pattern = self.ramp_pattern
        return self.ramp_sparsity if pattern is None else min(self.ramp_sparsity, 1 - pattern.n / pattern.m)

    def patterns(self) -> tuple[SemiStructured, ...]:
        return (self.ramp_pattern,) if self.ramp_pattern else ()

    def search(self) -> type[Search]:
        from unipruning_core.search.feedback import FeedbackSearch

        return FeedbackSearch

    def held_bytes(self, sizes: Sequence[int], width: int) -> dict[str, int]:
        """Return v and U, 4 bytes per weight, or 2 without drift; the masks; and one matrix more, twice.

        No gradient is kept.
        """
        total = sum(sizes)
        parts = {"second moment": 2 * total}
        if self.learning_rate:
            parts["drift"] = 2 * total
        one = max(2 * width, 4) * max(sizes)
        return parts | {"masks": total // 8, "gradient and masked weight, or score, of one matrix": one}

    def steps(self, samples: int) -> int:
        return -(-samples // self.batch_size)

    def step_bytes(self, targets: Sequence[Target], width: int) -> dict[str, float]:
        """Return the traffic: W, v and U are read for the masked weight, W and U once more for the backward pass.

        The step reads the gradient, and reads and writes v and U.
        """
        drift = 2 if self.learning_rate else 0
        mask = 1 / 8
        return {
            "mask_weight": width + 2 + drift + width + mask,
            "remask_weight": width + drift + mask + width,
            "feedback_step": float(width + 4 + 2 * drift),
        }
