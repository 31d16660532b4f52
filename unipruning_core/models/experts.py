"""The experts of a mixture: each has matrices of its own, though a model may hold those of all experts in one tensor.

While a search runs, such a tensor is replaced by a stand-in that multiplies by one expert's matrix at a time, through a
module for each, so that inputs, gradients and masked weights of an expert are those of a linear layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import linear

from unipruning_core.errors import CheckpointError
from unipruning_core.models.replaced_forward import replaced_forward

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.layer import Layer


class ExpertLinear(nn.Module):
    """The product with one matrix of one expert, whose weight is a view of the tensor that holds all."""

    def __init__(self, view: Tensor, *, transposed: bool) -> None:
        super().__init__()
        # with a version of its own: autograd need not take a change of one expert for a change of all
        self.weight = nn.Parameter(view.data, requires_grad=False)
        self.transposed = transposed  # the weight is (in, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (tokens, out), for the tokens of this expert, (tokens, in)."""
        return x @ self.weight if self.transposed else linear(x, self.weight)


@dataclass(frozen=True, eq=False)
class Stacked:
    """A parameter that holds the matrices of all experts: (experts, out, in), or with experts and rows in one side."""

    name: str  # in the model
    module: nn.Module
    leaf: str  # its name in the module
    experts: int
    transposed: bool  # each matrix is (in, out)
    parts: list[list[ExpertLinear]] = field(default_factory=list)  # of each expert, side by side in its outputs

    @property
    def parameter(self) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self.module, self.leaf)
        return parameter

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The shape of one expert's matrix, as stored."""
        *_, columns = self.parameter.shape
        return self.parameter.numel() // (self.experts * columns), columns

    def split(self, widths: Sequence[int]) -> None:
        """Make the modules of every expert, for matrices with so many outputs each, in the order they are stored."""
        side = 1 if self.transposed else 0
        for matrix in self.parameter.detach().view(self.experts, *self.matrix_shape):
            self.parts.append(
                [ExpertLinear(part, transposed=self.transposed) for part in matrix.split(list(widths), dim=side)]
            )


