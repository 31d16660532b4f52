"""What the calibration reached: an expert without tokens takes over from its siblings, any other layer stays dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipruning_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.models.layer import Layer

NO_TOKEN = "no token of the calibration reaches it"
NO_GRADIENT = "the loss of the calibration does not depend on it"
NAMED = 4  # experts that a note names


@dataclass(frozen=True)
class Reach:
    """The layers by position: those with a result, and why the others have none."""

    layers: Sequence[Layer]
    kept: tuple[int, ...]
    siblings: dict[int, tuple[int, ...]]  # the reached siblings of each expert that was not reached
    dense: dict[int, str]

    def note(self) -> Iterator[str]:
        """Yield what to tell the user."""
        if self.siblings:
            names = [self.layers[position].name for position in self.siblings]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield (
                f"{len(names)} of {len(self.kept)} matrices are of experts that no token reached, and take the "
                f"statistics of the other experts of their layer: {', '.join(names[:NAMED])}{more}"
            )
        reasons: dict[str, list[str]] = {}
        for position, why in self.dense.items():
            reasons.setdefault(why, []).append(self.layers[position].name)
        for why, names in reasons.items():
            yield f"left dense: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({why})"


def reach_of(layers: Sequence[Layer], learnt: Sequence[bool], saw: Sequence[bool], *, skipping: bool = False) -> Reach:
    """Decide what becomes of each layer.

    Args:
        learnt: whether there are statistics of its own.
        saw: whether it saw a token.
        skipping: gradients were left out that were not finite, which must not be all of a layer's.

    Raises:
        DataError: most of the weights were not reached, or a layer had no finite gradient.
    """
    by_name: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        if layer.siblings is not None and learnt[position]:
            by_name.setdefault(layer.siblings, []).append(position)
    siblings, dense = {}, {}
    for position, layer in enumerate(layers):
        if learnt[position]:
            continue
        if known := by_name.get(layer.siblings or ""):
            siblings[position] = tuple(known)
        else:
            dense[position] = NO_GRADIENT if saw[position] else NO_TOKEN
    refused = [position for position in dense if skipping and saw[position]]
    if not refused and 2 * sum(layers[p].target.size for p in dense) > sum(layer.target.size for layer in layers):
        refused = list(dense)
    if refused:
        unit, first = "token with a finite gradient" if skipping else "token", layers[refused[0]].name
        raise DataError(
            f"{len(refused)} of {len(layers)} target layers received no {unit} and so have no Γ (first: {first!r}); "
            "calibrate on more or more varied text (--samples), or use --metric magnitude"
        )
    kept = tuple(position for position in range(len(layers)) if position not in dense)
    return Reach(layers, kept, siblings, dense)


def with_siblings(
    reach: Reach,
    positions: Sequence[int],  # of the rows
    sums: Tensor,  # (rows, width), float32: sums of squares
    counts: Tensor,  # (rows, 1), int64: tokens
) -> tuple[Tensor, Tensor]:
    """Return the sums and counts where an expert without tokens has those of its siblings together."""
    if not reach.siblings:
        return sums, counts
    row = {position: index for index, position in enumerate(positions)}
    sums, counts = sums.clone(), counts.clone()
    for position, known in reach.siblings.items():
        if position in row:
            rows = [row[sibling] for sibling in known]
            sums[row[position]] = sums[rows].sum(0)
            counts[row[position]] = counts[rows].sum(0)
    return sums, counts
