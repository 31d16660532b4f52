"""How many weights a model has, and how many of them its targets could be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from unipruning_core.models.layer import Layer


@dataclass(frozen=True)
class ModelSize:
    """The weights of a model, a shared one counted once."""

    weights: int
    embeddings: int  # of these, in input and output embeddings that are not targets

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[Layer]) -> ModelSize:
        """Count the parameters of a model with these targets."""
        chosen = {id(layer.parameter) for layer in layers}
        tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        # which some models lack, or have of another kind
        with suppress(AttributeError, NotImplementedError):
            tables.append(model.get_output_embeddings().weight)  # type: ignore[operator]
        apart = {id(table): table.numel() for table in tables if id(table) not in chosen}
        return cls(sum(parameter.numel() for parameter in model.parameters()), sum(apart.values()))

    @property
    def outside(self) -> int:
        """The weights outside embeddings."""
        return self.weights - self.embeddings

    def to_json(self) -> dict[str, Any]:
        return {"weights": self.weights, "embeddings": self.embeddings}
