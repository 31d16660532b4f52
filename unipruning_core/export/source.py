"""A pruned checkpoint while it is exported: its weights, each compared with the report, and the files beside them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.projection.counts import nonzero
from unipruning_core.projection.mask_file import EARLIER_MASK_FILE, MASK_FILE, MaskFile, read_masks
from unipruning_core.projection.report import REPORT_FILE, read_report
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.config import read_config
from unipruning_core.storage.layout import CONFIG_FILE
from unipruning_core.storage.tensorfile import digest_of

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.progress import Progress

RECORDS = frozenset((MASK_FILE, EARLIER_MASK_FILE, REPORT_FILE))  # which mean nothing beside other weights


@dataclass(frozen=True)
class Source:
    """A pruned checkpoint and its masks."""

    checkpoint: Checkpoint
    masks: MaskFile
    report: Mapping[str, Any]  # empty if there is none

    @classmethod
    def open(cls, folder: Path, progress: Progress) -> Source:
        """Open a folder that ``project`` wrote.

        Raises:
            CheckpointError: it is incomplete or damaged, or has no masks.
        """
        masks = read_masks(folder, progress)
        report = read_report(folder) if (folder / REPORT_FILE).exists() else {}
        checkpoint = Checkpoint.open(folder)
        for target in masks.targets:
            info = checkpoint.tensors.get(target.tensor)
            if info is None or (target.within is None and info.shape != target.stored_shape):
                came = "is not in it" if info is None else f"has the shape {info.shape}, not {target.stored_shape}"
                raise CheckpointError(
                    f"{str(folder)!r} is not what was pruned: {target.tensor!r} {came}; project again"
                )
        return cls(checkpoint, masks, report)

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_config(self.folder / CONFIG_FILE)

    @cached_property
    def inside(self) -> dict[str, list[Target]]:
        """The targets in each tensor that holds some, in byte order."""
        found: dict[str, list[Target]] = {}
        for target in sorted(self.masks.targets, key=lambda target: target.start):
            found.setdefault(target.tensor, []).append(target)
        return found

    def stored(self, target: Target) -> Tensor:
        """Read a target in its stored shape and dtype.

        Raises:
            CheckpointError: it is not as it was pruned.
        """
        weight = self.checkpoint.read_target(target)
        self._check(target, weight)
        return weight

    def matrix(self, target: Target) -> Tensor:  # (out, in)
        """Read a target in the orientation of its layer."""
        weight = self.stored(target)
        return weight.t() if target.transposed else weight

    def tensor(self, name: str) -> Tensor:
        """Read a tensor of the checkpoint, and check the targets inside."""
        whole = self.checkpoint.read(name)
        for target in self.inside.get(name, ()):
            self._check(target, whole.flatten()[target.start : target.start + target.size].view(target.stored_shape))
        return whole

    def mask(self, target: Target) -> Tensor:  # bool, in the stored shape
        """Read a mask in the stored shape of its target: True is kept."""
        mask = self.masks.read(target.name)
        return mask.t() if target.transposed else mask

    def files(self) -> list[Path]:
        """Return the files beside the weights, relative to the folder, without masks and report."""
        return [path for path in self.checkpoint.files_to_copy()[0] if path.as_posix() not in RECORDS]

    def copy_files(self, folder: Path, *, but: Collection[str] = ()) -> None:
        """Copy the files beside the weights byte for byte, without masks and report."""
        for path in self.files():
            if path.as_posix() not in but:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / path, folder / path)

    def check_floats(self, to: str) -> None:
        """Refuse a checkpoint of codes.

        Raises:
            ConfigError: it is one.
        """
        if self.checkpoint.codes.is_quantised:
            raise ConfigError(
                f"{to} is made from bfloat16, float16 or float32, and {str(self.folder)!r} holds codes of eight bits; "
                "write the original model with 'unipruning dequantize', and prune that"
            )

    def _check(self, target: Target, weight: Tensor) -> None:
        digest = self.report.get("matrices", {}).get(target.name, {}).get("sha256")
        # reports of earlier versions have none
        if nonzero(weight[~self.mask(target)]) if digest is None else digest_of(weight) != digest:
            raise CheckpointError(
                f"weight {target.name!r} in {str(self.folder)!r} is not what {REPORT_FILE} and the masks describe; "
                "project again, or record a tuned checkpoint with record_tuned"
            )
