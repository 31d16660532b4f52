"""The format packed: a pruned checkpoint as its masks and kept values, from which its bytes are made again.

Beside masks, report and all files that are not weights lies ``unipruning.values``.  Inside it is a safetensors file;
its ending is another, since loaders take every ``*.safetensors`` for weights.  It holds, shard by shard in byte order,

* under the name of a target, its kept values in the order in which they are stored;
* under the name of a tensor without targets, that tensor, as bytes where torch has no such type;
* under ``NAME[START:END]``, elements of a tensor that lie between its targets.

Its metadata hold the headers of the shards, and ``unipruning-export.json`` their checksums.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unipruning_core.errors import CheckpointError
from unipruning_core.export.contract import Choice, Exporter
from unipruning_core.projection.counts import INTEGERS, kept
from unipruning_core.projection.mask_file import packed_bytes
from unipruning_core.projection.report import REPORT_FILE
from unipruning_core.storage.files import open_regular
from unipruning_core.storage.tensorfile import LENGTH_BYTES, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.export.source import Source
    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Target
    from unipruning_core.storage.tensorfile import TensorInfo

VALUES_FILE = "unipruning.values"
FORMAT = "unipruning-values-1"
SHARDS = "shards_sha256"  # of the files that are made again, in the record


@dataclass(frozen=True)
class Segment:
    """Consecutive bytes of a shard: a target, or what is no part of one."""

    name: str
    info: TensorInfo  # of these bytes
    target: Target | None = None


def segments_of(name: str, info: TensorInfo, targets: Sequence[Target]) -> Iterator[Segment]:
    """Yield the parts of a tensor in byte order; ``targets`` are those inside it, in byte order."""
    if not targets:
        yield Segment(name, info)
        return
    done = 0
    for target in targets:
        yield from _between(name, info, done, target.start)
        done = target.start + target.size
        yield Segment(target.name, _part(info, target.stored_shape, target.start), target)
    yield from _between(name, info, done, math.prod(info.shape))


def _between(name: str, info: TensorInfo, start: int, end: int) -> Iterator[Segment]:
    if end > start:
        yield Segment(f"{name}[{start}:{end}]", _part(info, (end - start,), start))


def _part(info: TensorInfo, shape: tuple[int, ...], first: int) -> TensorInfo:
    """Return where the elements of a tensor from ``first`` on lie, as one of this shape."""
    start = info.start + first * info.dtype.itemsize
    return replace(info, shape=shape, start=start, end=start + math.prod(shape) * info.dtype.itemsize)


class Packed(Exporter):
    """Masks and kept values."""

    def size(self, source: Source, choice: Choice) -> int:
        every = sum(shard.stat().st_size for shard in source.checkpoint.shards)
        pruned = sum(source.checkpoint.infos_of(target)[0].nbytes for target in source.masks.targets)
        masks = sum(packed_bytes(target.shape, source.masks.patterns[target.name]) for target in source.masks.targets)
        return every - pruned + masks + sum(_bytes(source, target) for target in source.masks.targets)

    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        source.copy_files(folder)
        masks = next(info.file for info in source.masks.packed.values())
        shutil.copyfile(masks, folder / masks.name)
        if (source.folder / REPORT_FILE).exists():
            shutil.copyfile(source.folder / REPORT_FILE, folder / REPORT_FILE)
        headers = {shard.name: _header(shard) for shard in source.checkpoint.shards}
        shards = {name: _in_order(source, folder / name) for name in headers}
        contents: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for segment in (segment for segments in shards.values() for segment in segments):
            shape = (_kept(source, segment.target),) if segment.target else _shape(segment.info)
            contents[segment.name] = (segment.info.dtype, shape)
        about = {"format": FORMAT, "headers": json.dumps({name: header.decode() for name, header in headers.items()})}
        digests, written = {}, set()
        with (
            progress.task("packing", source.checkpoint.total_bytes, "B") as task,
            TensorStream(folder / VALUES_FILE, contents, about) as stream,
        ):
            for name, segments in shards.items():
                digest = hashlib.sha256(len(headers[name]).to_bytes(LENGTH_BYTES, "little") + headers[name])
                for segment in segments:
                    content = source.stored(segment.target) if segment.target else read_tensor(segment.info)
                    digest.update(_bytes_in(content))
                    # what several shards hold alike is written once
                    if segment.name not in written:
                        stream.append(_kept_values(source, segment.target, content) if segment.target else content)
                        written.add(segment.name)
                        task.advance(segment.info.nbytes)
                digests[name] = digest.hexdigest()
        return {SHARDS: digests}


def _in_order(source: Source, shard: Path) -> list[Segment]:
    """Return the segments of one shard, in byte order."""
    checkpoint = source.checkpoint
    held = [(name, info) for name, info in checkpoint.tensors.items() if info.file.name == shard.name]
    held += [
        (name, info) for name, copies in checkpoint.copies.items() for info in copies if info.file.name == shard.name
    ]
    held.sort(key=lambda item: (item[1].start, item[1].end))
    return [part for name, info in held for part in segments_of(name, info, source.inside.get(name, ()))]


def _kept_values(source: Source, target: Target, weight: Tensor) -> Tensor:
    # as integers, which numpy has, and picks several times faster than torch
    bits = weight.view(INTEGERS[weight.dtype.itemsize]).numpy()
    values = bits[source.mask(target).numpy()]
    # a bit pattern of zeros alone can be made again from nothing
    if np.count_nonzero(values) != np.count_nonzero(bits):
        raise CheckpointError(
            f"pruned weights of {target.name!r} are -0, which has bits of its own; export to safetensors, which keeps "
            "them"
        )
    return torch.from_numpy(values).view(weight.dtype)


def _kept(source: Source, target: Target) -> int:
    return source.masks.kept[target.name] if source.masks.kept else kept(source.masks.read(target.name))


def _bytes(source: Source, target: Target) -> int:
    return _kept(source, target) * source.checkpoint.infos_of(target)[0].dtype.itemsize


def _shape(info: TensorInfo) -> tuple[int, ...]:
    return info.shape if info.nbytes == math.prod(info.shape) * info.dtype.itemsize else (info.nbytes,)


def _bytes_in(tensor: Tensor) -> memoryview:
    content: memoryview = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return content


def _header(shard: Path) -> bytes:
    """Return the JSON at the start of a file that has been read as safetensors."""
    with open_regular(shard) as file:
        return file.read(int.from_bytes(file.read(LENGTH_BYTES), "little"))
