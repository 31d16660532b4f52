"""Which matrices and files of a checkpoint each rank writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unipruning_core.storage.files import sync

if TYPE_CHECKING:
    from unipruning_core.distributed.world import World
    from unipruning_core.storage.checkpoint import Target
    from unipruning_core.storage.tensorstream import TensorStream


@dataclass(frozen=True)
class Part:
    """What one rank does of a projection: consecutive targets, so that ties between ranks go to the earlier target."""

    world: World
    borders: tuple[int, ...]  # the first target of each rank, and their number

    @classmethod
    def of(cls, targets: Sequence[Target], world: World) -> Part:
        """Divide targets into parts of about equal sizes."""
        total, before, borders = sum(target.size for target in targets), 0, [0]
        for position, target in enumerate(targets):
            # a target belongs where its middle lies
            while world.size * (2 * before + target.size) > 2 * len(borders) * total:
                borders.append(position)
            before += target.size
        return cls(world, (*borders, *[len(targets)] * (world.size + 1 - len(borders))))

    @property
    def positions(self) -> range:
        """The targets of this rank."""
        return self.of_rank(self.world.rank)

    def of_rank(self, rank: int) -> range:
        return range(self.borders[rank], self.borders[rank + 1])

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Return the files that this rank copies."""
        return list(files[self.world.rank :: self.world.size])

    def sync(self, folder: Path) -> None:
        """Have what this rank has written on disk, since a sync by another may not include it."""
        if self.world.size > 1:
            for path in folder.rglob("*"):
                if path.is_file():
                    sync(path)


class MaskPart(AbstractContextManager["MaskPart"]):
    """The packed masks of a rank, in a file beside the mask file, which the first rank completes with them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")

    def append(self, packed: Tensor) -> None:  # (bytes,) uint8
        self._file.write(packed.numpy().data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def join(masks: TensorStream, path: Path, sizes: Sequence[int]) -> None:
    """Append the packed masks of another rank, of these sizes, and remove its file."""
    with path.open("rb") as file:
        for size in sizes:
            packed = torch.empty(size, dtype=torch.uint8)
            if file.readinto(packed.numpy().data) != size:
                raise OSError(f"{path.name!r} is shorter than its rank wrote it")
            masks.append(packed)
    path.unlink()
