"""The linear layers to prune, found by type and position rather than by name, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Target

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.storage.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layer:
    """A target and the module that holds it."""

    target: Target
    module: nn.Module

    @property
    def name(self) -> str:
        """The weight's name in the checkpoint."""
        return self.target.name

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module stores it."""
        parameter: nn.Parameter = self.module.weight  # type: ignore[assignment]
        return parameter

    @property
    def weight(self) -> Tensor:
        """The weight as (out, in), a view that shares the parameter's storage."""
        data = self.parameter.detach()
        return data.t() if self.target.transposed else data


@dataclass(frozen=True)
class LeftOut:
    """A matrix that stays dense, and the reason to report."""

    name: str
    why: str


def find_targets(model: PreTrainedModel, checkpoint: Checkpoint) -> tuple[list[Layer], list[LeftOut]]:
    """Find the linear layers inside the repeated decoder blocks, in checkpoint order, and the matrices left dense.

    Raises:
        CheckpointError: no repeated blocks, two layers that share a weight, or a layer whose weight the checkpoint does
            not hold under a matching name and shape.
    """
    prefix, blocks = decoder_blocks(model)
    layers: list[Layer] = []
    left_out: list[LeftOut] = []
    owner: dict[int, str] = {}
    for name, module, parameter in _matrices(model):
        path = name.removesuffix(".weight")
        if not path.startswith(f"{prefix}."):
            kind = "an embedding" if isinstance(module, nn.Embedding) else "outside the decoder blocks"
            left_out.append(LeftOut(name, kind))
        elif not is_linear(module) or not name.endswith(".weight"):
            left_out.append(LeftOut(name, f"not a linear layer but part of a {type(module).__name__}"))
        elif _is_router(path, blocks, prefix):
            left_out.append(LeftOut(name, "a router: its few outputs choose experts or gate them"))
        else:
            if id(parameter) in owner:
                raise CheckpointError(
                    f"layers {owner[id(parameter)]!r} and {name!r} share one weight, which cannot be pruned for both; "
                    "choose a model without shared layers"
                )
            owner[id(parameter)] = name
            layers.append(Layer(_target_of(name, module, parameter, model, checkpoint), module))
    if not layers:
        raise CheckpointError(f"no linear layer was found inside {prefix!r}; this architecture cannot be pruned")
    order = {name: position for position, name in enumerate(checkpoint.tensors)}
    return sorted(layers, key=lambda layer: order[layer.name]), left_out


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is ``nn.Linear``, or GPT-2's ``Conv1D``, which stores its weight as (in, out)."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the repeated blocks: the module list with most weights in linear layers, the outermost if several."""
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            held = sum(part.weight.numel() for part in module.modules() if is_linear(part))  # type: ignore[misc,operator]
            if held and (best is None or held > best[0]):
                best = held, name, module
    if best is None:
        raise CheckpointError(f"{type(model).__name__} has no list of repeated blocks with linear layers to prune")
    return best[1], best[2]


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield every parameter of two or more dimensions with its module, a shared one once for each module."""
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                yield f"{path}.{leaf}" if path else leaf, module, parameter


def _is_router(path: str, blocks: nn.ModuleList, prefix: str) -> bool:
    """Return whether a linear layer has one output, or one for each expert beside it."""
    inner = path.removeprefix(f"{prefix}.")
    outputs = getattr(blocks.get_submodule(inner), "out_features", None)
    if outputs == 1:
        return True
    parent = blocks.get_submodule(inner.rpartition(".")[0])
    for sibling in parent.children():
        if isinstance(sibling, nn.ModuleList) and len(sibling) == outputs:
            return True
        if any(p.dim() == 3 and p.shape[0] == outputs for p in sibling.parameters(recurse=False)):
            return True
    return False


def _target_of(
    name: str, module: nn.Module, parameter: nn.Parameter, model: PreTrainedModel, checkpoint: Checkpoint
) -> Target:
    base = f"{model.base_model_prefix}."
    # either the checkpoint or the model may be a bare decoder
    for candidate in (name, name.removeprefix(base), base + name):
        if (info := checkpoint.tensors.get(candidate)) is None:
            continue
        if tuple(info.shape) != tuple(parameter.shape):
            raise CheckpointError(
                f"tensor {candidate!r} is {tuple(info.shape)} in the checkpoint but {tuple(parameter.shape)} in the "
                "model; use the config that belongs to the checkpoint"
            )
        transposed = _is_conv1d(module)
        rows, columns = parameter.shape[::-1] if transposed else parameter.shape
        return Target(candidate, (rows, columns), transposed)
    raise CheckpointError(
        f"the checkpoint has no tensor for layer {name!r}, and layouts converted while loading, such as merged "
        "experts, cannot be pruned; save the model again with save_pretrained"
    )
