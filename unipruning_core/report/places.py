"""Where a matrix stands in a model: its layer and its projection, read from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from unipruning_core.tools.listing import NUMBER

NO_LAYER = -1


@dataclass(frozen=True)
class Place:
    """A cell of a map of the model, which the experts of a layer share."""

    layer: int  # NO_LAYER outside all layers
    projection: str

    @property
    def layer_text(self) -> str:
        return "-" if self.layer == NO_LAYER else str(self.layer)


def places_of(names: Iterable[str]) -> dict[str, Place]:
    """Return the place of each matrix; what stands before the layer is named where it differs between them."""
    split = {name: _split(name) for name in names}
    stacks = {stack for stack, layer, _ in split.values() if layer != NO_LAYER}
    return {
        name: Place(layer, f"{stack}.{rest}" if stack and len(stacks) > 1 else rest)
        for name, (stack, layer, rest) in split.items()
    }


def _split(name: str) -> tuple[str, int, str]:
    """Return what stands before the first number of a name, the number, and what follows, with * for more numbers."""
    first = NUMBER.search(name)
    rest = re.sub(r"\.weight$", "", name)
    if first is None:
        return "", NO_LAYER, rest
    return name[: first.start()].rstrip("."), int(first[0]), NUMBER.sub("*", rest[first.end() :].lstrip("."))


def short_names(projections: Iterable[str]) -> dict[str, str]:
    """Return the last part of each name where that tells them apart, or else the whole."""
    known = list(dict.fromkeys(projections))
    last = [name.rpartition(".")[2] for name in known]
    return dict(zip(known, last if len(set(last)) == len(known) else known, strict=True))
