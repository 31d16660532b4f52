"""What a pruned checkpoint takes in bytes: as it is, packed, compressed, and in formats of fewer bits by arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.projection.counts import HALF, is_half
from unipruning_core.projection.mask_file import packed_bytes, read_masks
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.tensorfile import read_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Target

SCHEMA = "unipruning-size-1"
MEASURED, COUNTED, ARITHMETIC = "measured", "counted", "arithmetic"
LEVEL = 3  # of zstd, its own default
PIECE = 1 << 24  # bytes that are compressed together


@dataclass(frozen=True)
class Format:
    """Weights in blocks of one row: so many weights in so many bytes, scales included."""

    name: str
    block: int  # weights; 0 for a whole row
    bytes: int  # of a block; of a row those beside one byte a weight


# of ggml, by the sizes of its blocks; then codes with the scales that are usual beside them
FORMATS = (
    Format("Q8_0", 32, 34),
    Format("Q6_K", 256, 210),
    Format("Q5_1", 32, 24),
    Format("Q5_0", 32, 22),
    Format("Q5_K", 256, 176),
    Format("Q4_1", 32, 20),
    Format("Q4_0", 32, 18),
    Format("Q4_K", 256, 144),
    Format("Q3_K", 256, 110),
    Format("Q2_K", 256, 84),
    Format("TQ2_0", 256, 66),
    Format("MXFP4", 32, 17),
    Format("NVFP4", 16, 9),
    Format("FP8 or int8, a float32 scale a row", 0, 4),
    Format("int4, a bfloat16 scale for 128", 128, 66),
    Format("NF4 or FP4, a float32 scale for 64", 64, 36),
)


@dataclass(frozen=True)
class Row:
    """One way to store the checkpoint."""

    name: str
    how: str  # MEASURED, COUNTED from the masks, or ARITHMETIC of bits a weight
    targets: int  # bytes of the target weights
    total: int  # bytes of the checkpoint
    unfit: int = 0  # matrices that stay as they are, since the format does not fit them


@dataclass(frozen=True)
class Sizes:
    """The sizes of one pruned checkpoint."""

    folder: str
    matrices: int
    weights: int
    kept: int
    rows: tuple[Row, ...]
    left_out: str  # why a row is missing

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "folder": self.folder,
            "target_matrices": self.matrices,
            "target_weights": self.weights,
            "kept": self.kept,
            "left_out": self.left_out,
            "rows": [
                {
                    "name": row.name,
                    "how": row.how,
                    "target_bytes": row.targets,
                    "total_bytes": row.total,
                    "unfit_matrices": row.unfit,
                }
                for row in self.rows
            ],
        }


def sizes_of(folder: Path, progress: Progress) -> Sizes:
    """Return what a pruned checkpoint takes in each form, reading one tensor at a time.

    Raises:
        CheckpointError: it cannot be read, or has no masks.
    """
    masks, checkpoint = read_masks(folder, progress), Checkpoint.open(folder)
    stored = {target.name: checkpoint.infos_of(target)[0].nbytes for target in masks.targets}
    dense, files = sum(stored.values()), sum(shard.stat().st_size for shard in checkpoint.shards)
    others = files - dense
    kept = packed = halved = unfit = 0
    with progress.task("counting", len(masks.targets), "matrices") as task:
        for target in masks.targets:
            each, pattern = stored[target.name] // target.size, masks.patterns[target.name]
            if pattern is not None and pattern.m == HALF[1]:
                here, holds = pattern.keep(target.size), pattern.n <= HALF[0]
            else:
                mask = masks.read(target.name)
                here, holds = int(mask.sum()), is_half(mask)
            kept += here
            packed += packed_bytes(target.shape, pattern) + here * each
            # of every four weights two values, and two bits for the place of each
            halved += target.size // 2 * each + target.size // 8 if holds else stored[target.name]
            unfit += not holds
            task.advance()
    rows = [
        Row("as it is", MEASURED, dense, files),
        Row("packed: masks and kept values", COUNTED, packed, others + packed),
    ]
    if unfit < len(masks.targets):
        rows.append(Row("2:4 packed: half of the values and their places", COUNTED, halved, others + halved, unfit))
    left_out = ""
    if (compress := _zstd()) is None:
        left_out = "zstd is left out: this pyarrow is built without it"
    else:
        rows.append(_compressed(checkpoint, masks.targets, compress, progress))
    for form in FORMATS:
        fitting = {target.name: _bytes(form, target) for target in masks.targets}
        inside = sum(stored[name] if size is None else size for name, size in fitting.items())
        missing = sum(size is None for size in fitting.values())
        if missing < len(fitting):
            rows.append(Row(form.name, ARITHMETIC, inside, others + inside, missing))
    weights = sum(target.size for target in masks.targets)
    return Sizes(str(folder), len(masks.targets), weights, kept, tuple(rows), left_out)


def _bytes(form: Format, target: Target) -> int | None:
    """Return the bytes of a matrix in a format, or None if its rows do not divide into blocks."""
    rows, columns = target.shape
    if not form.block:
        return target.size + form.bytes * rows
    return rows * (columns // form.block) * form.bytes if columns % form.block == 0 else None


def _compressed(
    checkpoint: Checkpoint, targets: tuple[Target, ...], compress: Callable[[bytes], int], progress: Progress
) -> Row:
    """Compress every tensor by itself, in pieces."""
    inside = {target.tensor for target in targets}
    of_targets = of_others = 0
    with progress.task("compressing", checkpoint.total_bytes, "B") as task:
        for name, info in checkpoint.tensors.items():
            size = sum(map(compress, _pieces(read_tensor(info))))
            if name in inside:
                of_targets += size
            else:
                of_others += size
            task.advance(info.nbytes)
    return Row(f"zstd -{LEVEL} of every tensor", MEASURED, of_targets, of_targets + of_others)


def _pieces(tensor: Tensor) -> Iterator[bytes]:
    import torch

    content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    yield from (bytes(content[start : start + PIECE]) for start in range(0, len(content), PIECE))


def _zstd() -> Callable[[bytes], int] | None:
    """Return what counts the bytes of a piece once it is compressed; None where pyarrow was built without zstd."""
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        return None
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    return lambda piece: codec.compress(piece).size
