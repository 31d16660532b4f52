"""Masks held in a model while any loop trains it: pruned weights are exactly zero after every step of an optimizer."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.held import local_part
from unipruning_core.projection.counts import INTEGERS
from unipruning_core.projection.mask_file import pack, read_masks
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tuning.places import bare_name, places_in, unwrapped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unipruning_core.progress import Progress


def hold_masks(model: nn.Module, folder: str | os.PathLike[str], progress: bool | Progress = True) -> HeldMasks:
    """Hold the masks of a pruned folder in a model that is trained, until the result is removed or left.

    The gradients of pruned weights are set to zero as they are accumulated, so that clipping, momentum and scales of
    optimizers see kept weights alone; after each step of any ``torch.optim.Optimizer`` that has the parameters, pruned
    weights are set to zero again.  Masks take one bit per weight beside the weights, of those a process holds.

    Args:
        model: loaded from the folder; peft, ``torch.compile``, DDP or ``fully_shard`` may have wrapped it, before.
        folder: a pruned or tuned checkpoint with its masks.

    Raises:
        CheckpointError: the masks are damaged, the model lacks one of their matrices, or a pruned weight is not zero.
        ConfigError: the model is not one of transformers, or its weights are quantised or divided in an unknown way.
    """
    found = list(masks_in(model, folder, progress))
    for mask in found:
        mask.check(folder)
    return HeldMasks(unwrapped(model), found)


def masks_in(model: nn.Module, folder: str | os.PathLike[str], progress: bool | Progress) -> Iterator[HeldMask]:
    """Yield the mask of each parameter of a model that has one, whatever its weights are; raises as ``hold_masks``."""
    masks = read_masks(folder, progress)
    for place in places_in(model, Checkpoint.open(Path(folder)), masks.targets):
        yield HeldMask(place.name, place.parameter, place.pruned(masks))


class HeldMask:
    """The mask of one parameter, or of the part of it that this process has."""

    def __init__(self, name: str, parameter: nn.Parameter, pruned: Tensor) -> None:
        self.name, self._parameter = name, weakref.ref(parameter)
        self._shape = pruned.shape
        self._packed = pack(~pruned, None).to(local_part(parameter).device)  # one bit per weight: 1 is kept

    @property
    def parameter(self) -> nn.Parameter | None:
        """The parameter, unless the model is gone."""
        return self._parameter()

    def apply(self) -> None:
        """Set the parameter's pruned weights to zero."""
        if (parameter := self.parameter) is not None:
            self.clear(parameter.detach())

    def clear(self, tensor: Tensor) -> None:
        """Set what is pruned to zero, in place, in the parameter or its gradient."""
        local = local_part(tensor.detach())
        # as integers: a product of floats would leave -0.0 and NaN, and masked_fill_ takes ten times as long on a CPU
        local.view(INTEGERS[local.itemsize]).mul_(self._kept_on(local.device))

    def check(self, folder: str | os.PathLike[str]) -> None:
        """Refuse a parameter that has other values than zero where it is pruned."""
        if (parameter := self.parameter) is None:
            return
        local = local_part(parameter.detach())
        pruned = ~self._kept_on(local.device)
        if count := int((local[pruned] != 0).sum()):
            raise CheckpointError(
                f"{count} of {int(pruned.sum())} weights that {str(folder)!r} prunes are not zero in {self.name!r}; "
                "load the model from that folder, and hold the masks before the first step"
            )

    def _kept_on(self, device: torch.device) -> Tensor:
        self._packed = self._packed.to(device)
        return _unpack(self._packed, self._shape)


class HeldMasks(AbstractContextManager["HeldMasks"]):
    """Masks that are held in a model until they are removed; removing them leaves the weights as they are."""

    def __init__(self, model: nn.Module, masks: Sequence[HeldMask]) -> None:
        self.masks, self._model = tuple(masks), weakref.ref(model)
        self._hooks: list[Any] = [register_optimizer_step_post_hook(self._after_step)]
        for mask, parameter in self._alive():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_clears_gradient(mask)))
        # a model that is gone has no masks to hold
        weakref.finalize(model, self.remove)

    def apply(self) -> None:
        """Set the pruned weights to zero now, as after other weights were loaded."""
        for mask in self.masks:
            mask.apply()

    def remove(self) -> None:
        """Hold the masks no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.masks = [], ()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _alive(self) -> Iterator[tuple[HeldMask, nn.Parameter]]:
        for mask in self.masks:
            if (parameter := mask.parameter) is not None:
                yield mask, parameter

    def _after_step(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        mine = [(mask, parameter) for mask, parameter in self._alive() if id(parameter) in stepped]
        for mask, _ in mine:
            mask.apply()
        if len(mine) < len(self.masks):
            self._check_not_replaced(stepped)

    def _check_not_replaced(self, stepped: set[int]) -> None:
        """Refuse a step that has trained another parameter of the same name than the one that is held."""
        held = {id(parameter) for _, parameter in self._alive()}
        # of the one that was replaced nothing may be left but its name
        model, names = self._model(), {bare_name(mask.name) for mask in self.masks}
        for name, parameter in model.named_parameters(remove_duplicate=False) if model is not None else ():
            if bare_name(name) in names and id(parameter) in stepped - held:
                raise ConfigError(
                    f"{name!r} was replaced after its mask was held, so its pruned weights have been trained; hold the "
                    "masks after the model is wrapped, divided or moved, and train again"
                )


def _clears_gradient(mask: HeldMask) -> Any:
    def clear(parameter: Tensor) -> None:
        if parameter.grad is not None:
            mask.clear(parameter.grad)

    return clear


def _unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    places = torch.arange(8, device=packed.device)
    bits_of_byte = ((torch.arange(256, device=packed.device)[:, None] >> places) & 1).bool()
    return bits_of_byte.index_select(0, packed.int()).flatten()[: shape.numel()].view(shape)
