"""Tensors made anew from those of a checkpoint, written shard by shard as it was, one in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipruning_core.progress import Progress
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.layout import INDEX_FILE
from unipruning_core.storage.packed import Plain
from unipruning_core.storage.tensorstream import TensorStream


def bytes_of(tensors: Sequence[Plain]) -> int:
    """Return the bytes of tensors without headers."""
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)


def write_tensors(
    checkpoint: Checkpoint, tensors: Sequence[Plain], folder: Path, progress: Progress, doing: str
) -> None:
    """Write each tensor into the shard of its source, and the index if there was one."""
    shards: dict[str, list[Plain]] = {}
    for tensor in tensors:
        shards.setdefault(checkpoint.tensors[tensor.source].file.name, []).append(tensor)
    with progress.task(doing, len(tensors), "tensors") as task:
        for file, inside in shards.items():
            contents = {tensor.name: (tensor.dtype, tensor.shape) for tensor in inside}
            with TensorStream(folder / file, contents, {"format": "pt"}) as stream:
                for tensor in inside:
                    stream.append(tensor.read().to(tensor.dtype))
                    task.advance()
    if len(checkpoint.shards) > 1 or (checkpoint.folder / INDEX_FILE).is_file():
        names = {tensor.name: file for file, inside in shards.items() for tensor in inside}
        write_document(folder / INDEX_FILE, {"metadata": {"total_size": bytes_of(tensors)}, "weight_map": names})


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a folder that is being made."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
