"""What would be pruned of a model and what would stay dense, and why, grouped by layers that are alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipruning_core.models.outline import Outline

SCHEMA = "unipruning-targets-1"
VECTORS, VECTORS_WHY = "vectors", "norms, biases and the like"
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole part of a name


@dataclass(frozen=True)
class Group:
    """Matrices of one shape whose names differ in numbers alone, and that are dense for one reason if they are."""

    name: str  # of the only one, or a pattern with * for the numbers
    count: int
    shape: tuple[int, ...]
    weights: int  # of all
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "matrices": self.count, "shape": list(self.shape), "weights": self.weights}
        return about | {"why": self.why} if self.why else about


@dataclass(frozen=True)
class Listing:
    """The matrices of a model, in the order of the checkpoint."""

    model: str
    dtype: str
    weights: int
    embeddings: int
    targets: tuple[Group, ...]
    dense: tuple[Group, ...]

    @property
    def pruned(self) -> int:
        """The weights of all targets."""
        return sum(group.weights for group in self.targets)

    @property
    def outside(self) -> int:
        """The weights outside embeddings."""
        return self.weights - self.embeddings

    @property
    def matrices(self) -> int:
        """The number of targets."""
        return sum(group.count for group in self.targets)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "dtype": self.dtype,
            "weights": self.weights,
            "embeddings": self.embeddings,
            "target_matrices": self.matrices,
            "target_weights": self.pruned,
            "target_fraction": self.pruned / self.weights,
            "target_fraction_outside_embeddings": self.pruned / self.outside,
            "targets": [group.to_json() for group in self.targets],
            "dense": [group.to_json() for group in self.dense],
        }


def listing(outline: Outline, *, each: bool = False) -> Listing:
    """List a model's matrices in groups, or with ``each`` one by one."""
    targets = tuple(_grouped(((t.name, t.shape, t.size, "") for t in outline.targets), each=each))
    dense = list(_grouped(_dense(outline), each=each))
    held = sum(group.weights for group in (*targets, *dense))
    if vectors := outline.size.weights - held:
        dense.append(Group(VECTORS, 0, (), vectors, VECTORS_WHY))
    dtype = str(outline.dtype).removeprefix("torch.")
    size = outline.size
    return Listing(outline.name, dtype, size.weights, size.embeddings, targets, tuple(dense))


def _dense(outline: Outline) -> Iterator[tuple[str, tuple[int, ...], int, str]]:
    """Yield name, shape, weights and reason of what stays dense; a weight with two names counts once."""
    for part in outline.left_out:
        if (first := outline.shared.get(part.name)) is None:
            yield part.name, part.shape, math.prod(part.shape), part.why
        else:
            yield part.name, part.shape, 0, f"the same weights as {first}"


def _grouped(matrices: Iterable[tuple[str, tuple[int, ...], int, str]], *, each: bool) -> Iterator[Group]:
    found: dict[tuple[str, tuple[int, ...], str], list[tuple[str, int]]] = {}
    for name, shape, weights, why in matrices:
        pattern = name if each else NUMBER.sub("*", name)
        found.setdefault((pattern, tuple(shape), why), []).append((name, weights))
    for (pattern, shape, why), members in found.items():
        name = members[0][0] if len(members) == 1 else pattern
        yield Group(name, len(members), shape, sum(weights for _, weights in members), why)
