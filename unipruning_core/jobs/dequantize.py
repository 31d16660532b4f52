"""A quantised checkpoint written again with numbers in place of codes, tensor by tensor, without a model."""

from __future__ import annotations

import shutil
from pathlib import Path

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.config import read_config
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE
from unipruning_core.storage.outputs import check_apart, check_new, check_space, errors_as_output_errors
from unipruning_core.storage.packed import plain_tensors
from unipruning_core.storage.quantised import check_method, packed_layout, without_sections
from unipruning_core.storage.rewritten import bytes_of, write_document, write_tensors
from unipruning_core.storage.staging import working


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
        check_new(out)
        check_space(out, bytes_of(tensors) + sum((checkpoint.folder / path).stat().st_size for path in files))
        with working(out.with_name(f"{out.name}.partial"), out, "checkpoint", last=(CONFIG_FILE,)) as work:
            folder = work.start()
            for path in files:
                if path.as_posix() not in (CONFIG_FILE, INDEX_FILE):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(checkpoint.folder / path, folder / path)
            write_tensors(checkpoint, tensors, folder, progress, "dequantizing")
            write_document(folder / CONFIG_FILE, without_sections(read_config(checkpoint.folder / CONFIG_FILE)))
            work.publish()
    return out
