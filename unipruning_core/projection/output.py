"""One pruned checkpoint while it is written: the original byte for byte, then its targets patched in place."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from torch import Tensor

from unipruning_core.distributed.world import ALONE
from unipruning_core.errors import CheckpointError, reason_and_remedy
from unipruning_core.progress import Task
from unipruning_core.projection.card import CARD, write_card
from unipruning_core.projection.counts import INTEGERS, PIECE, kept, nonzero
from unipruning_core.projection.empty import Empty
from unipruning_core.projection.mask_file import MASK_FILE, mask_stream, pack, packed_bytes
from unipruning_core.projection.parts import MaskPart, Part, join
from unipruning_core.projection.report import EMPTY, MASKS, MODEL, REPORT_FILE, write_report
from unipruning_core.sparsity.forms import MatrixSparsity
from unipruning_core.sparsity.parse import Sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target

if TYPE_CHECKING:
    from unipruning_core.storage.tensorfile import TensorInfo
    from unipruning_core.storage.tensorstream import TensorStream


@dataclass(frozen=True)
class MatrixReport:
    """The counts of one pruned matrix."""

    cut: MatrixSparsity | Sparsity  # what was requested
    kept: int  # by the mask
    total: int
    zeros: int  # in the file, including weights that were zero before
    tied: bool  # the mask keeps weights of score zero, chosen by position
    empty: Empty  # rows and columns that the mask removes whole
    digest: str = ""  # sha256 of the pruned weight as written

    def as_json(self) -> dict[str, object]:
        content = {
            "asked": str(self.cut),
            "kept": self.kept,
            "total": self.total,
            "sparsity": (self.total - self.kept) / self.total,
            "zero_share": self.zeros / self.total,
            **dict(zip(EMPTY, (self.empty.rows, self.empty.columns), strict=True)),
        }
        return content | {"sha256": self.digest} if self.digest else content


class PrunedFolder(AbstractContextManager["PrunedFolder"]):
    """One output folder, filled in steps: ``copy``, one ``prune`` per target in order, ``write_report``.

    Over ranks each does its part of the first two; then comes ``gather``, and the first rank writes the report.
    """

    def __init__(
        self,
        folder: Path,
        sparsity: Sparsity,
        checkpoint: Checkpoint,
        targets: tuple[Target, ...],
        cuts: Mapping[str, MatrixSparsity],  # by target
        model_weights: int,  # of the whole model
        part: Part | None = None,  # what this rank does of it; None for everything
    ) -> None:
        self.folder = folder
        self.model_weights = model_weights
        self.sparsity = sparsity
        self.layers: dict[str, MatrixReport] = {}
        self.names = [MASK_FILE, REPORT_FILE]  # of the files in the folder
        self._checkpoint = checkpoint
        self._targets, self._cuts, self._part = targets, cuts, part or Part.of(targets, ALONE)
        folder.mkdir(exist_ok=True)
        self._masks: TensorStream | MaskPart
        if self._part.world.leads:
            self._masks = mask_stream(folder, targets, str(sparsity), cuts)
        else:
            self._masks = MaskPart(self._masks_of(self._part.world.rank))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._masks.__exit__(kind, error, trace)

    def _masks_of(self, rank: int) -> Path:
        return self.folder / f"{MASK_FILE}.{rank}"

    def copy(self, files: list[Path], task: Task) -> None:
        """Copy files, given relative to the model folder, byte for byte."""
        for path in files:
            source, target = self._checkpoint.folder / path, self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                # an error of the copy, such as a full disk, names both files
                if error.filename != os.fspath(source) or error.filename2 is not None:
                    raise
                reason = reason_and_remedy(error, "check the file", source)
                raise CheckpointError(f"{str(source)!r} cannot be read: {reason}") from error
            self.names.append(path.as_posix())
            task.advance(target.stat().st_size)

    def prune(
        self,
        target: Target,
        weight: Tensor,  # as stored, any float: the original
        mask: Tensor,  # (out, in), bool, on the CPU
        nonzero_scores: int,
    ) -> None:
        """Overwrite this target's bytes, in every shard that holds it, with zero bits where the mask is False."""
        # as integers: a product of floats with the mask would leave -0.0, and NaN for weights that are not finite
        bits = weight.view(INTEGERS[weight.dtype.itemsize])
        stored = mask.t() if target.transposed else mask
        rows = max(1, PIECE // bits.shape[1])
        digest, zeros = hashlib.sha256(), 0
        with ExitStack() as stack:
            files = [stack.enter_context(self._opened(info)) for info in self._checkpoint.infos_of(target)]
            for piece, where in zip(bits.split(rows), stored.split(rows), strict=True):
                pruned = (piece * where).contiguous()
                content = pruned.numpy().data.cast("B")
                for file in files:
                    file.write(content)
                digest.update(content)
                zeros += pruned.numel() - nonzero(pruned.view(weight.dtype))
        self._masks.append(pack(mask, cut := self._cuts[target.name]))
        tied = (count := kept(mask)) > nonzero_scores
        counts = (count, mask.numel(), zeros, tied, Empty.of(mask))
        self.layers[target.name] = MatrixReport(cut, *counts, digest.hexdigest())

    def _opened(self, info: TensorInfo) -> BinaryIO:
        """Open the file that holds a tensor, at its first byte."""
        file = (self.folder / info.file.name).open("r+b")
        file.seek(info.start)
        return file

    def gather(self) -> None:
        """Learn what the other ranks have written, and complete the mask file with theirs."""
        masks = self._masks
        if isinstance(masks, MaskPart):
            masks.__exit__(None, None, None)
        by_rank = self._part.world.each((self.names, self.layers))
        self.names = list(dict.fromkeys(name for names, _ in by_rank for name in names))
        self.layers = {name: layer for _, layers in by_rank for name, layer in layers.items()}
        if isinstance(masks, MaskPart):
            return
        sizes = [packed_bytes(target.shape, self._cuts[target.name]) for target in self._targets]
        for rank in range(1, self._part.world.size):
            join(masks, self._masks_of(rank), [sizes[position] for position in self._part.of_rank(rank)])

    @property
    def overall(self) -> MatrixReport:
        layers = self.layers.values()
        return MatrixReport(
            self.sparsity,
            sum(layer.kept for layer in layers),
            sum(layer.total for layer in layers),
            sum(layer.zeros for layer in layers),
            any(layer.tied for layer in layers),
            Empty.of_all(layer.empty for layer in layers),
        )

    @property
    def _of_model(self) -> dict[str, object]:
        pruned = self.overall.total - self.overall.kept
        return {"weights": self.model_weights, "pruned": pruned, "sparsity": pruned / self.model_weights}

    def write_report(self, **about: object) -> None:
        """Describe this folder, in a card too, without time or host, so that two runs write the same bytes."""
        report = {
            "sparsity": str(self.sparsity),
            **about,
            MASKS: self._masks.sha256,  # type: ignore[union-attr]  # written by the first rank alone
            "overall": {**self.overall.as_json(), MODEL: self._of_model},
            "matrices": {name: layer.as_json() for name, layer in self.layers.items()},
        }
        report[CARD] = write_card(self.folder, report, self.names)
        write_report(self.folder, {**report, "written": sorted(self.names)})
