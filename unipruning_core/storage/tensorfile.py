"""The safetensors format: headers read without trusting them and written, tensors read one at a time.

Weights are patched where they lie, for which safetensors gives no offsets and huggingface_hub's parser none that are
compared with the size of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError, reason_and_remedy
from unipruning_core.storage.documents import parse_json, quoted
from unipruning_core.storage.files import open_regular

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# block scales of quantised checkpoints, from torch 2.7 on
DTYPES |= {"F8_E8M0": torch.float8_e8m0fnu} if hasattr(torch, "float8_e8m0fnu") else {}
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# types of the format that torch lacks, by the bits of an element: such a tensor is kept as its bytes
OPAQUE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8}
LENGTH_BYTES = 8  # a little-endian count of the JSON bytes that follow
LARGEST_HEADER = 100_000_000  # the format's own limit: a larger number is garbage, not a header
MOST_TENSORS = 1_000_000
MOST_DIMENSIONS = 32
TOO_MANY_BITS = 1 << 66  # torch counts bytes in int64
PIECE = 1 << 24  # bytes compared at a time
GIT_LFS = b"version "  # start of the text file that stands in for a file not yet fetched


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor is stored, and how to read its bytes."""

    file: Path
    type_name: str  # in the file
    shape: tuple[int, ...]
    start: int  # its first byte, from the start of the file
    end: int

    @property
    def dtype(self) -> torch.dtype:
        """That of the elements, or uint8, that of the bytes, where torch has no such type."""
        return DTYPES.get(self.type_name, torch.uint8)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read the tensors of a file, in byte order, and its metadata.

    Raises:
        CheckpointError: the file is unreadable, truncated, or its header and its bytes disagree.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return _parse(_header_bytes(file, size), path, size)
    except OSError as error:
        reason = reason_and_remedy(error, "check the file", path)
        raise CheckpointError(f"weights {str(path)!r} cannot be read: {reason}") from error
    # every malformed file raises a ValueError: bad UTF-8, bad JSON and the checks below
    except ValueError as error:
        raise CheckpointError(f"weights {str(path)!r} are damaged: {error}; download or save the file again") from error


def read_tensor(info: TensorInfo) -> Tensor:
    """Read one tensor in its own dtype, into new memory; the bytes, (nbytes,), of one that torch has no dtype for."""
    content = torch.empty(info.nbytes, dtype=torch.uint8)
    try:
        with open_regular(info.file) as file:
            file.seek(info.start)
            count = file.readinto(content.numpy().data)
    except OSError as error:
        reason = reason_and_remedy(error, "check the disk", info.file)
        raise CheckpointError(f"weights {str(info.file)!r} cannot be read: {reason}") from error
    if count != info.nbytes:
        raise CheckpointError(
            f"weights {str(info.file)!r} became shorter while in use; leave the file alone and run again"
        )
    return content.view(info.dtype).view(info.shape) if info.type_name in DTYPES else content


def is_copy(one: TensorInfo, other: TensorInfo) -> bool:
    """Return whether two stored tensors are equal in dtype, shape and every byte.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if (one.type_name, one.shape) != (other.type_name, other.shape):
        return False
    try:
        with open_regular(one.file) as first, open_regular(other.file) as second:
            first.seek(one.start)
            second.seek(other.start)
            pieces = (min(PIECE, one.nbytes - start) for start in range(0, one.nbytes, PIECE))
            return all(first.read(size) == second.read(size) for size in pieces)
    except OSError as error:
        raise CheckpointError(f"{str(error.filename)!r} cannot be read: {error.strerror}; check the disk") from error


def digest_of(tensor: Tensor) -> str:
    """Return the sha256 of the bytes of a tensor, in memory, as a file holds them."""
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()


def header_for(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """Return the bytes that precede the tensors, which follow in the order given, without gaps."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # so that the first tensor is aligned
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _header_bytes(file: BinaryIO, size: int) -> bytes:
    prefix = file.read(LENGTH_BYTES)
    if prefix == GIT_LFS:
        raise ValueError("the file is a git-lfs pointer, so 'git lfs pull' has not run")
    if len(prefix) < LENGTH_BYTES:
        raise ValueError(f"the file has {size} bytes, too few for a header")
    length = int.from_bytes(prefix, "little")
    if length > min(LARGEST_HEADER, size - LENGTH_BYTES):
        raise ValueError(f"the header claims {length} bytes, but the file has {size}")
    return file.read(length)


def parse_header(text: bytes, path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a header, in byte order, for a file that is yet to be written.

    Raises:
        ValueError: it is not one.
    """
    return _parse(text, path, None)[0]


def _parse(text: bytes, path: Path, size: int | None) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    header = parse_json(text)
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the header has metadata that are not text")
    if len(header) > MOST_TENSORS:
        raise ValueError(f"the header has {len(header)} tensors, more than {MOST_TENSORS}")
    base = LENGTH_BYTES + len(text)
    tensors = [(name, _tensor_info(name, entry, path, base)) for name, entry in header.items()]
    tensors.sort(key=lambda item: (item[1].start, item[1].end))
    position = base
    for name, info in tensors:
        if info.start != position:
            fault = "overlaps another tensor" if info.start < position else "comes after a gap"
            raise ValueError(f"tensor {name!r} {fault}")
        position = info.end
    if size is not None and position != size:
        raise ValueError(f"the header describes {position} bytes, but the file has {size}")
    return dict(tensors), metadata


def _tensor_info(name: str, entry: Any, path: Path, base: int) -> TensorInfo:
    match entry:
        case {"dtype": str(type_name), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            if type_name not in DTYPES and type_name not in OPAQUE_BITS:
                raise CheckpointError(
                    f"tensor {name!r} in {str(path)!r} is stored as {type_name!r}, which is not supported; use a "
                    "checkpoint in bfloat16, float16 or float32"
                )
            bits = 8 * DTYPES[type_name].itemsize if type_name in DTYPES else OPAQUE_BITS[type_name]
            # bool is a kind of int, and a side of 0 hides what the others multiply to
            if (
                len(shape) > MOST_DIMENSIONS
                or not all(type(side) is int and side >= 0 for side in shape)
                or math.prod(max(side, 1) for side in shape) * bits >= TOO_MANY_BITS
            ):
                raise ValueError(f"tensor {name!r} has the shape {quoted(shape)}")
            if (
                type(start) is not int
                or type(end) is not int
                or start < 0
                or 8 * (end - start) != math.prod(shape) * bits
            ):
                raise ValueError(
                    f"tensor {name!r} of shape {quoted(shape)} and type {type_name} has {end - start} bytes"
                )
            return TensorInfo(path, type_name, tuple(shape), base + start, base + end)
    raise ValueError(f"tensor {name!r} lacks its dtype, shape or data_offsets")
