"""A model over several ranks: FSDP holds a part of every parameter on each, and gathers a block while it runs.

Each rank reads the values of one block at a time, keeps its rows and drops the rest, so that none ever holds the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.decoder import bare_decoder, decoder_blocks, text_model
from unipruning_core.models.held import Given, Held, gathered, is_divided, local_part
from unipruning_core.models.names import Names

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.distributed.world import World
    from unipruning_core.models.home import Home
    from unipruning_core.models.layer import Layer
    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Checkpoint


@contextmanager
def parameters_without_values() -> Iterator[None]:
    """Build modules inside whose parameters have only shapes, while their buffers have values."""
    register = nn.Module.register_parameter

    def without_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    with patch.object(nn.Module, "register_parameter", without_values):
        yield


def runs(model: PreTrainedModel, targets: Iterable[str], *, loss: bool) -> PreTrainedModel:
    """Return the part of a model that a search runs: with its output layer, unless there is no loss or target in it.

    ``targets`` are parameters by their names in the model.
    """
    if loss:
        return text_model(model)
    decoder = bare_decoder(model)
    path = next(f"{name}." if name else "" for name, part in model.named_modules() if part is decoder)
    return decoder if all(name.startswith(path) for name in targets) else text_model(model)


def divided(
    model: PreTrainedModel,
    part: PreTrainedModel,
    layers: Sequence[Layer],
    checkpoint: Checkpoint,
    names: Names,
    world: World,
    home: Home,
    progress: Progress,
) -> list[Layer]:
    """Load a model without values over the ranks, and return its layers with what this rank holds of them.

    Args:
        part: what runs of the model; nothing else is loaded.
        names: of the model as it was before experts were set apart.

    Raises:
        CheckpointError: the checkpoint lacks a parameter, or a part of the model is of a kind that cannot be divided.
        ConfigError: the inputs of a layer cannot be divided among the ranks.
    """
    from torch.distributed.fsdp import fully_shard

    loader = _Loader(model, layers, checkpoint, names, world, home)
    _, blocks = decoder_blocks(model)
    units: list[nn.Module] = [*blocks, part]
    moved: set[int] = set()
    with progress.task("loading", len(units), "parts") as task:
        for unit in units:
            loader.fill(unit)
            fully_shard(unit, mesh=world.mesh, reshard_after_forward=True)
            if any(layer.siblings for layer in layers):
                _reduce_unused(unit)
            if home.offload != "none":
                _move(unit, home, moved)
            task.advance()
    for buffer_owner in part.modules():
        for leaf, buffer in buffer_owner.named_buffers(recurse=False):
            buffer_owner._buffers[leaf] = buffer.to(world.device)
    return [loader.held(layer) for layer in layers]


def _move(unit: nn.Module, home: Home, moved: set[int]) -> None:
    """Let what is held of a unit's layers lie elsewhere, once FSDP has made its last copy of it."""
    with gathered(unit):
        pass
    for parameter in unit.parameters():
        if isinstance(held := local_part(parameter), Held) and id(parameter) not in moved:
            moved.add(id(parameter))
            there = held.part
            held.part = home.keep(there)
            there.untyped_storage().resize_(0)  # FSDP refers to it still


def _reduce_unused(unit: Any) -> None:
    """Let experts without a token on one rank take part in the sum over all."""
    if not hasattr(unit, "set_reduce_scatter_unused_params"):
        raise CheckpointError(
            "the experts of a mixture see tokens on some ranks only, which this version of torch cannot add up; "
            "install torch 2.13 or later"
        )
    unit.set_reduce_scatter_unused_params(True)


def check_adds_up() -> None:
    """Refuse gradients over ranks where FSDP can only take their mean.

    Raises:
        ConfigError: this version of torch is too old.
    """
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ConfigError(
            f"a search over ranks adds up their gradients, of which torch {torch.__version__} can only take the mean; "
            "install torch 2.8 or later, or use --mode frozen"
        )


def add_up_gradients(model: nn.Module) -> None:
    """Have FSDP give the sum of the ranks' gradients instead of their mean, which is rounded."""
    for unit in model.modules():
        if is_divided(unit):
            unit.set_gradient_divide_factor(1.0)  # type: ignore[operator]
            unit.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]


