"""Masks on disk: `masks.safetensors` beside a pruned checkpoint, at most one bit per weight.

A mask is stored in the layer's orientation, (out, in), row-major:

* ``bits``: one bit per weight, the first of eight in the lowest bit of a byte;
* ``N:M``: for each group its rank among the C(M, N) ways to keep N of M, in ceil(log2 C(M, N)) bits, lowest first.
  With the kept positions c_1 < ... < c_N the rank is sum_k C(c_k, k), the combinatorial number system.
  2:4 takes three bits per group, 0.75 bits per weight.

The file's metadata names the encoding of each matrix, since the two may be mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.sparsity.forms import MatrixSparsity, SemiStructured, parse_cut
from unipruning_core.storage.checkpoint import Target
from unipruning_core.storage.tensorfile import TensorInfo, read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

MASK_FILE = "masks.safetensors"
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
        target.name: {"shape": target.shape, "transposed": target.transposed, "pattern": patterns[target.name]}
        for target in targets
    }
    metadata = {"format": FORMAT, "sparsity": sparsity, "layers": json.dumps(layers)}
    contents = {target.name: (torch.uint8, (packed_bytes(target.shape, cuts[target.name]),)) for target in targets}
    return TensorStream(folder / MASK_FILE, contents, metadata)


@dataclass(frozen=True)
class MaskFile:
    """The masks of a pruned checkpoint, unpacked one at a time."""

    sparsity: str  # as the user wrote it
    targets: tuple[Target, ...]
    patterns: dict[str, SemiStructured | None]  # by target; None where the mask is bits
    packed: dict[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """Return the mask of one target in the layer's orientation, (out, in) bool: True is kept."""
        shape = next(target.shape for target in self.targets if target.name == name)
        try:
            return unpack(read_tensor(self.packed[name]), shape, self.patterns[name])
        except ValueError as error:
            raise CheckpointError(f"the mask of {name!r} is damaged: {error}; project again") from error


def read_masks(folder: str | Path) -> MaskFile:
    """Open the masks beside a pruned checkpoint.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    path = Path(folder) / MASK_FILE
    if not path.is_file():
        raise CheckpointError(f"{str(folder)!r} has no {MASK_FILE}; pass a folder that 'unipruning project' wrote")
    packed, metadata = read_header(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{str(path)!r} has format {metadata.get('format')!r}, not {FORMAT!r}; project again")
    try:
        layers = json.loads(metadata["layers"])
        targets = tuple(
            Target(name, (layer["shape"][0], layer["shape"][1]), layer["transposed"]) for name, layer in layers.items()
        )
        patterns = {name: _pattern(layer["pattern"]) for name, layer in layers.items()}
        expected_bytes = {target.name: packed_bytes(target.shape, patterns[target.name]) for target in targets}
        masks = MaskFile(metadata["sparsity"], targets, patterns, packed)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} has invalid metadata: {error}; project again") from error
    if expected_bytes != {name: info.nbytes for name, info in packed.items()}:
        raise CheckpointError(f"{str(path)!r} does not match its metadata; project again")
    return masks


def _pattern(text: str) -> SemiStructured | None:
    if text == "bits":
        return None
    if isinstance(pattern := parse_cut(text), SemiStructured):
        return pattern
    raise ValueError(f"{text!r} is neither N:M nor 'bits'")


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
    octets = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    packed = octets[:, 0].clone()
    for place in range(1, 8):
        packed |= octets[:, place] << place
    return packed


def _unpack_bits(packed: Tensor, count: int) -> Tensor:  # (ceil(count / 8),) uint8 -> (count,) bool
    places = torch.arange(8, dtype=torch.uint8)
    return ((packed[:, None] >> places) & 1).bool().flatten()[:count]
