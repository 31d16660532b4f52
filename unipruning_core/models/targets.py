"""The linear layers to prune, found by type and role rather than by name, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from unipruning_core.errors import CheckpointError
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.chosen import Chosen
from unipruning_core.models.decoder import decoder_blocks
from unipruning_core.models.experts import ExpertLinear, Stacked
from unipruning_core.models.layer import Layer
from unipruning_core.models.names import Names, Piece
from unipruning_core.models.roles import Roles, is_conv1d
from unipruning_core.storage.checkpoint import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Checkpoint


@dataclass(frozen=True)
class LeftOut:
    """A matrix that stays dense, and the reason to report."""

    name: str
    why: str
    shape: tuple[int, ...] = ()


def find_targets(
    model: PreTrainedModel, checkpoint: Checkpoint, choice: TargetChoice = BY_ROLE
) -> tuple[list[Layer], list[LeftOut]]:
    """Find the linear layers to prune, in checkpoint order, and the matrices left dense.

    They are those inside the repeated decoder blocks, or those that the choice includes, without those it excludes.

    Raises:
        CheckpointError: no repeated blocks, or a layer whose weight the checkpoint does not hold under a matching name
            and shape.
        ConfigError: a pattern of the choice has no effect, or nothing is left to prune.
    """
    prefix, _ = decoder_blocks(model)
    roles, finder, asked = Roles.of(model, prefix), _Finder(Names.of(model, checkpoint), checkpoint), choice.include
    chosen = Chosen(choice, [(name, parameter) for name, _, parameter in _matrices(model)], finder.names)
    left_out: list[LeftOut] = []
    for name, module, parameter in _matrices(model):
        if why := chosen.why_not(name, stacked=name in roles.stacks):
            left_out.append(LeftOut(name, why, tuple(parameter.shape)))
            continue
        if (stack := roles.stacks.get(name)) is not None:
            why = (None if asked else roles.why_not_stack(stack)) or finder.add_stack(stack)
        else:
            why = roles.why_not(name, module, parameter, asked=bool(asked))
            why = why or finder.add(name, module, roles.siblings_of(name))
        if why:
            chosen.refused(name, why)
            left_out.append(LeftOut(name, why, tuple(parameter.shape)))
    layers, others = chosen.divided(finder.layers())
    if not layers:
        raise CheckpointError(f"no linear layer was found inside {prefix!r}; this architecture cannot be pruned")
    return layers, [*left_out, *(LeftOut(*other) for other in others)]


def check_values(layers: Sequence[Layer], checkpoint: Checkpoint, progress: Progress) -> None:
    """Compare every layer that the checkpoint holds under another name, or in another layout, with the model.

    Raises:
        CheckpointError: the values are not the same.
    """
    moved = [layer for layer in layers if layer.moved]
    if not moved:
        return
    with progress.task("comparing names", len(moved), "matrices") as task:
        for layer in moved:
            stored = checkpoint.values_of(layer.target)
            held = layer.as_stored(layer.weight)
            if not torch.equal(stored.to(held.dtype), held.cpu()):
                raise CheckpointError(
                    f"{layer.name!r} of the checkpoint is not what the model holds in {layer.name_in_model!r}, so a "
                    f"mask would be of other weights; leave it dense with --exclude '{layer.name}', or report this "
                    "model"
                )
            task.advance()


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield every parameter of two or more dimensions with its module, a shared one once for each module."""
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                yield f"{path}.{leaf}" if path else leaf, module, parameter


