"""A quantised checkpoint written again with numbers in place of codes, tensor by tensor, without a model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError, OutputError
from unipruning_core.progress import Progress
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.config import read_config
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE
from unipruning_core.storage.outputs import check_apart, check_space, errors_as_output_errors
from unipruning_core.storage.packed import Plain, plain_tensors
from unipruning_core.storage.quantised import check_method, packed_layout, without_sections
from unipruning_core.storage.staging import working
from unipruning_core.storage.tensorstream import TensorStream


def dequantize(name: str, checkpoint: Checkpoint, out: Path, progress: Progress) -> Path:
    """Write the numbers that a checkpoint's codes stand for, in bfloat16, and everything else as it is.

    The config no longer speaks of quantisation.

    Raises:
        CheckpointError: it is not quantised, or in a layout that is not read.
        OutputError: the folder exists, or does not fit on its disk.
    """
    check_method(name, checkpoint.codes.config, checkpoint.tensors)
    if not checkpoint.codes.is_quantised and packed_layout(checkpoint.tensors) is None:
        raise CheckpointError(f"model {name!r} is not quantised; use it as it is")
    files, _ = checkpoint.files_to_copy()
    tensors = plain_tensors(checkpoint)
    with errors_as_output_errors(out):
        out = out.resolve()
        check_apart(out, "model", [checkpoint.folder, *(checkpoint.folder / path for path in files)])
        if out.exists():
            raise OutputError(f"output {str(out)!r} exists; choose a folder that does not exist yet")
        sizes = [math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors]
        check_space(out, sum(sizes) + sum((checkpoint.folder / path).stat().st_size for path in files))
        with working(out.with_name(f"{out.name}.partial"), out, "checkpoint", last=(CONFIG_FILE,)) as work:
            folder = work.start()
            for path in files:
                if path.as_posix() not in (CONFIG_FILE, INDEX_FILE):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(checkpoint.folder / path, folder / path)
            _write_tensors(checkpoint, tensors, folder, progress)
            _write_json(folder / CONFIG_FILE, without_sections(read_config(checkpoint.folder / CONFIG_FILE)))
            work.publish()
    return out


def _write_tensors(checkpoint: Checkpoint, tensors: Sequence[Plain], folder: Path, progress: Progress) -> None:
    shards: dict[str, list[Plain]] = {}
    for tensor in tensors:
        shards.setdefault(checkpoint.tensors[tensor.source].file.name, []).append(tensor)
    with progress.task("dequantizing", len(tensors), "tensors") as task:
        for file, inside in shards.items():
            contents = {tensor.name: (tensor.dtype, tensor.shape) for tensor in inside}
            with TensorStream(folder / file, contents, {"format": "pt"}) as stream:
                for tensor in inside:
                    stream.append(tensor.read().to(tensor.dtype))
                    task.advance()
    if len(checkpoint.shards) > 1 or (checkpoint.folder / INDEX_FILE).is_file():
        total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
        names = {tensor.name: file for file, inside in shards.items() for tensor in inside}
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": names})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
