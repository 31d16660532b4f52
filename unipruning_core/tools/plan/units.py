"""The parts of a model that ranks gather together: decoder blocks, and what runs around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.divided import runs

if TYPE_CHECKING:
    from torch import nn

    from unipruning_core.models.outline import Outline


@dataclass(frozen=True)
class Units:
    """How many weights each part has, a shared one once."""

    blocks: int  # in all blocks together
    targets: int  # of these, in targets
    largest: int  # in the block with most
    largest_targets: int  # of these, in targets
    root: int  # around the blocks: embeddings, norms, and the output layer if it runs
    root_targets: int  # of these, in targets

    @property
    def held(self) -> int:
        """All weights that are loaded."""
        return self.blocks + self.root


def units_of(outline: Outline, *, loss: bool) -> Units:
    """Return the parts of what a search runs of a model, with or without a loss."""
    with torch.device("meta"):
        model = outline.build()
    searched = {id(parameter) for name, parameter in model.named_parameters() if name in outline.searched}
    _, blocks = decoder_blocks(model)

    def weights(parameters: list[nn.Parameter], known: set[int]) -> tuple[int, int]:
        fresh = [parameter for parameter in parameters if id(parameter) not in known]
        return sum(p.numel() for p in fresh), sum(p.numel() for p in fresh if id(p) in searched)

    of_each = [weights(list(block.parameters()), set()) for block in blocks]
    inside = {id(parameter) for parameter in blocks.parameters()}
    part = runs(model, outline.searched, loss=loss)
    all_blocks, root = weights(list(blocks.parameters()), set()), weights(list(part.parameters()), inside)
    return Units(*all_blocks, *max(of_each), *root)
