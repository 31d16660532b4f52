"""Where the masks of a pruned folder lie in a live model, whatever training has wrapped around its modules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.held import local_part
from unipruning_core.models.names import Names, Piece
from unipruning_core.projection.mask_file import MaskFile
from unipruning_core.storage.checkpoint import Checkpoint, Target

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# what compile, FSDP, activation checkpoints and adapters put between a module and its parameters
WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|original_module"
    r"|modules_to_save\.[^.]+)\."
)
INNER = ("_orig_mod", "module")  # where wrappers of a whole model keep it


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter that holds targets, or the part of it that this process has."""

    name: str  # in the model, with its wrappers
    parameter: nn.Parameter
    shape: tuple[int, ...]  # of the whole parameter
    parts: tuple[tuple[Target, Piece], ...]

    def pruned(self, masks: MaskFile) -> Tensor:
        """Return what the masks prune of the part that this process has: bool, in its shape, on the host.

        Raises:
            CheckpointError: a mask is damaged.
            ConfigError: the parameter is divided in a way that is not known.
        """
        whole = torch.zeros(prod(self.shape), dtype=torch.bool)
        for target, piece in self.parts:
            mask = masks.read(target.name)
            stored = ~(mask.t() if target.transposed else mask).reshape(-1)
            flat = torch.zeros(piece.view.numel(), dtype=torch.bool)
            first, last = _overlap(target, piece)
            flat[first - piece.start : last - piece.start] = stored[first - target.start : last - target.start]
            view = whole.as_strided(piece.view.shape, piece.view.stride(), piece.view.storage_offset())
            view |= flat.view(piece.view.shape)
        return _local(whole.view(self.shape), self.parameter, self.name)


def places_in(model: nn.Module, checkpoint: Checkpoint, targets: Sequence[Target]) -> list[Place]:
    """Find the parameters of a model, wrapped or not, that hold the targets of a checkpoint.

    Raises:
        ConfigError: it is not a transformers model, or its weights are divided or stored in a way that is not known.
        CheckpointError: it has no parameter of a target's name and shape.
    """
    inner = unwrapped(model)
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in inner.named_parameters(remove_duplicate=False):
        found.setdefault(bare_name(name), []).append((name, parameter))
    names = Names.of(inner, checkpoint, called=bare_name)
    left = {target.name: target.size for target in targets}
    parts: dict[int, Place] = {}
    for bare, pieces in names.pieces.items():
        for piece in pieces if bare in found else ():
            stored = checkpoint.codes.weights[piece.tensor].shape
            here = [target for target in targets if target.tensor == piece.tensor and _size(target, piece) > 0]
            for target in here:
                left[target.name] -= _size(target, piece)
            for name, parameter in found[bare] if here else ():
                _check(name, parameter, piece, stored)
                place = parts.setdefault(id(parameter), Place(name, parameter, tuple(parameter.shape), ()))
                added = tuple((target, piece) for target in here)
                parts[id(parameter)] = replace(place, parts=(*place.parts, *added))
    if missing := [name for name, elements in left.items() if elements]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{type(inner).__name__} has no parameter for the mask of {missing[0]!r}{more}; load the model from "
            f"{str(checkpoint.folder)!r}, and divide it with fully_shard if at all"
        )
    return list(parts.values())


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside the wrappers of adapters, compile and data parallelism.

    Raises:
        ConfigError: there is none.
    """
    from transformers import PreTrainedModel

    found = model
    while not isinstance(found, PreTrainedModel):
        if hasattr(found, "get_base_model"):
            found = found.get_base_model()  # type: ignore[operator]
        else:
            inner = next((getattr(found, name) for name in INNER if hasattr(found, name)), None)
            if not isinstance(inner, nn.Module):
                raise ConfigError(
                    f"masks are held in a transformers model, or one that peft, torch.compile or FSDP has wrapped, not"
                    f" in a {type(model).__name__}; pass such a model"
                )
            found = inner
    return found


def bare_name(name: str) -> str:
    """Return the name of a parameter without the wrappers on its way."""
    return WRAPPERS.sub("", name)


def _overlap(target: Target, piece: Piece) -> tuple[int, int]:
    """Return the first element, of their tensor, that both have, and the one after the last."""
    return max(target.start, piece.start), min(target.start + target.size, piece.start + piece.view.numel())


def _size(target: Target, piece: Piece) -> int:
    first, last = _overlap(target, piece)
    return max(0, last - first)


def _check(name: str, parameter: nn.Parameter, piece: Piece, stored: Sequence[int]) -> None:
    if not parameter.is_floating_point():
        raise ConfigError(
            f"the weights of {name!r} are stored as {parameter.dtype}, whose zeros cannot be held; load the model in "
            "bfloat16, float16 or float32"
        )
    extent = sum((side - 1) * stride for side, stride in zip(piece.view.shape, piece.view.stride(), strict=True)) + 1
    fits = piece.view.storage_offset() + extent <= parameter.numel()
    if not fits or (piece.whole and tuple(piece.view.shape) != tuple(stored)):
        raise CheckpointError(
            f"the mask of {piece.tensor!r} has the shape {tuple(stored)}, but the model's {name!r} "
            f"{tuple(parameter.shape)}; load the model from the folder of the masks, and divide it with fully_shard "
            "if at all"
        )


def _local(whole: Tensor, parameter: nn.Parameter, name: str) -> Tensor:
    """Return the part of a tensor that this process has of a parameter of the same shape."""
    part = whole
    if local_part(parameter) is not parameter:
        from torch.distributed.tensor import Replicate, Shard

        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        for dimension, placement in enumerate(placements):
            if type(placement) is Shard:
                parts = part.chunk(mesh.size(dimension), placement.dim)
                rank = mesh.get_local_rank(dimension)
                part = parts[rank] if rank < len(parts) else part.narrow(placement.dim, 0, 0)
            elif type(placement) is not Replicate:
                raise ConfigError(f"{name!r} is divided as {placement}, whose parts are not known; use Shard")
    if part.shape != local_part(parameter).shape:
        raise ConfigError(
            f"{name!r} is divided into parts of {tuple(local_part(parameter).shape)}, not the expected "
            f"{tuple(part.shape)}; divide the model with fully_shard"
        )
    return part
