"""The base of every search mode: mirror descent on one dual variable per weight towards the local saliency.

Each mode's settings are in ``modes/``, its arithmetic in the file of the same name here.  A mode whose settings have
``moves_weights`` changes the model it is given, which is then a scratch copy.  Source: UniPruning, arXiv 2510.03291.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import DataError
from unipruning_core.search.metrics import METRICS
from unipruning_core.search.saliency import Factors, saliency_factors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.backend import Backend
    from unipruning_core.models.activations import InputStatistics
    from unipruning_core.models.targets import Layer
    from unipruning_core.search.saliency import Sums
    from unipruning_core.search.settings import Settings
    from unipruning_core.storage.checkpoint import Target


@dataclass(frozen=True)
class Outcome:
    """The result for one target: V and tau, which give Gamma = sign(V) max(|V| - tau, 0)."""

    target: Target
    dual: Tensor  # (out, in), float32
    threshold: Tensor  # 0-D, float32
    steps: int  # mirror steps taken
    input_norm: Tensor | None = None  # (in,), float32, n over all samples, if the search knows it


class Search(ABC):
    """A search in one mode.  ``tensors`` is its whole state, from which it can be resumed."""

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], settings: Settings, backend: Backend, samples: int
    ) -> None:
        self.model, self.layers, self.settings, self.backend, self.samples = model, layers, settings, backend, samples
        self.metric = METRICS[settings.metric]
        model.eval()  # dropout would draw its own random numbers
        model.requires_grad_(False)
        for layer in layers:
            layer.parameter.requires_grad_(settings.follows_loss)
        self.prepare()

    def prepare(self) -> None:
        """Allocate what the mode holds besides the model, once at the start."""
        self.steps = torch.zeros(len(self.layers), dtype=torch.int64)  # mirror steps taken by each layer

    @abstractmethod
    def step(self, sample: int, input_ids: Tensor) -> float | None:
        """Process calibration sample number ``sample``, (1, tokens) int64; return its loss if one is computed."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that ``step`` changes in place, by a name that is stable between processes."""

    @abstractmethod
    def outcomes(self) -> Iterator[Outcome]:
        """Yield the result for each target, in checkpoint order; each may be dropped before the next is made.

        Raises:
            DataError: no calibration token reached a target.
        """

    def _mirror_step(
        self,
        position: int,
        sample: int,
        statistics: InputStatistics,
        dual: Tensor,
        threshold: Tensor,
        sums: Sums | None = None,
    ) -> None:
        """Update one layer: V += kappa (S - Gamma), and the next exact tau."""
        weight = self._weight(position)
        factors = self._factors(position, sample, statistics, weight, sums)
        self.backend.mirror_step(
            dual,
            weight,
            factors.r,
            factors.p,
            factors.q,
            threshold,
            step_size=self.settings.step_size,
            rank=self.settings.threshold_rank(dual.numel()),
        )
        self.steps[position] += 1

    def _weight(self, position: int) -> Tensor:
        """Return the weight that S is computed from, (out, in), any float."""
        return self.layers[position].weight

    def _factors(
        self, position: int, sample: int, statistics: InputStatistics, weight: Tensor, sums: Sums | None = None
    ) -> Factors:
        generator = self._generator(position, sample)
        return saliency_factors(self.metric, weight, statistics.norm, self.backend, generator, sums)

    def _generator(self, position: int, sample: int) -> torch.Generator:
        """Return a separate stream for every matrix and sample, so that resuming needs no random state."""
        stream = (self.settings.seed * 1_000_003 + sample) * 1_000_003 + position
        return torch.Generator().manual_seed(stream % 2**63)

    def _refuse_unreached(self, reached: Sequence[bool]) -> None:
        missing = [layer.name for layer, ok in zip(self.layers, reached, strict=True) if not ok]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.layers)} target layers received no token and so have no Γ (first: "
                f"{missing[0]!r}); calibrate on more or more varied text (--samples), or use --metric magnitude"
            )


def zero_dual(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return V = 0, (out, in) float32, and tau = 0, 0-D float32, on the layer's device."""
    device = layer.weight.device
    return torch.zeros(layer.target.shape, device=device), torch.zeros((), device=device)
