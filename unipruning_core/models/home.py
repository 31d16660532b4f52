"""Where what a search holds of each matrix lies: on the device, or in memory or files of the host.

A device smaller than the search holds one block of the model and one matrix of the state at a time.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Home:
    """Keeps tensors on the device."""

    offload: ClassVar[str] = "none"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of zeros that is kept here."""
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def keep(self, tensor: Tensor) -> Tensor:
        """Return a copy that is kept here, or the tensor if it is on the device already."""
        return tensor.to(self.device)

    def fetch(self, tensor: Tensor) -> Tensor:
        """Return what is kept, on the device."""
        return tensor.to(self.device, non_blocking=True)

    def put_back(self, kept: Tensor, fetched: Tensor) -> None:
        """Keep what was fetched and then changed in place; nothing if both are the same memory."""
        if fetched.data_ptr() != kept.data_ptr() or fetched.device != kept.device:
            kept.copy_(fetched, non_blocking=True)

    def clear(self) -> None:
        """Give back the room that it takes outside of memory."""


class HostHome(Home):
    """Keeps tensors in the host's memory, pinned so that the device copies them while it computes."""

    offload = "cpu"

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype, pin_memory=True)

    def keep(self, tensor: Tensor) -> Tensor:
        return tensor.cpu().pin_memory()


class DiskHome(Home):
    """Keeps each tensor in a file that is mapped into memory, whose pages the system reads and writes as it needs."""

    offload = "disk"

    def __init__(self, device: torch.device, folder: Path) -> None:
        super().__init__(device)
        self.folder = folder
        self._files = 0
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed; a saved state has copies
        folder.mkdir(parents=True)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel()
        if not size:
            return torch.zeros(tuple(shape), dtype=dtype)
        path = self.folder / f"{self._files:06d}"
        self._files += 1
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(tuple(shape))

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self, tensor: Tensor) -> Tensor:
        kept = self.zeros(tensor.shape, tensor.dtype)
        kept.copy_(tensor)
        return kept
