"""How many weights that were pruned are still exactly zero in a quantised, merged or tuned result."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unipruning_core.frames import Tabular
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.mask_file import read_masks
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.tools.zeros.gguf_file import GgufResult
from unipruning_core.tools.zeros.saved import SavedResult

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.sparsity.forms import SemiStructured
    from unipruning_core.storage.checkpoint import Target

SCHEMA = "unipruning-zeros-1"
GGUF = ".gguf"


class Result(Protocol):
    """What was made of a pruned checkpoint, read as numbers."""

    def read(self, target: Target, like: Tensor) -> tuple[Tensor, str]:
        """Return the matrix that ``like``, (out, in), has become, and the type that it is stored in."""


@dataclass(frozen=True)
class Zeros:
    """The counts of one matrix, or of several."""

    name: str
    stored: str  # the types of the numbers or codes
    matrices: int
    masked: int
    still_zero: int  # of the masked
    kept: int
    became_zero: int  # of the kept, which were not zero before
    pattern: str | None  # N:M of the masks
    broken_groups: int  # that hold more than N weights

    @property
    def fraction(self) -> float | None:
        """How many of the masked weights are still zero; None if none is masked."""
        return self.still_zero / self.masked if self.masked else None

    def to_json(self) -> dict[str, Any]:
        return {
            "stored": self.stored,
            "masked": self.masked,
            "still_zero": self.still_zero,
            "fraction": self.fraction,
            "kept": self.kept,
            "became_zero": self.became_zero,
            "pattern": self.pattern,
            **({"broken_groups": self.broken_groups} if self.pattern else {}),
        }


@dataclass(frozen=True)
class Checked(Tabular):
    """A pruned checkpoint beside what was made of it."""

    pruned: str
    result: str
    matrices: tuple[Zeros, ...]

    @property
    def overall(self) -> Zeros:
        return together("overall", self.matrices)

    def records(self) -> list[dict[str, Any]]:
        return [{"target": matrix.name, "broken_groups": None} | matrix.to_json() for matrix in self.matrices]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "pruned": self.pruned,
            "result": self.result,
            "overall": self.overall.to_json(),
            "matrices": {matrix.name: matrix.to_json() for matrix in self.matrices},
        }


def check_zeros(
    pruned: str | os.PathLike[str], result: str | os.PathLike[str], progress: bool | Progress = True
) -> Checked:
    """Compare the masks beside a pruned checkpoint with a folder or file of safetensors, or a GGUF file.

    One matrix is in memory at a time, with its mask and what it has become.

    Raises:
        CheckpointError: either cannot be read, or they are of different models.
        ConfigError: the package that reads GGUF is missing.
    """
    pruned, result, shown = Path(pruned), Path(result), as_progress(progress)
    masks, checkpoint = read_masks(pruned, shown), Checkpoint.open(pruned)
    opened: Result = GgufResult(result) if is_gguf(result) else SavedResult(result)
    matrices = []
    with shown.task("counting zeros", len(masks.targets), "matrices") as task:
        for target in masks.targets:
            stored = checkpoint.values_of(target)
            before = stored.t() if target.transposed else stored
            after, kind = opened.read(target, before)
            matrices.append(_counted(target, masks.read(target.name), before, after, kind, masks.patterns[target.name]))
            task.advance()
    return Checked(str(pruned), str(result), tuple(matrices))


def is_gguf(path: Path) -> bool:
    """Return whether a file has the name of one in GGUF."""
    return path.suffix.lower() == GGUF


def together(name: str, matrices: Iterable[Zeros]) -> Zeros:
    """Return the counts of several matrices."""
    found = list(matrices)
    patterns = {matrix.pattern for matrix in found}
    return Zeros(
        name,
        ", ".join(sorted({matrix.stored for matrix in found})),
        len(found),
        sum(matrix.masked for matrix in found),
        sum(matrix.still_zero for matrix in found),
        sum(matrix.kept for matrix in found),
        sum(matrix.became_zero for matrix in found),
        ", ".join(sorted(pattern for pattern in patterns if pattern)) or None,
        sum(matrix.broken_groups for matrix in found),
    )


def _counted(
    target: Target,
    mask: Tensor,  # (out, in), bool
    before: Tensor,  # (out, in), any float, the pruned weight
    after: Tensor,  # (out, in), any float
    stored: str,
    cut: SemiStructured | None,
) -> Zeros:
    zero, kept = after == 0, int(mask.sum())
    groups = (~zero).reshape(-1, cut.m).sum(dim=1) if cut else None
    return Zeros(
        target.name,
        stored,
        1,
        mask.numel() - kept,
        int((zero & ~mask).sum()),
        kept,
        int((zero & mask & (before != 0)).sum()),
        str(cut) if cut else None,
        0 if cut is None or groups is None else int((groups > cut.n).sum()),
    )
