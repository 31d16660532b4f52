"""Masks on disk: `unipruning.masks` beside a pruned checkpoint, at most one bit per weight.

Inside it is a safetensors file.  Its ending is another, since loaders take every `*.safetensors` for weights.

A mask is stored in the layer's orientation, (out, in), row-major:

* ``bits``: one bit per weight, the first of eight in the lowest bit of a byte;
* ``N:M``: for each group its rank among the C(M, N) ways to keep N of M, in ceil(log2 C(M, N)) bits, lowest first.
  With the kept positions c_1 < ... < c_N the rank is sum_k C(c_k, k), the combinatorial number system.
  2:4 takes three bits per group, 0.75 bits per weight.

The file's metadata names the encoding of each matrix, since the two may be mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.frames import Tabular
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.report import MASKS, REPORT_FILE, read_report
from unipruning_core.sparsity.forms import MatrixSparsity, SemiStructured, parse_cut
from unipruning_core.storage.checkpoint import Target, place_of
from unipruning_core.storage.documents import member, parse_json, quoted
from unipruning_core.storage.files import sha256
from unipruning_core.storage.tensorfile import TensorInfo, read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

MASK_FILE = "unipruning.masks"
EARLIER_MASK_FILE = "masks.safetensors"  # its name in 0.1.0
FORMAT = "unipruning-masks-2"
CHUNK = 1 << 16  # groups ranked at a time, a multiple of 8: int64 ranks of a whole matrix would outgrow its mask


def packed_bytes(shape: Sequence[int], sparsity: MatrixSparsity | None) -> int:
    """Return the size in bytes of a matrix's packed mask."""
    numel = shape[0] * shape[1]
    if isinstance(sparsity, SemiStructured):
        return -(-numel // sparsity.m * _rank_bits(sparsity) // 8)
    return -(-numel // 8)


def pack(mask: Tensor, sparsity: MatrixSparsity | None) -> Tensor:  # (out, in) bool -> (bytes,) uint8
    """Pack a mask in the fewest bits its pattern allows; an N:M mask keeps exactly N of every M."""
    if not isinstance(sparsity, SemiStructured):
        return _pack_bits(mask.flatten())
    places = torch.arange(_rank_bits(sparsity))
    packed = []
    for groups in mask.reshape(-1, sparsity.m).split(CHUNK):
        if not bool((groups.sum(dim=1) == sparsity.n).all()):
            raise ValueError(f"the mask does not keep {sparsity.n} of every {sparsity.m}")
        packed.append(_pack_bits(((_rank(groups, sparsity)[:, None] >> places) & 1).bool().flatten()))
    return torch.cat(packed) if packed else torch.empty(0, dtype=torch.uint8)


def unpack(
    packed: Tensor,  # (bytes,) uint8
    shape: tuple[int, int],
    sparsity: MatrixSparsity | None,
) -> Tensor:  # (out, in) bool
    """Return the mask that ``pack`` was given."""
    numel = shape[0] * shape[1]
    if not isinstance(sparsity, SemiStructured):
        return _unpack_bits(packed, numel).view(shape)
    bits = _rank_bits(sparsity)
    places = torch.arange(bits)
    mask = torch.empty(numel // sparsity.m, sparsity.m, dtype=torch.bool)
    # chunks are multiples of 8 groups, so each ends on a byte boundary
    for groups, part in zip(mask.split(CHUNK), packed.split(CHUNK * bits // 8), strict=True):
        ranks = (_unpack_bits(part, len(groups) * bits).view(-1, bits).long() << places).sum(dim=1)
        _unrank(ranks, sparsity, groups)
    return mask.view(shape)


def mask_stream(
    folder: Path, targets: Sequence[Target], sparsity: str, cuts: Mapping[str, MatrixSparsity]
) -> TensorStream:
    """Open a folder's mask file for appending one packed mask per target, in order; ``sparsity`` is only recorded."""
    patterns = {name: str(cut) if isinstance(cut, SemiStructured) else "bits" for name, cut in cuts.items()}
    layers = {
        target.name: {
            "shape": target.shape,
            "transposed": target.transposed,
            "pattern": patterns[target.name],
            **target.place,
        }
        for target in targets
    }
    metadata = {"format": FORMAT, "sparsity": sparsity, "layers": json.dumps(layers)}
    contents = {target.name: (torch.uint8, (packed_bytes(target.shape, cuts[target.name]),)) for target in targets}
    return TensorStream(folder / MASK_FILE, contents, metadata)


@dataclass(frozen=True)
class MaskFile(Mapping[str, Tensor], Tabular):
    """The masks of a pruned checkpoint by target, each unpacked when it is asked for."""

    sparsity: str  # as the user wrote it
    targets: tuple[Target, ...]
    patterns: dict[str, SemiStructured | None]  # by target; None where the mask is bits
    packed: dict[str, TensorInfo]
    kept: Mapping[str, int] = field(default_factory=dict)  # by target, as the report counted; empty if there is none

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.packed:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return (target.name for target in self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    # without unpacking it
    def __contains__(self, name: object) -> bool:
        return name in self.packed

    def records(self) -> list[dict[str, Any]]:
        rows = []
        for target in self.targets:
            kept = self.kept[target.name] if target.name in self.kept else int(self.read(target.name).sum())
            pattern = str(self.patterns[target.name] or "unstructured")
            counts = {"pattern": pattern, "kept": kept, "total": target.size, "sparsity": 1 - kept / target.size}
            rows.append(target.cells | counts)
        return rows

    def read(self, name: str) -> Tensor:
        """Return the mask of one target in the layer's orientation, (out, in) bool: True is kept."""
        shape = next(target.shape for target in self.targets if target.name == name)
        try:
            mask = unpack(read_tensor(self.packed[name]), shape, self.patterns[name])
            if (kept := int(mask.sum())) != self.kept.get(name, kept):
                raise ValueError(f"it keeps {kept} weights, but {REPORT_FILE} counted {self.kept[name]}")
            return mask
        except ValueError as error:
            raise CheckpointError(f"the mask of {name!r} is damaged: {error}; project again") from error


def read_masks(folder: str | os.PathLike[str], progress: bool | Progress = True) -> MaskFile:
    """Open the masks beside a pruned checkpoint, and compare them with the checksum and the counts of its report.

    Masks without a report, or with one of an earlier version, are read too, after a note.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    names = (MASK_FILE, EARLIER_MASK_FILE)
    path = next((path for path in map(Path(folder).joinpath, names) if path.is_file()), None)
    if path is None:
        raise CheckpointError(f"{str(folder)!r} has no {MASK_FILE}; pass a folder that 'unipruning project' wrote")
    report = read_report(path.parent) if (path.parent / REPORT_FILE).exists() else {}
    if MASKS not in report:
        as_progress(progress).note(
            f"nothing tells whether {str(path)!r} is what was written: {REPORT_FILE} is missing or has no checksums"
        )
    packed, metadata = read_header(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(path)!r} has format {quoted(metadata.get('format'))}, not {FORMAT!r}; project again"
        )
    try:
        if MASKS in report and sha256(path) != report[MASKS]:
            raise ValueError(f"its checksum is not that in {REPORT_FILE}")
        kept = {name: counts["kept"] for name, counts in report.get("matrices", {}).items()}
        return _described(packed, metadata, kept)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}; check the disk") from error
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}; project again") from error


def _described(packed: dict[str, TensorInfo], metadata: Mapping[str, str], kept: Mapping[str, int]) -> MaskFile:
    """Return the masks if the metadata describe exactly the tensors, and the report, if any, the same matrices."""
    sparsity, layers = member(metadata, "sparsity", str), parse_json(member(metadata, "layers", str).encode())
    if not isinstance(layers, dict):
        raise ValueError("'layers' is not an object")
    targets, patterns = [], {}
    for name in layers:
        layer = member(layers, name, dict)
        shape = member(layer, "shape", list)
        if len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"the shape of {name!r} is {quoted(shape)}")
        targets.append(Target(name, (shape[0], shape[1]), member(layer, "transposed", bool), *place_of(layer)))
        patterns[name] = _pattern(member(layer, "pattern", str), targets[-1])
    expected = {target.name: (torch.uint8, (packed_bytes(target.shape, patterns[target.name]),)) for target in targets}
    if expected != {name: (info.dtype, info.shape) for name, info in packed.items()}:
        raise ValueError("its tensors are not those of its metadata")
    if kept and (list(kept) != list(layers) or list(packed) != list(layers)):
        raise ValueError(f"its matrices are not those of {REPORT_FILE}")
    return MaskFile(sparsity, tuple(targets), patterns, packed, kept)


def _pattern(text: str, target: Target) -> SemiStructured | None:
    if text == "bits":
        return None
    if isinstance(pattern := parse_cut(text), SemiStructured) and target.shape[1] % pattern.m == 0:
        return pattern
    raise ValueError(f"the pattern of {target.name!r} is {quoted(text)}")


def _rank_bits(sparsity: SemiStructured) -> int:
    return (comb(sparsity.m, sparsity.n) - 1).bit_length()


def _rank(groups: Tensor, sparsity: SemiStructured) -> Tensor:  # (groups, m) bool -> (groups,) int64
    table = _binomials(sparsity)
    kept_so_far = groups.long().cumsum(dim=1)
    # C(j, k) where j is the k-th kept position, and zero elsewhere
    return torch.where(groups, table[torch.arange(sparsity.m), kept_so_far], 0).sum(dim=1)


def _unrank(ranks: Tensor, sparsity: SemiStructured, groups: Tensor) -> None:
    """Fill ``groups``, greedily from the last position: the largest c with C(c, k) <= rank is the k-th kept."""
    table = _binomials(sparsity)
    left = torch.full_like(ranks, sparsity.n)
    for position in reversed(range(sparsity.m)):
        step = table[position, left]
        kept = (left > 0) & (ranks >= step)
        groups[:, position] = kept
        ranks = ranks - step * kept
        left = left - kept.long()
    if bool(ranks.any()):
        raise ValueError(f"a rank is not below C({sparsity.m}, {sparsity.n})")


def _binomials(sparsity: SemiStructured) -> Tensor:
    """Return C(j, k) for j < m and k <= n, int64, one row per position."""
    return torch.tensor([[comb(j, k) for k in range(sparsity.n + 1)] for j in range(sparsity.m)])


def _pack_bits(bits: Tensor) -> Tensor:  # (n,) bool -> (ceil(n / 8),) uint8
    return torch.from_numpy(np.packbits(bits.numpy(), bitorder="little"))


def _unpack_bits(packed: Tensor, count: int) -> Tensor:  # (ceil(count / 8),) uint8 -> (count,) bool
    places = torch.arange(8, dtype=torch.uint8)
    bits = ((packed[:, None] >> places) & 1).bool().flatten()
    if bool(bits[count:].any()):
        raise ValueError("a bit is set beyond the last weight")
    return bits[:count]
