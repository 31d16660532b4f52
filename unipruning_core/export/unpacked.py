"""The way back from masks and kept values to the pruned checkpoint, with the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.export.job import FORMAT as RECORD_FORMAT
from unipruning_core.export.job import RECORD_FILE
from unipruning_core.export.packed import FORMAT, SHARDS, VALUES_FILE, segments_of
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.counts import INTEGERS
from unipruning_core.projection.mask_file import MaskFile, read_masks
from unipruning_core.storage.beside import stays_inside
from unipruning_core.storage.checkpoint import Target
from unipruning_core.storage.documents import digest_member, member, parse_json, quoted, read_object, unsealed
from unipruning_core.storage.layout import CONFIG_FILE
from unipruning_core.storage.outputs import check_apart, check_new, check_space, errors_as_output_errors
from unipruning_core.storage.paths import is_plain_name
from unipruning_core.storage.staging import working
from unipruning_core.storage.tensorfile import LENGTH_BYTES, TensorInfo, parse_header, read_header, read_tensor


def unpack(packed: str | os.PathLike[str], out: str | os.PathLike[str], progress: bool | Progress = True) -> Path:
    """Make a pruned checkpoint again from what ``export`` has packed: every file has the bytes that it had.

    Raises:
        CheckpointError: the folder was not packed, or is damaged.
        OutputError: the output exists, or does not fit on its disk.
    """
    packed, out, shown = Path(packed), Path(out), as_progress(progress)
    check_new(out)
    digests = _digests(packed)
    masks = read_masks(packed, shown)
    values, metadata = read_header(packed / VALUES_FILE)
    headers = _headers(packed, metadata)
    if set(headers) != set(digests):
        raise _damaged(packed, f"{RECORD_FILE} names other shards")
    shards = {name: _parsed(packed, header, packed / name) for name, header in headers.items()}
    files = [path for path in _recorded(packed) if path.name != VALUES_FILE]
    total = sum(info.nbytes for tensors in shards.values() for info in tensors.values())
    with errors_as_output_errors(out):
        out = out.resolve()
        check_apart(out, "packed checkpoint", [packed])
        check_space(out, total + sum((packed / path).stat().st_size for path in files))
        with working(out.with_name(f"{out.name}.partial"), out, "checkpoint", last=(CONFIG_FILE,)) as work:
            folder = work.start()
            for path in files:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(packed / path, folder / path)
            with shown.task("unpacking", total, "B") as task:
                for name, tensors in shards.items():
                    digest = hashlib.sha256()
                    with (folder / name).open("xb") as file:
                        for piece in _pieces(packed, headers[name], tensors, masks, values):
                            digest.update(piece)
                            file.write(piece)
                            task.advance(len(piece))
                    if digest.hexdigest() != digests[name]:
                        raise _damaged(packed, f"{name!r} has other bytes than before")
            work.publish()
    return out


def _recorded(packed: Path) -> list[Path]:
    """Return the files that were written, relative to the folder; what else lies there, links outside too, is not ours.

    Raises:
        CheckpointError: one is missing, or leads outside the folder.
    """
    try:
        names = member(unsealed(read_object(packed / RECORD_FILE)), "files", dict)
        for name in names:
            if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
                raise ValueError(f"{RECORD_FILE} names the file {quoted(name)}")
            if not (packed / name).is_file():
                raise ValueError(f"it lacks {name!r}")
            if not stays_inside(packed, packed / name):
                raise ValueError(f"{name!r} leads outside the folder")
    except ValueError as error:
        raise _damaged(packed, str(error)) from error
    return [Path(name) for name in names]


def _pieces(
    packed: Path, header: bytes, tensors: Mapping[str, TensorInfo], masks: MaskFile, values: Mapping[str, TensorInfo]
) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(LENGTH_BYTES, "little") + header
    inside: dict[str, list[Target]] = {}
    for target in sorted(masks.targets, key=lambda target: target.start):
        inside.setdefault(target.tensor, []).append(target)
    for name, info in tensors.items():
        for segment in segments_of(name, info, inside.get(name, ())):
            if segment.name not in values:
                raise _damaged(packed, f"it lacks {segment.name!r}")
            content = read_tensor(values[segment.name])
            if segment.target is not None:
                content = _spread(packed, content, segment.target, masks)
            yield content.contiguous().flatten().view(torch.uint8).numpy().data


def _spread(packed: Path, kept: Tensor, target: Target, masks: MaskFile) -> Tensor:
    mask = masks.read(target.name)
    stored = mask.t() if target.transposed else mask
    if kept.numel() != int(mask.sum()):
        raise _damaged(packed, f"it has {kept.numel()} values of {target.name!r}, and its mask keeps {int(mask.sum())}")
    bits = kept.view(INTEGERS[kept.dtype.itemsize])  # numpy has no bfloat16, nor floats of eight bits
    weight = torch.zeros(target.stored_shape, dtype=bits.dtype)
    weight.numpy()[stored.numpy()] = bits.flatten().numpy()
    return weight


def _digests(packed: Path) -> dict[str, str]:
    try:
        record = unsealed(read_object(packed / RECORD_FILE))
        if record.get("format") != RECORD_FORMAT or SHARDS not in record:
            raise ValueError(f"{RECORD_FILE} tells of another format, {quoted(record.get('to'))}")
        found: dict[str, str] = member(record, SHARDS, dict)
        for name in found:
            digest_member(found, name)
            if not is_plain_name(name) or not name.endswith(".safetensors"):
                raise ValueError(f"{RECORD_FILE} names the shard {quoted(name)}")
    except OSError as error:
        raise CheckpointError(
            f"{str(packed / RECORD_FILE)!r} cannot be read: {error.strerror}; pass a folder that 'unipruning export "
            "--to packed' wrote"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{str(packed)!r} cannot be unpacked: {error}; pass a folder that 'unipruning export --to packed' wrote"
        ) from error
    return found


def _headers(packed: Path, metadata: Mapping[str, str]) -> dict[str, bytes]:
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {quoted(metadata.get('format'))}, not {FORMAT!r}")
        headers = parse_json(member(metadata, "headers", str).encode())
        if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
            raise ValueError("'headers' are not texts by name")
    except ValueError as error:
        raise _damaged(packed, str(error)) from error
    return {name: text.encode() for name, text in headers.items()}


def _parsed(packed: Path, header: bytes, shard: Path) -> dict[str, TensorInfo]:
    try:
        return parse_header(header, shard)
    except ValueError as error:
        raise _damaged(packed, str(error)) from error


def _damaged(packed: Path, fault: str) -> CheckpointError:
    return CheckpointError(f"{str(packed / VALUES_FILE)!r} is damaged: {fault}; export again")