def stacked_in(path: str, module: nn.Module, hidden: int | None) -> list[Stacked]:
    """Return the parameters of a module that hold the matrices of several experts.

    They have the module's number of experts as their first side, or several rows for each.  How the matrices lie is
    what the module says, or else follows from their sides: a gate and its companion, joined, have twice the outputs
    that the next matrix has inputs.  What is read wrongly here cannot be multiplied with later, and is refused.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        return []
    counts = {value for name, value in vars(module).items() if "expert" in name and type(value) is int}
    held = {leaf: parameter for leaf, parameter in module.named_parameters(recurse=False) if parameter.dim() in (2, 3)}
    found = []
    for leaf, parameter in held.items():
        if (count := _experts_of(parameter, counts)) is not None:
            name = f"{path}.{leaf}" if path else leaf
            found.append((name, leaf, count, parameter))
    turned = _turned([parameter for *_, parameter in found], getattr(module, "is_transposed", None), hidden)
    return [
        Stacked(name, module, leaf, count, transposed)
        for (name, leaf, count, _), transposed in zip(found, turned, strict=True)
    ]


def _experts_of(parameter: Tensor, counts: set[int]) -> int | None:
    """Return how many experts have a matrix in a parameter, or None; a router has a row for each, a bias a vector."""
    sides = parameter.shape
    if len(sides) == 3:
        return sides[0] if sides[0] in counts else None
    most = max(counts, default=0)
    return most if most > 1 and sides[0] not in counts and sides[0] % most == 0 else None


def _turned(parameters: Sequence[Tensor], declared: Any, hidden: int | None) -> list[bool]:
    """Return which parameters store each matrix as (in, out)."""
    if isinstance(declared, bool):
        return [declared] * len(parameters)
    shapes = [tuple(parameter.shape) for parameter in parameters]
    if parameters and parameters[0].dim() == 2:
        # rows of one layout in all: what leads back to the hidden states, which comes last, is used the other way round
        return [len(set(shapes)) == 1 and position == len(shapes) - 1 > 0 for position in range(len(shapes))]
    ups = [shape for shape in shapes if shape[1] == hidden]
    downs = [shape for shape in shapes if shape[2] == hidden and shape not in ups]
    joined = bool(ups and downs) and all(up[2] == 2 * down[1] for up in ups for down in downs)
    return [joined] * len(parameters)


@contextmanager
def apart(layers: Iterable[Layer]) -> Iterator[None]:
    """Let the model multiply by each expert's matrices through the modules of their layers, which can have hooks.

    Outside, the model is as it was; the weights are the same memory.
    """
    with ExitStack() as restored:
        for stack in dict.fromkeys(layer.stack for layer in layers):
            if stack is not None:
                restored.enter_context(_apart(stack))
        yield


@contextmanager
def _apart(stack: Stacked) -> Iterator[None]:
    module, leaf, parameter = stack.module, stack.leaf, stack.parameter
    parts = nn.ModuleList([nn.ModuleList(of_expert) for of_expert in stack.parts])
    parts.train(module.training)
    # the loop over experts, where the library has faster forms that need all of them in one tensor
    eager = partial(inspect.unwrap(type(module).forward), module)
    before = dict(module._parameters)
    del module._parameters[leaf]
    module.__dict__[leaf] = StandIn(stack, parameter)
    module._modules[f"{leaf}_of_experts"] = parts
    try:
        with replaced_forward(module, eager):
            yield
    finally:
        del module._modules[f"{leaf}_of_experts"]
        del module.__dict__[leaf]
        module._parameters.clear()
        module._parameters.update(before)  # in their order


class StandIn:
    """What a module finds in place of a stacked parameter: it can be indexed by expert and multiplied with."""

    def __init__(self, stack: Stacked, parameter: Tensor, *, turned: bool = False) -> None:
        self._stack, self._parameter, self._is_turned = stack, parameter, turned
        self.shape, self.dtype, self.device = parameter.shape, parameter.dtype, parameter.device

    def __getitem__(self, expert: Any) -> OfExpert:
        return OfExpert(self._stack, int(expert), turned=self._is_turned)

    def view(self, *shape: Any) -> StandIn:
        """Return itself: its experts are one dimension already."""
        return self

    reshape = view

    def transpose(self, *_: int) -> StandIn:
        return StandIn(self._stack, self._parameter, turned=not self._is_turned)

    @property
    def mT(self) -> StandIn:  # noqa: N802 - torch's name
        return self.transpose()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.bmm, torch.Tensor.bmm, torch.matmul, torch.Tensor.matmul) and isinstance(args[1], cls):
            x, weight = args
            return torch.stack(
                [_of_routed(one, weight[expert]) for expert, one in enumerate(x)]  # (experts, tokens, in)
            )
        if func is linear and len(args[1]._stack.parts) == 1:
            return linear(args[0], args[1][0], *args[2:], **(kwargs or {}))
        raise _unsupported(func, args)


class OfExpert:
    """The matrices of one expert, side by side, which can only be multiplied with."""

    def __init__(self, stack: Stacked, expert: int, *, turned: bool = False) -> None:
        self._stack, self._parts, self._is_turned = stack, stack.parts[expert], turned

    @property
    def T(self) -> OfExpert:  # noqa: N802 - torch's name
        turned = OfExpert.__new__(OfExpert)
        turned._stack, turned._parts, turned._is_turned = self._stack, self._parts, not self._is_turned
        return turned

    mT = T  # noqa: N815

    def t(self) -> OfExpert:
        return self.T

    def transpose(self, *_: int) -> OfExpert:
        return self.T

    def to(self, *_: Any, **__: Any) -> OfExpert:
        return self

    def product(self, x: Tensor, *, of_rows: bool) -> Tensor:
        """Return x times the matrix, (tokens, out).

        Args:
            of_rows: the matrix is used as (out, in), as ``linear`` does.
        """
        if of_rows == (self._stack.transposed != self._is_turned):
            raise CheckpointError(
                f"the experts' {self._stack.name!r} is multiplied the other way round than its sides tell, so it cannot"
                f" be pruned; leave it dense with --exclude '{self._stack.name}*'"
            )
        made = [part(x) for part in self._parts]
        return made[0] if len(made) == 1 else torch.cat(made, -1)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is linear:
            x, weight, *bias = args
            bias = bias or [(kwargs or {}).get("bias")]
            made = weight.product(x, of_rows=True)
            return made if bias[0] is None else made + bias[0]
        products = (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__)
        if func in products and isinstance(args[1], cls):
            return args[1].product(args[0], of_rows=False)
        raise _unsupported(func, args)


def _of_routed(x: Tensor, weight: OfExpert) -> Tensor:
    """Return x times the matrix, (tokens, out), where tokens that are not the expert's are rows of zeros."""
    mine = x.detach().any(-1).nonzero().flatten()
    if not len(mine):
        columns = sum(part.weight.shape[int(part.transposed)] for part in weight._parts)
        return x.new_zeros(len(x), columns)
    made = weight.product(x.index_select(0, mine), of_rows=False)
    return made.new_zeros(len(x), made.shape[1]).index_copy(0, mine, made)


def _unsupported(func: Callable[..., Any], args: Sequence[Any]) -> CheckpointError:
    (stack,) = {part._stack for part in args if isinstance(part, StandIn | OfExpert)}
    return CheckpointError(
        f"the experts' {stack.name!r} is used by {getattr(func, '__name__', func)!r}, not by a product with one "
        f"expert's matrix, so it cannot be pruned; leave it dense with --exclude '{stack.name}*'"
    )
