"""A result in safetensors: a folder or one file, plain or in codes that are read one matrix at a time."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.config import read_config
from unipruning_core.storage.layout import CONFIG_FILE
from unipruning_core.storage.packed import Plain, plain_tensors
from unipruning_core.storage.paths import path_errors_as
from unipruning_core.storage.quantised import method_of
from unipruning_core.storage.tensorfile import read_header

if TYPE_CHECKING:
    from unipruning_core.storage.tensorfile import TensorInfo


class SavedResult:
    """The tensors of a checkpoint as the numbers that they stand for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_file():
            with path_errors_as(CheckpointError, f"result {str(path)!r}"):
                self._checkpoint = Checkpoint(path.parent, (path,), read_header(path)[0])
        else:
            self._checkpoint = Checkpoint.open(path)
        config = self._checkpoint.folder / CONFIG_FILE
        method = method_of(read_config(config) if config.is_file() else {}, self._checkpoint.tensors)
        if method is not None:
            raise CheckpointError(
                f"result {str(path)!r} is quantised by {method}, whose codes are not read here; save it dequantised"
            )
        self._last: tuple[str, Tensor] | None = None  # several targets in a row may lie in one tensor

    @cached_property
    def _plain(self) -> dict[str, Plain]:
        return {plain.name: plain for plain in plain_tensors(self._checkpoint)}

    def read(self, target: Target, like: Tensor) -> tuple[Tensor, str]:  # (out, in), any float
        """Return a matrix of the shape of ``like``, in the orientation of the layer, and the type of its numbers.

        Raises:
            CheckpointError: it is missing, or has another shape.
        """
        plain = self._plain[found(target.tensor, self._plain, self.path)]
        stored = self._stored(plain)
        # of codes alone the whole tensor has to be decoded
        if plain.name in self._checkpoint.tensors and not self._checkpoint.codes.holds(plain.name):
            check_shape(target, plain.shape, target.start + target.size, self.path)
            matrix = self._checkpoint.read_target(_renamed(target, plain.name))
        else:
            whole = self._decoded(plain)
            check_shape(target, tuple(whole.shape), target.start + target.size, self.path)
            matrix = whole.flatten()[target.start : target.start + target.size].view(target.stored_shape)
        return (matrix.t() if target.transposed else matrix), stored

    def _decoded(self, plain: Plain) -> Tensor:
        if self._last is None or self._last[0] != plain.name:
            self._last = None  # which would otherwise be there together with the next one
            self._last = (plain.name, plain.read())
        return self._last[1]

    def _stored(self, plain: Plain) -> str:
        info: TensorInfo = self._checkpoint.tensors[plain.source]
        return info.type_name


def found(name: str, names: Collection[str], path: Path) -> str:
    """Return a tensor's name in a result, which may have another prefix.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    if name in names:
        return name
    like = [other for other in names if other.endswith(f".{name}") or name.endswith(f".{other}")]
    if len(like) != 1:
        raise CheckpointError(
            f"result {str(path)!r} holds no weight {name!r}; pass what was made of this pruned checkpoint, and merge"
            " adapters into it first"
        )
    return like[0]


def check_shape(target: Target, shape: tuple[int, ...], end: int, path: Path) -> None:
    """Refuse a tensor of another shape than the target's, or too small to hold it.

    Raises:
        CheckpointError: it is.
    """
    if (target.within is None and shape != target.stored_shape) or end > math.prod(shape):
        raise CheckpointError(
            f"weight {target.name!r} has the shape {shape} in {str(path)!r}, and {target.stored_shape} in the pruned"
            " checkpoint; pass what was made of that"
        )


def _renamed(target: Target, tensor: str) -> Target:
    """Return the target under the name of its tensor in another checkpoint."""
    return Target(target.name, target.shape, target.transposed, tensor, target.start)
