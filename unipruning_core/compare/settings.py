"""The settings of SparseGPT, apart from its arithmetic, so that the command line reads them without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unipruning_core.search.settings import SEED_RANGE, check_fields, setting


@dataclass(frozen=True, kw_only=True)
class SparseGptSettings:
    """Everything that decides the outcome besides model, text, sparsity and backend; defaults from the paper."""

    block: int = setting(128, "columns whose mask is chosen together", within="[1, inf)", published=128)
    dampening: float = setting(
        0.01, "λ added to the diagonal of H, as a fraction of its mean", within="(0, inf)", published=0.01
    )
    seed: int = setting(0, "seed of the order of the text", within=SEED_RANGE)

    def __post_init__(self) -> None:
        check_fields(self)

    def to_json(self) -> dict[str, Any]:
        return {"mode": "sparsegpt", **asdict(self)}
