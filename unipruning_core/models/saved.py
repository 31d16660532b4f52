"""A model in memory as it would be saved: the names of its tensors in the file, and their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unipruning_core.models.names import Names
from unipruning_core.models.outline import header_of, saved_buffers, saved_header
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Saved:
    """What ``save_pretrained`` would write of a model, without writing it.

    Where the library's conversions are not understood, the model's own names and layouts stand for those of the file.
    """

    model: PreTrainedModel
    checkpoint: Checkpoint
    names: Names

    @classmethod
    def of(cls, model: PreTrainedModel, name: str) -> Saved:
        """Find the names; no value is read."""
        for header in (saved_header, header_of):
            checkpoint = Checkpoint(Path(name), (), header(model))
            names = Names.of(model, checkpoint)
            if not names.unread:
                break
        return cls(model, checkpoint, names)

    def fingerprint(self) -> str:
        """Return the fingerprint of the current weights: that of the checkpoint."""
        tensors = dict([*self.model.named_parameters(remove_duplicate=False), *saved_buffers(self.model)])
        parts: dict[str, Tensor] = {}
        for parameter, pieces in self.names.pieces.items():
            whole = tensors[parameter].detach()
            for piece in pieces:
                # an expert's matrix is a view of the parameter
                start = whole.storage_offset() + piece.view.storage_offset()
                is_whole = piece.view.shape == whole.shape
                parts[piece.tensor] = (
                    whole if is_whole else whole.as_strided(piece.view.shape, piece.view.stride(), start)
                )

        def part(name: str, start: int, size: int) -> bytes:
            flat = (parts[name] if name in parts else tensors[name]).detach().reshape(-1)
            first, last = start // flat.itemsize, -(-(start + size) // flat.itemsize)
            held: bytes = flat[first:last].cpu().view(torch.uint8).numpy().tobytes()
            return held[start - first * flat.itemsize :][:size]

        return fingerprint_of(self.checkpoint.tensors, part)
