"""What each matrix of a model is for, by structure: which are pruned, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from unipruning_core.models.experts import Stacked, stacked_in
from unipruning_core.models.towers import Surroundings

if TYPE_CHECKING:
    from torch import Tensor

FEW = 8  # outputs, below which a matrix is coefficients or gates
ROUTER = "a router: its outputs choose among experts, or weigh them"


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is ``nn.Linear``, or GPT-2's ``Conv1D``, which stores its weight as (in, out)."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is GPT-2's ``Conv1D``."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


@dataclass(frozen=True)
class Roles:
    """The modules of a model, and where the experts of its mixtures are."""

    prefix: str  # of the decoder blocks
    modules: Mapping[str, nn.Module]
    stacks: Mapping[str, Stacked]  # parameters that hold the matrices of several experts
    surroundings: Surroundings
    experts: Mapping[str, int]  # how many experts there are in a module: one of a stack, or a list of modules
    embedded: Set[int]  # ids of the weights of embeddings

    @classmethod
    def of(cls, model: nn.Module, prefix: str) -> Roles:
        """Find the experts inside the decoder blocks."""
        modules = dict(model.named_modules())
        config = getattr(model, "config", None)
        hidden = getattr(config.get_text_config(), "hidden_size", None) if config is not None else None
        stacks: dict[str, Stacked] = {}
        experts: dict[str, int] = {}
        for path, module in modules.items():
            if not path.startswith(f"{prefix}."):
                continue
            for stack in stacked_in(path, module, hidden):
                stacks[stack.name] = stack
                experts[path] = stack.experts
            if isinstance(module, nn.ModuleList) and len(module) > 1 and _are_alike(module):
                experts[path] = len(module)
        embedded = {id(module.weight) for module in modules.values() if isinstance(module, nn.Embedding)}
        return cls(prefix, modules, stacks, Surroundings.of(model, prefix), experts, embedded)

    def why_not(self, name: str, module: nn.Module, parameter: Tensor, *, asked: bool = False) -> str | None:
        """Return why a parameter of two or more dimensions stays dense, or None for a linear layer to prune.

        One that the user has ``asked`` for may be anywhere, and of any role.
        """
        path, _, leaf = name.rpartition(".")
        if isinstance(module, nn.Embedding) or (not asked and not path.startswith(f"{self.prefix}.")):
            return self.surroundings.why_not(path, module)
        outputs = parameter.shape[1] if is_conv1d(module) else parameter.shape[0]
        if not asked and self._is_router(path, outputs):
            return ROUTER
        if isinstance(module, nn.modules.conv._ConvNd):
            return "a convolution"
        if not is_linear(module) or leaf != "weight":
            return f"not a linear layer but part of a {type(module).__name__}"
        if id(parameter) in self.embedded:
            return "tied to an embedding"
        if not asked and outputs < FEW:
            return f"too few outputs, {outputs}: gates or coefficients"
        return None

    def why_not_stack(self, stack: Stacked) -> str | None:
        """Return why the experts in a parameter stay dense, or None."""
        if min(stack.matrix_shape) < FEW:
            return f"only {min(stack.matrix_shape)} values a row or column of each expert"
        return None

    def siblings_of(self, name: str) -> str | None:
        """Return one name for the same matrix of all experts that are modules of a list, or None for any other."""
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):
            path = ".".join(parts[:end])
            if isinstance(self.modules.get(path), nn.ModuleList) and path in self.experts:
                return f"{path} {'.'.join(parts[end + 1 :])}"
        return None

    def _is_router(self, path: str, outputs: int) -> bool:
        """Return whether a module chooses among the experts in the smallest part that holds both.

        It has one output for each, beside them, or one more for none; or it is part of a module whose last matrix has.
        """
        child = path
        while (around := child.rpartition(".")[0]) != self.prefix:  # each block has experts of its own
            counts = {
                count
                for holder, count in self.experts.items()
                if holder.startswith(f"{around}.") and holder != child and not holder.startswith(f"{child}.")
            }
            if counts:
                last = outputs if child == path else [matrix.shape[0] for matrix in self._matrices_in(child)][-1]
                return last in counts or last - 1 in counts
            child = around
        return False

    def _matrices_in(self, path: str) -> Iterator[Tensor]:
        return (parameter for parameter in self.modules[path].parameters() if parameter.dim() > 1)


def _are_alike(modules: nn.ModuleList) -> bool:
    """Return whether the modules of a list have matrices of the same shapes, as experts do."""
    shapes = [[tuple(part.shape) for part in module.parameters() if part.dim() > 1] for module in modules]
    return bool(shapes[0]) and all(of_one == shapes[0] for of_one in shapes)
