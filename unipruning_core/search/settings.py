"""What a search can be told, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unipruning_core.errors import ConfigError
from unipruning_core.search.saliency import METRICS
from unipruning_core.sparsity.forms import Scope, SemiStructured
from unipruning_core.sparsity.parse import parse_sparsity

# each with what is said when a search begins
MODES = {
    "feedback": "gradients at the masked weights while sparsity rises; the best masks, one budget for all matrices",
    "drift": "as published: scratch weights follow the loss; feedback gives better masks at the same cost",
    "frozen": "forward only, the cheapest; feedback gives better masks",
    "coupled": "weights and Γ pull at each other, as the paper writes it; feedback gives better masks",
}
# of what a share is taken where the user does not say: feedback's scores have the unit of the loss, so they compare
# between matrices; those of the others have mean 1 in each
SCOPES: dict[str, Scope] = {"feedback": "global"}


@dataclass(frozen=True)
class SearchSettings:
    """Everything that decides the outcome of a search besides the model, the text and the backend."""

    mode: str = "feedback"
    metric: str = ""  # the local metric; none is wanda in feedback, whose other factors it balances, else stochria
    step_size: float = 0.01  # kappa of drift and frozen; alpha * rho of coupled
    quantile: float = 0.001  # lambda: the share of abs(V) that the threshold sets to zero
    seed: int = 0
    learning_rate: float = 1e-4  # of AdamW in drift; alpha * kappa of coupled
    max_grad_norm: float = 1.0  # drift: clips the gradient of all targets together; 0 turns it off
    prox_strength: float = 0.0  # lambda_2, drift: strength of the N:M regulariser; 0 turns it off
    prox_pattern: str = "2:4"
    coupling: float = 1e-5  # rho, coupled
    soft_threshold: float = 0.001  # lambda, coupled: a true threshold on abs(V)
    ramp_sparsity: float = 0.7  # feedback: how sparse the masked model gets
    ramp_share: float = 0.5  # feedback: the share of samples over which it gets there
    feedback_step: float = 0.05  # gamma, feedback: how fast F follows
    exponent: float = 1.0  # a, feedback: of V in the score F^(1/2) V^a
    pull: float = 0.0075  # b, feedback: of the drift's direction in the score
    pattern: str = ""  # N:M, feedback: what the ramp heads for; none is a share of all weights

    def __post_init__(self) -> None:
        if not self.metric:
            object.__setattr__(self, "metric", "wanda" if self.mode == "feedback" else "stochria")
        if self.mode not in MODES:
            raise ConfigError(f"mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if self.metric not in METRICS:
            raise ConfigError(f"metric is one of {', '.join(METRICS)}, not {self.metric!r}")
        if not 0.0 < self.step_size <= 1.0:
            raise ConfigError(f"step size must lie in (0, 1], not {self.step_size}; the published value is 0.01")
        if not 0.0 <= self.quantile < 1.0:
            raise ConfigError(f"quantile must lie in [0, 1), not {self.quantile}; the published value is 0.001")
        if not 0.0 <= self.ramp_sparsity < 1.0:
            raise ConfigError(f"ramp sparsity must lie in [0, 1), not {self.ramp_sparsity}; 0.7 serves all up to there")
        for name in ("ramp_share", "feedback_step"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name.replace('_', ' ')} must lie in (0, 1], not {getattr(self, name)}")
        for name in (
            "exponent",
            "pull",
            "learning_rate",
            "max_grad_norm",
            "prox_strength",
            "coupling",
            "soft_threshold",
        ):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name.replace('_', ' ')} must be a number from 0 up, not {getattr(self, name)}")
        if self.prox_strength and self.mode == "feedback":
            raise ConfigError("--prox-strength is for --mode drift; in feedback the weights stay, and --pattern steers")
        if self.pattern and self.mode != "feedback":
            raise ConfigError(
                f"--pattern is for the ramp of --mode feedback, and {self.mode} has none; any pattern can be projected"
            )
        _ = self.regulariser, self.most_sparse

    @property
    def regulariser(self) -> SemiStructured:
        """The N:M pattern that the proximal step pulls towards."""
        return _pattern(self.prox_pattern, "the regulariser's pattern")

    @property
    def ramp_pattern(self) -> SemiStructured | None:
        """The N:M pattern within which the ramp of ``feedback`` takes weights away."""
        return _pattern(self.pattern, "the pattern of a search") if self.pattern else None

    @property
    def most_sparse(self) -> float:
        """Where the ramp of ``feedback`` ends."""
        pattern = self.ramp_pattern
        return self.ramp_sparsity if pattern is None else min(self.ramp_sparsity, 1 - pattern.n / pattern.m)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _pattern(text: str, what: str) -> SemiStructured:
    pattern = parse_sparsity(text)
    if not isinstance(pattern, SemiStructured):
        raise ConfigError(f"{what} must be N:M, such as 2:4, not {text!r}")
    return pattern
