"""From the parameters of a model to the tensors of its checkpoint, by the model library's own tables.

While a model is loaded, tensors are renamed, and several may become one parameter, or one several.  The same tables are
applied here to names and shapes alone, without values; ``check_values`` then compares every matrix that was renamed or
converted with the file, so that a wrong reading ends in an error and never in a wrong mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError
from unipruning_core.models.borders import library_errors_as

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.storage.checkpoint import Checkpoint

DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Piece:
    """A tensor of the checkpoint, or consecutive elements of one, and the same elements of a parameter."""

    tensor: str
    start: int  # its first element in the tensor
    whole: bool  # it is all of the tensor
    view: Tensor  # on the meta device: shape as in the checkpoint, offset and strides as in the parameter


@dataclass(frozen=True)
class Names:
    """Where each parameter of a model is in its checkpoint."""

    pieces: Mapping[str, Sequence[Piece]]  # by parameter
    unread: Mapping[str, str]  # why a parameter's tensors are not known
    also: Mapping[str, Sequence[str]]  # all names of a parameter that several modules share, by each of them
    unused: frozenset[str]  # tensors of the checkpoint that the model has no use for, such as buffers of older versions

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        checkpoint: Checkpoint,
        called: Callable[[str], str] = str,  # what a parameter is called without what is wrapped around its module
    ) -> Names:
        """Follow every tensor of the checkpoint into the model."""
        shapes: dict[str, tuple[int, ...]] = {}
        shared: dict[int, list[str]] = {}
        for wrapped, parameter in model.named_parameters(remove_duplicate=False):
            name = called(wrapped)
            shapes[name] = tuple(parameter.shape)
            shared.setdefault(id(parameter), []).append(name)
        saved = {called(name) for name in model.state_dict()}
        buffers = {called(name): tuple(buffer.shape) for name, buffer in model.named_buffers()}
        shapes |= {name: shape for name, shape in buffers.items() if name in saved}
        with library_errors_as(CheckpointError, f"the tensors of {type(model).__name__} cannot be named", "report it"):
            rename = _renaming(model, checkpoint.codes.weights, called)
        pieces: dict[str, list[Piece]] = {}
        unread: dict[str, str] = {}
        groups: dict[str, tuple[Any, dict[str, list[str]]]] = {}
        unused = []
        for key in sorted(checkpoint.codes.weights, key=_natural):
            name, converter, pattern = rename(key)
            if converter is not None:
                groups.setdefault(name, (converter, {}))[1].setdefault(pattern, []).append(key)
            elif name in shapes:
                view = _blank(shapes[name])
                pieces.setdefault(name, []).append(Piece(key, 0, whole=True, view=view))
            elif name not in saved:
                unused.append(key)
        for name, (converter, keys) in groups.items():
            found = {part: [checkpoint.codes.weights[key].shape for key in keys[part]] for part in keys}
            solved = _converted(name, converter, keys, found, shapes)
            if isinstance(solved, str):
                targets = _target_names(name, converter)
                unread |= dict.fromkeys(targets, solved)
            else:
                pieces |= solved
        also = {name: names for names in shared.values() if len(names) > 1 for name in names}
        return cls(pieces, unread, also, frozenset(unused))

    def of_parameter(self, name: str) -> list[Piece]:
        """Return the pieces of a parameter under any of its names.

        Raises:
            CheckpointError: the checkpoint holds it twice.
        """
        found = [self.pieces[other] for other in self.also.get(name, [name]) if other in self.pieces]
        if len(found) > 1:
            raise CheckpointError(
                f"the model has one weight for {found[0][0].tensor!r} and {found[1][0].tensor!r} of the checkpoint, "
                "which would have to be pruned alike; save the model with save_pretrained, which keeps one"
            )
        return list(found[0]) if found else []


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in DIGITS.split(name)]


def _blank(shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), device="meta")


def _renaming(
    model: PreTrainedModel, tensors: Iterable[str], called: Callable[[str], str]
) -> Callable[[str], tuple[str, Any, str]]:
    """Return what maps a tensor's name to the parameter's, the converter that it goes through, and its pattern."""
    known = dict.fromkeys([called(name) for name, _ in model.named_parameters(remove_duplicate=False)], True)
    known |= dict.fromkeys([called(name) for name, _ in model.named_buffers()], True)
    if all(name in known for name in tensors):
        return lambda key: (key, None, "")
    prefix = model.base_model_prefix
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    # before transformers 5, which renames by patterns alone
    except ImportError:
        patterns: Mapping[str, str] = getattr(model, "_checkpoint_conversion_mapping", {})
        return lambda key: (_renamed(key, patterns, prefix, known), None, "")
    transforms = get_model_conversion_mapping(model) or []
    renamings = [part for part in transforms if isinstance(part, WeightRenaming)]
    converters = [part for part in transforms if isinstance(part, WeightConverter)]
    by_pattern = {pattern: part for part in converters for pattern in part.source_patterns}

    def rename(key: str) -> tuple[str, Any, str]:
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        # a tensor that bears the parameter's name already is not converted
        if pattern is not None and key in known and name != key:
            return key, None, ""
        return name, by_pattern.get(pattern) if pattern is not None else None, pattern or ""

    return rename


def _renamed(key: str, patterns: Mapping[str, str], prefix: str, known: Mapping[str, bool]) -> str:
    """Return the name of a parameter by patterns, with or without the prefix of the bare model."""
    name = key
    for pattern, replacement in patterns.items():
        name, count = re.subn(pattern, re.sub(r"\(.*\)", "", replacement.lstrip("^")), key)
        if count:
            break
    candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((candidate for candidate in candidates if candidate in known), name)


def _target_names(name: str, converter: Any) -> list[str]:
    """Return the parameters that a converter makes, of which ``name`` is the first."""
    first, *others = converter.target_patterns
    literal = first.replace("\\", "")
    return [name, *(name.replace(literal, other.replace("\\", "")) for other in others)]


def _converted(
    name: str,
    converter: Any,
    keys: Mapping[str, Sequence[str]],  # tensors by pattern
    found: Mapping[str, Sequence[tuple[int, ...]]],  # their shapes
    shapes: Mapping[str, tuple[int, ...]],  # of the parameters
) -> dict[str, list[Piece]] | str:
    """Return the pieces of the parameters that a converter makes, or why they are not known."""
    operations = [(type(part).__name__, part) for part in converter.operations]
    names = _target_names(name, converter)
    if any(target not in shapes for target in names):
        return "the model has no parameter for what its tensors are converted to"
    kinds = {kind for kind, _ in operations}
    if len(names) == 1 and kinds <= {"MergeModulelist", "Concatenate", "Transpose"}:
        views = _merged(
            operations, {part: list(found[part]) for part in converter.source_patterns if part in found}, shapes[name]
        )
        if views is not None:
            return {
                name: [
                    Piece(key, 0, whole=True, view=view)
                    for pattern in views
                    for key, view in zip(keys[pattern], views[pattern], strict=True)
                ]
            }
    single = [key for part in keys.values() for key in part]
    if len(single) == 1 and kinds <= {"Chunk", "Split"} and len(operations) == 1:
        (shape,) = [shape for part in found.values() for shape in part]
        parts = _blank(shape).split([shapes[target][operations[0][1].dim] for target in names], operations[0][1].dim)
        if all(part.is_contiguous() for part in parts):
            return {
                target: [Piece(single[0], part.storage_offset(), whole=False, view=_blank(part.shape))]
                for target, part in zip(names, parts, strict=True)
            }
    return f"its tensors are converted while loading by {', '.join(kind for kind, _ in operations)}"


def _merged(
    operations: Sequence[tuple[str, Any]], shapes: dict[str, list[tuple[int, ...]]], made: tuple[int, ...]
) -> dict[str, list[Tensor]] | None:
    """Return, by pattern, where each tensor lies in the parameter that is made of all, or None if it does not fit.

    The operations are followed forwards with shapes, and then backwards with views of the parameter.
    """
    history = []
    for kind, operation in operations:
        history.append({part: list(of_part) for part, of_part in shapes.items()})
        if kind == "MergeModulelist":
            if any(len(set(of_part)) > 1 for of_part in shapes.values()):
                return None
            shapes = {
                part: [(*of_part[0][: operation.dim], len(of_part), *of_part[0][operation.dim :])]
                for part, of_part in shapes.items()
            }
        elif kind == "Concatenate":
            flat = [shape for of_part in shapes.values() for shape in of_part]
            side = sum(shape[operation.dim] for shape in flat)
            shapes = {next(iter(shapes)): [(*flat[0][: operation.dim], side, *flat[0][operation.dim + 1 :])]}
        else:
            shapes = {
                part: [tuple(_blank(shape).transpose(operation.dim0, operation.dim1).shape) for shape in of_part]
                for part, of_part in shapes.items()
            }
    if [shape for of_part in shapes.values() for shape in of_part] != [made]:
        return None
    views = {next(iter(shapes)): [_blank(made)]}
    for (kind, operation), before in zip(reversed(operations), reversed(history), strict=True):
        if kind == "MergeModulelist":
            views = {part: list(of_part[0].unbind(operation.dim)) for part, of_part in views.items()}
        elif kind == "Concatenate":
            (whole,) = (view for of_part in views.values() for view in of_part)
            sides = [shape[operation.dim] for of_part in before.values() for shape in of_part]
            split = iter(whole.split(sides, operation.dim))
            views = {part: [next(split) for _ in of_part] for part, of_part in before.items()}
        else:
            views = {
                part: [view.transpose(operation.dim0, operation.dim1) for view in of_part]
                for part, of_part in views.items()
            }
    return views
