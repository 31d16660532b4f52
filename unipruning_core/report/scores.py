"""The scores of a search, looked at one matrix at a time: how they are spread, and what masks take away of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING

import torch

from unipruning_core.report.places import places_of

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.progress import Progress
    from unipruning_core.projection.mask_file import MaskFile
    from unipruning_core.search.run_folder import Run

SAMPLED = 1 << 16  # scores of a matrix that are counted for the histogram
PER_DECADE = 8  # bins
LOWEST, HIGHEST = -46, 39  # decades between which every float32 above zero lies
BINS = (HIGHEST - LOWEST) * PER_DECADE


@dataclass
class Spread:
    """How many of the sampled scores lie in each bin of width 1/PER_DECADE of log10."""

    kept: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    pruned: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    zeros: int = 0  # scores of zero, which have no logarithm

    @property
    def total(self) -> int:
        return int(self.kept.sum() + self.pruned.sum()) + self.zeros

    def add(self, scores: Tensor, mask: Tensor | None) -> None:
        """Count scores, (n,) float32, with the mask of each, (n,) bool, or all as kept."""
        positive = scores > 0
        self.zeros += int((~positive).sum())
        bins = ((scores[positive].log10() - LOWEST) * PER_DECADE).floor().long().clamp_(0, BINS - 1)
        kept = torch.ones_like(bins, dtype=torch.bool) if mask is None else mask[positive]
        self.kept += torch.bincount(bins[kept], minlength=BINS)
        self.pruned += torch.bincount(bins[~kept], minlength=BINS)


@dataclass(frozen=True)
class Scored:
    """What one pass over the scores of a search found."""

    lost: dict[str, dict[str, tuple[float, float]]]  # by output and target: the sum of the pruned scores, and of all
    spreads: dict[str, dict[str, Spread]]  # by output, or "" for the search alone, and projection


def look_at_scores(run: Run, masks: Mapping[str, MaskFile], progress: Progress) -> Scored:
    """Read every score once, with the masks of each output that was made of them."""
    places = places_of(target.name for target in run.targets)
    lost: dict[str, dict[str, tuple[float, float]]] = {label: {} for label in masks}
    spreads: dict[str, dict[str, Spread]] = {label: {} for label in masks or ("",)}
    with progress.task("reading scores", len(run.targets), "matrices") as task:
        for target in run.targets:
            score, projection = run.score(target.name), places[target.name].projection
            stride = stride_of(target.shape)
            sampled, all_ = score.view(-1)[::stride], float(score.sum(dtype=torch.float64))
            if not masks:
                spreads[""].setdefault(projection, Spread()).add(sampled, None)
            for label, file in masks.items():
                mask = file.read(target.name)
                spreads[label].setdefault(projection, Spread()).add(sampled, mask.view(-1)[::stride])
                lost[label][target.name] = (float(score.masked_fill(mask, 0.0).sum(dtype=torch.float64)), all_)
            task.advance()
    return Scored(lost, spreads)


def stride_of(shape: tuple[int, int]) -> int:
    """Return the distance between sampled scores; without a factor in common with the width, all columns are met."""
    rows, columns = shape
    stride = -(-rows * columns // SAMPLED)
    while gcd(stride, columns) > 1:
        stride += 1
    return stride
