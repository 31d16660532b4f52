"""The tensors of a saved state that several ranks hold, and save, in parts: rows of one whole, in several files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unipruning_core.storage.tensorfile import TensorInfo, read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from torch import Tensor

STARTS = "starts"  # in a file's metadata: the first row of each part, where it is not 0


class Part(NamedTuple):
    """Where a tensor lies in the whole that all ranks hold together, along its first dimension."""

    start: int
    total: int


class Piece(NamedTuple):
    """A part in a file."""

    start: int
    info: TensorInfo


def write_parts(path: Path, tensors: Mapping[str, Tensor], parts: Mapping[str, Part]) -> str:
    """Write the tensors that this process saves, and return the sha256 of the file."""
    contents = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    starts = {name: parts[name].start for name in tensors if name in parts and parts[name].start}
    with TensorStream(path, contents, {STARTS: json.dumps(starts)} if starts else {}) as stream:
        for tensor in tensors.values():
            stream.append(tensor)
    return stream.sha256


def pieces_in(files: Iterable[Path]) -> dict[str, list[Piece]]:
    """Return the pieces of every tensor in a state's files, in order.

    Raises:
        CheckpointError, ValueError: a file cannot be read.
    """
    pieces: dict[str, list[Piece]] = {}
    for path in files:
        held, metadata = read_header(path)
        starts = json.loads(metadata.get(STARTS, "{}"))
        for name, info in held.items():
            pieces.setdefault(name, []).append(Piece(starts.get(name, 0), info))
    return {name: sorted(of_name, key=lambda piece: piece.start) for name, of_name in pieces.items()}


def check_pieces(name: str, pieces: list[Piece] | None, tensor: Tensor, part: Part | None) -> None:
    """Refuse pieces that do not make up the whole of which a tensor is a part, or all.

    Raises:
        ValueError: they do not.
    """
    shape = tuple(tensor.shape) if part is None else (part.total, *tensor.shape[1:])
    if not pieces:
        raise ValueError(f"{name!r} is missing, not {tensor.dtype} of {shape}")
    found, end = pieces[0].info.shape, 0
    if len(pieces) > 1 or part is not None:
        for start, info in pieces:
            if start != end or not info.shape:
                raise ValueError(f"{name!r} is in {len(pieces)} parts that do not follow each other, not {shape}")
            end += info.shape[0]
        found = (end, *found[1:])
    kinds = {(info.dtype, info.shape[1:]) for _, info in pieces}
    if kinds != {(tensor.dtype, tuple(tensor.shape[1:]))} or found != shape:
        raise ValueError(f"{name!r} is {pieces[0].info.dtype} of {found}, not {tensor.dtype} of {shape}")


def read_into(tensor: Tensor, pieces: Iterable[Piece], part: Part | None) -> None:
    """Copy what a tensor holds of the whole out of its pieces, in place."""
    if part is None:
        (piece,) = pieces
        tensor.copy_(read_tensor(piece.info))
        return
    first, last = part.start, part.start + len(tensor)
    for start, info in pieces:
        low, high = max(first, start), min(last, start + info.shape[0])
        if low < high:
            tensor[low - first : high - first].copy_(read_tensor(info)[low - start : high - start])