class _Loader:
    """Puts values into the parameters of a unit, one unit at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[Layer],
        checkpoint: Checkpoint,
        names: Names,
        world: World,
        home: Home,
    ) -> None:
        self.checkpoint, self.names, self.world, self.home = checkpoint, names, world, home
        self.layers = {id(layer.parameter): layer for layer in layers}
        self.precise = _kept_in_float32(model)
        self.without_values: list[nn.Parameter] = []  # kept so that their ids stay their own
        self.paths = {id(module): name for name, module in model.named_modules()}

    def fill(self, unit: nn.Module) -> None:
        """Load every parameter of a unit that has no values yet; nothing here refers to them afterwards."""
        filled: dict[int, nn.Parameter] = {}  # by the id of the parameter that had no values
        for module in unit.modules():
            for leaf, parameter in list(module.named_parameters(recurse=False)):
                if parameter.device.type == "meta":
                    if id(parameter) not in filled:
                        filled[id(parameter)] = self._loaded(f"{self.paths[id(module)]}.{leaf}", parameter)
                        self.without_values.append(parameter)
                    module._parameters[leaf] = filled[id(parameter)]
            for leaf, buffer in list(module.named_buffers(recurse=False)):
                if leaf not in module._non_persistent_buffers_set:
                    self._fill_buffer(f"{self.paths[id(module)]}.{leaf}", buffer)

    def _loaded(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        layer = self.layers.get(id(parameter))
        if layer is None:
            values = self._assembled(name, parameter)
            return nn.Parameter(values, requires_grad=False)
        values = layer.as_loaded(self.checkpoint, parameter.dtype).to(self.world.device)
        if self.home.offload != "none":
            values = values.clone()  # into memory that can be given back while FSDP refers to it
        return nn.Parameter(Held(values, Given()), requires_grad=False)

    def _assembled(self, name: str, parameter: Tensor) -> Tensor:
        """Return the values of a parameter that is no target, from one tensor of the checkpoint or several."""
        name = name.removeprefix(".")
        if name in self.names.unread:
            raise CheckpointError(
                f"{name!r} of the model cannot be divided over ranks, since {self.names.unread[name]}; search this "
                "model in one process"
            )
        if not (pieces := self.names.of_parameter(name)):
            raise CheckpointError(
                f"the checkpoint lacks {name!r}, which its config requires; copy the complete checkpoint"
            )
        dtype = torch.float32 if self.precise(name) else parameter.dtype
        values = torch.empty(parameter.shape, dtype=dtype)
        for piece in pieces:
            stored = self.checkpoint.codes.values(piece.tensor).flatten()
            stored = stored[piece.start : piece.start + piece.view.numel()].view(piece.view.shape)
            view = piece.view
            values.as_strided(view.size(), view.stride(), view.storage_offset()).copy_(stored)
        return values.to(self.world.device)

    def _fill_buffer(self, name: str, buffer: Tensor) -> None:
        """Load a buffer that belongs to the checkpoint, if it is there."""
        if pieces := self.names.of_parameter(name.removeprefix(".")):
            (piece,) = pieces
            buffer.copy_(self.checkpoint.codes.values(piece.tensor))

    def held(self, layer: Layer) -> Layer:
        """Return a layer with its place among those of the other ranks."""
        side = layer.target.shape[1 if layer.transposed else 0]
        first = min(-(-side // self.world.shards) * self.world.shard, side)
        begin = (0, first) if layer.transposed else (first, 0)
        return replace(layer, begin=begin, checkpoint=self.checkpoint)


def check_divisible(layers: Iterable[Layer], multiple: int, shards: int) -> None:
    """Refuse a pattern of groups that would lie on two ranks.

    Raises:
        ConfigError: there is one, since a layer is stored by inputs.
    """
    for layer in layers:
        part = -(-layer.target.shape[1] // shards)
        if layer.transposed and part % multiple:
            raise ConfigError(
                f"layer {layer.name!r} is stored by inputs, of which {shards} ranks hold {part} each, no multiple of "
                f"{multiple}; use another number of ranks"
            )


def whole_of(part: Tensor, layer: Layer, world: World) -> Tensor:
    """Return a matrix, (out, in), of which each rank has the part that it holds of the layer."""
    if not world.sharded:
        return part
    rows = part.t() if layer.transposed else part
    outputs, inputs = layer.target.shape
    side, width = (inputs, outputs) if layer.transposed else (outputs, inputs)
    padded = rows.new_zeros(-(-side // world.shards), width)
    padded[: len(rows)] = rows
    whole = torch.cat(world.in_order(padded)[: world.shards])[:side]
    return whole.t() if layer.transposed else whole


def mean_of(part: Tensor, layer: Layer, world: World) -> Tensor:
    """Return the mean of a matrix, 0-D float32, of which each rank has the part that it holds, as the module stores it.

    It is the mean over rows of their means, which does not depend on how the rows are divided.
    """
    rows = part.float().mean(1)
    if world.sharded:
        side = layer.target.shape[1 if layer.transposed else 0]
        padded = rows.new_zeros(-(-side // world.shards))
        padded[: len(rows)] = rows
        rows = torch.cat(world.in_order(padded)[: world.shards])[:side]
    return rows.mean()


def _kept_in_float32(model: PreTrainedModel) -> Any:
    """Return what tells which parameters a model has in float32, whatever it is loaded in."""
    kinds: Mapping[torch.dtype, Sequence[str]] = {
        torch.float16: (*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())),
        torch.bfloat16: tuple(model._keep_in_fp32_modules_strict or ()),
    }
    precise = kinds.get(model.dtype, ())
    return lambda name: any(part in precise for part in name.split("."))
