"""Writing a safetensors file one tensor at a time, so that at most one is ever in memory twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from unipruning_core.storage.tensorfile import header_for


class TensorStream:
    """A safetensors file whose names, dtypes and shapes are known before the values.

    Tensors are appended in the order of ``contents``.  After the ``with`` block the bytes are on disk and ``sha256`` is
    that of the whole file.
    """

    def __init__(
        self, path: Path, contents: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str]
    ) -> None:
        self._waiting = list(contents.items())[::-1]
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        self._write(header_for(dict(contents), metadata))

    def append(self, tensor: Tensor) -> None:
        """Write the next tensor; raise ValueError if its dtype or shape is not the one announced."""
        name, announced = self._waiting.pop()
        if (tensor.dtype, tuple(tensor.shape)) != announced:
            raise ValueError(
                f"tensor {name!r} was announced as {announced}, but is {tensor.dtype} {tuple(tensor.shape)}"
            )
        self._write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

    def _write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def __enter__(self) -> TensorStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file as file:
            if error is None:
                if self._waiting:
                    raise ValueError(f"{len(self._waiting)} tensors were announced but never written")
                file.flush()
                os.fsync(file.fileno())
