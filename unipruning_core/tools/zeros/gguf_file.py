"""A result in GGUF, dequantised one matrix at a time, under the names and in the order of rows of the checkpoint.

Names are those of gguf's own table for the architecture.  The converter of llama.cpp writes the rows of query and key
projections in another order where the two halves of a head rotate together: row i of half h becomes row 2 i + h of its
head.  Which of the two orders a matrix has, its values tell, since the one is far from the pruned weights.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.borders import library_errors_as
from unipruning_core.storage.checkpoint import Target

PREFIXES = ("", "transformer.", "model.")  # which a checkpoint of the bare model lacks
EXPERT = re.compile(r"\.experts\.(\d+)\.")
ROTATED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


class GgufResult:
    """The tensors of one GGUF file."""

    def __init__(self, path: Path) -> None:
        try:
            import gguf
        except ImportError as error:
            raise ConfigError(
                "a GGUF file is read by the package gguf, which is not installed; pip install gguf"
            ) from error
        self.path, self._gguf = path, gguf
        with self._errors():
            self._reader = gguf.GGUFReader(path)
            self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
            self._architecture = str(self._value("general.architecture"))
            known = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
            if self._architecture not in known:
                raise ValueError(f"gguf does not know the architecture {self._architecture!r}")
            if (self._value("split.count") or 1) > 1:
                raise ValueError("it is one of several parts; join them with llama-gguf-split --merge")
            blocks = int(self._value(f"{self._architecture}.block_count"))
            # the table of names has entries for every block
            if not 0 <= blocks <= len(self._tensors):
                raise ValueError(f"it tells of {blocks} blocks with {len(self._tensors)} tensors")
            self._names = gguf.get_tensor_name_map(known[self._architecture], blocks)

    def read(self, target: Target, like: Tensor) -> tuple[Tensor, str]:  # (out, in), float32
        """Return the matrix that stands for ``like``, in its order of rows, and the type of its codes.

        Raises:
            CheckpointError: it is missing, has another shape, or cannot be dequantised.
        """
        tensor, expert = self._tensor(target.name)
        with self._errors():
            data = tensor.data if expert is None else tensor.data[expert]
            # float32 comes as it lies in the file, which cannot be written to
            numbers = np.require(self._gguf.dequantize(data, tensor.tensor_type), requirements="W")
            values = torch.from_numpy(numbers).float()
        if values.shape != like.shape:
            raise CheckpointError(
                f"weight {target.name!r} has the shape {tuple(values.shape)} in {str(self.path)!r}, and"
                f" {tuple(like.shape)} in the pruned checkpoint; pass what was made of that"
            )
        with self._errors():
            return self._in_order(tensor.name, values, like), tensor.tensor_type.name

    def _tensor(self, name: str) -> tuple[Any, int | None]:
        """Return the tensor that holds a weight, and which of its parts, if it is that of one expert."""
        expert = EXPERT.search(name)
        merged = EXPERT.sub(".experts.", name)
        for prefix in PREFIXES:
            mapped = self._names.get_name(prefix + merged, try_suffixes=(".weight",))
            if mapped in self._tensors:
                return self._tensors[mapped], int(expert[1]) if expert else None
        raise CheckpointError(
            f"result {str(self.path)!r} holds no weight {name!r} of the architecture {self._architecture!r}; pass what"
            " was made of this pruned checkpoint"
        )

    def _in_order(self, name: str, values: Tensor, like: Tensor) -> Tensor:
        parts = name.split(".")
        heads = self._heads(ROTATED.get(parts[-2], ""), int(parts[1]) if parts[1:2] and parts[1].isdigit() else 0)
        if not heads or len(values) % (2 * heads):
            return values
        turned = values.view(heads, -1, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
        near, far = ((other - like.float()).square().sum() for other in (turned, values))
        return turned if bool(near < far) else values

    def _heads(self, key: str, block: int) -> int:
        """Return how many heads a block has, of queries or of keys."""
        if not key:
            return 0
        heads = self._value(f"{self._architecture}.{key}") or self._value(f"{self._architecture}.attention.head_count")
        return int(heads[block] if isinstance(heads, list) else heads or 0)

    def _value(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def _errors(self) -> AbstractContextManager[None]:
        """Turn what a damaged file makes of the reader into one sentence."""
        what = f"result {str(self.path)!r} cannot be read as GGUF"
        return library_errors_as(CheckpointError, what, "make it again from the pruned checkpoint")