class _Finder:
    """The layers found so far, by parameter."""

    def __init__(self, names: Names, checkpoint: Checkpoint) -> None:
        self.names, self.checkpoint = names, checkpoint
        self.found: dict[int, list[Layer]] = {}

    def layers(self) -> list[Layer]:
        """Return the layers in the order of the checkpoint."""
        order = {name: position for position, name in enumerate(self.checkpoint.tensors)}
        layers = [layer for of_parameter in self.found.values() for layer in of_parameter]
        return sorted(layers, key=lambda layer: (order[layer.target.tensor], layer.target.start))

    def add(self, name: str, module: nn.Module, siblings: str | None) -> str | None:
        """Add a linear layer; return why it stays dense, if it does."""
        parameter: nn.Parameter = module.weight  # type: ignore[assignment]
        if (known := self.found.get(id(parameter))) is not None:
            (layer,) = known
            self.found[id(parameter)] = [replace(layer, others=(*layer.others, module))]
            return None
        if name in self.names.unread:
            return self.names.unread[name]
        transposed = is_conv1d(module)
        pieces = self.names.of_parameter(name)
        if len(pieces) > 1:
            return self.add_stack(Stacked(name, module, "weight", 1, transposed))
        if not pieces:
            raise CheckpointError(
                f"the checkpoint has no tensor for layer {name!r}; copy the complete checkpoint, or leave the layer "
                f"dense with --exclude '{name}'"
            )
        (piece,) = pieces
        shape = self._shape(piece)
        if shape != tuple(parameter.shape):
            raise CheckpointError(
                f"tensor {piece.tensor!r} is {shape} in the checkpoint but {tuple(parameter.shape)} in the model; use "
                "the config that belongs to the checkpoint"
            )
        target = _target(piece, shape, transposed=transposed)
        moved = target.name != name
        self.found[id(parameter)] = [Layer(target, module, name, transposed=transposed, siblings=siblings, moved=moved)]
        return None

    def add_stack(self, stack: Stacked) -> str | None:
        """Add the matrices of all experts in a parameter; return why they stay dense, if they do."""
        if stack.name in self.names.unread:
            return self.names.unread[stack.name]
        pieces = self.names.of_parameter(stack.name)
        if not pieces:
            return "the checkpoint has no tensor of that name"
        if len(pieces) == 1:
            if self._shape(pieces[0]) != tuple(stack.parameter.shape):
                return "it has another shape in the checkpoint"
            stack.split([stack.matrix_shape[int(stack.transposed)]])
            whole = pieces[0]
            rows = [(_part_of(whole, stack, expert), part) for expert, (part,) in enumerate(stack.parts)]
        else:
            rows = self._side_by_side(stack, pieces)
            if not rows:
                return "its tensors lie in the parameter in a way that is not supported"
        kinds = len(stack.parts[0])
        self.found[id(stack.parameter)] = [
            Layer(
                target,
                part,
                stack.name,
                transposed=stack.transposed,
                stack=stack,
                siblings=f"{stack.name} {position % kinds}" if stack.experts > 1 else None,
                moved=True,
            )
            for position, (target, part) in enumerate(rows)
        ]
        return None

    def _side_by_side(self, stack: Stacked, pieces: list[Piece]) -> list[tuple[Target, ExpertLinear]]:
        """Return the targets of one tensor each, expert by expert; nothing if they do not fill the parameter so."""
        rows, columns = stack.matrix_shape
        straight = all(piece.view.stride() == (columns, 1) for piece in pieces)
        turned = all(piece.view.stride() == (1, columns) for piece in pieces)
        if not straight and not turned:
            return []
        pieces.sort(key=lambda piece: piece.view.storage_offset())
        by_expert: list[list[Piece]] = [[] for _ in range(stack.experts)]
        for piece in pieces:
            by_expert[piece.view.storage_offset() // (rows * columns)].append(piece)
        # the sides of each matrix as the model stores it
        sides = [
            [tuple(p.view.shape) if straight else tuple(p.view.shape)[::-1] for p in of_one] for of_one in by_expert
        ]
        out, into = (1, 0) if stack.transposed else (0, 1)
        widths = [[shape[out] for shape in of_one] for of_one in sides]
        fits = (
            all(of_one == widths[0] for of_one in widths)
            and sum(widths[0]) == (rows, columns)[out]
            and all(shape[into] == (rows, columns)[into] for of_one in sides for shape in of_one)
            and all(self._shape(piece) == tuple(piece.view.shape) for piece in pieces)
        )
        if not fits:
            return []
        stack.split(widths[0])
        return [
            (_target(piece, tuple(piece.view.shape), transposed=stack.transposed == straight), part)
            for of_one, parts in zip(by_expert, stack.parts, strict=True)
            for piece, part in zip(of_one, parts, strict=True)
        ]

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        return self.checkpoint.tensors[piece.tensor].shape if piece.whole else tuple(piece.view.shape)


def _target(piece: Piece, shape: Sequence[int], *, transposed: bool) -> Target:
    rows, columns = shape[::-1] if transposed else shape
    if piece.whole:
        return Target(piece.tensor, (rows, columns), transposed)
    return Target(f"{piece.tensor}.{piece.start}", (rows, columns), transposed, piece.tensor, piece.start)


def _part_of(whole: Piece, stack: Stacked, expert: int) -> Target:
    """Return the target of one expert in a tensor that holds all as the model does."""
    rows, columns = stack.matrix_shape
    shape = (columns, rows) if stack.transposed else (rows, columns)
    return Target(f"{whole.tensor}.{expert}", shape, stack.transposed, whole.tensor, expert * rows * columns)
