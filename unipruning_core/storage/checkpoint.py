"""A model folder, read as files: its tensors, one at a time, and the files beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.storage.beside import files_to_copy
from unipruning_core.storage.codes import Codes
from unipruning_core.storage.config import read_config
from unipruning_core.storage.documents import member, quoted, read_json
from unipruning_core.storage.files import open_regular
from unipruning_core.storage.fingerprint import fingerprint_of
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, check_layout, revision_of
from unipruning_core.storage.paths import is_plain_name, path_errors_as
from unipruning_core.storage.tensorfile import TensorInfo, digest_of, is_copy, read_header, read_tensor

PIECE = 1 << 20  # elements that are looked at together


@dataclass(frozen=True)
class Target:
    """One matrix to prune: the weight of a linear layer, or of one expert, as the checkpoint stores it.

    It is a tensor of the checkpoint, or consecutive elements of one that holds several matrices, such as all experts.
    """

    name: str
    shape: tuple[int, int]  # (out, in) of the layer
    transposed: bool = False  # the checkpoint stores (in, out), as GPT-2's Conv1D does
    within: str | None = None  # the tensor that holds it, if it is not one by itself
    start: int = 0  # its first element there

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.shape[0] * self.shape[1]

    @property
    def cells(self) -> dict[str, Any]:
        """What a table says of it."""
        return {"target": self.name, "rows": self.shape[0], "columns": self.shape[1]}

    @property
    def stored_shape(self) -> tuple[int, int]:
        return self.shape[::-1] if self.transposed else self.shape

    @property
    def tensor(self) -> str:
        """The name of the tensor that holds it."""
        return self.name if self.within is None else self.within

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies, for the files that list targets: nothing for a tensor by itself."""
        return {} if self.within is None else {"within": self.within, "start": self.start}


def place_of(entry: Mapping[str, Any]) -> tuple[str | None, int]:
    """Return the tensor that holds a target and its first element there, as ``Target.place`` wrote them.

    Raises:
        ValueError: they are of another type.
    """
    if "within" not in entry:
        return None, 0
    if (start := member(entry, "start", int)) < 0:
        raise ValueError(f"'start' is {start}")
    return member(entry, "within", str), start


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose safetensors headers have been read and checked; no model is built from it."""

    folder: Path
    shards: tuple[Path, ...]
    tensors: dict[str, TensorInfo]  # shard by shard, in byte order
    copies: Mapping[str, Sequence[TensorInfo]] = field(default_factory=dict)  # the same bytes in other shards

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read the headers of a folder's weights.

        Raises:
            CheckpointError: the folder is not a model, has only pickled weights, or is incomplete or damaged.
        """
        folder = Path(folder)
        check_layout(folder)
        with path_errors_as(CheckpointError, f"model {str(folder)!r}"):
            return cls._open(folder)

    @classmethod
    def _open(cls, folder: Path) -> Checkpoint:
        read_config(folder / CONFIG_FILE)
        # where a folder has both, transformers prefers the single file too
        if (folder / SINGLE_FILE).is_file():
            return cls(folder, (folder / SINGLE_FILE,), read_header(folder / SINGLE_FILE)[0])
        return cls._open_shards(folder, _weight_map(folder / INDEX_FILE))

    @classmethod
    def _open_shards(cls, folder: Path, weight_map: dict[str, str]) -> Checkpoint:
        shards = tuple(folder / name for name in sorted(set(weight_map.values())))
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise CheckpointError(
                f"{str(folder)!r} lacks {missing[0]!r}, one of {len(missing)} missing of {len(shards)} shards named by"
                f" {INDEX_FILE}; download it again"
            )
        tensors: dict[str, TensorInfo] = {}
        others: dict[str, list[TensorInfo]] = {}
        headers = [read_header(shard)[0] for shard in shards]
        counts = Counter(name for header in headers for name in header)
        for shard, header in zip(shards, headers, strict=True):
            for name, info in header.items():
                # of several the one that the index names
                if counts[name] == 1 or weight_map.get(name) == shard.name:
                    tensors[name] = info
                else:
                    others.setdefault(name, []).append(info)
        for name, file in weight_map.items():
            if name not in tensors or tensors[name].file.name != file:
                raise CheckpointError(f"{INDEX_FILE} places {name!r} in {file!r}, which lacks it; download both again")
        if unlisted := [name for name in tensors if name not in weight_map]:
            raise CheckpointError(
                f"{INDEX_FILE} does not list {unlisted[0]!r}, which {tensors[unlisted[0]].file.name!r} holds, one of "
                f"{len(unlisted)} such tensors; download both again"
            )
        for name, copies in others.items():
            if different := next((copy for copy in copies if not is_copy(tensors[name], copy)), None):
                raise CheckpointError(
                    f"tensor {name!r} is in {tensors[name].file.name!r}, as {INDEX_FILE} says, and with other values "
                    f"in {different.file.name!r}; keep only one"
                )
        return cls(folder, shards, tensors, others)

    @property
    def revision(self) -> str | None:
        """The commit on the hub, if the folder is in the hub's cache."""
        return revision_of(self.folder)

    @property
    def total_bytes(self) -> int:
        """The size of all tensors, without headers."""
        return sum(info.nbytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """Read one tensor in the dtype and shape of the file."""
        return read_tensor(self.tensors[name])

    def infos_of(self, target: Target) -> list[TensorInfo]:
        """Return where a target is stored, as a tensor of its stored shape, in every shard that holds it."""
        infos = (self.tensors[target.tensor], *self.copies.get(target.tensor, ()))
        size = infos[0].dtype.itemsize
        first, last = (size * element for element in (target.start, target.start + target.size))
        return [
            replace(info, shape=target.stored_shape, start=info.start + first, end=info.start + last) for info in infos
        ]

    def read_target(self, target: Target) -> Tensor:
        """Read one target in the dtype of the file and its stored shape."""
        return read_tensor(self.infos_of(target)[0])

    def fingerprint(self) -> str:
        """Return a sha256 that identifies this model, from 12 KiB of each tensor: see ``fingerprint_of``."""

        def part_of(info: TensorInfo, start: int, size: int) -> bytes:
            try:
                with open_regular(info.file) as file:
                    file.seek(info.start + start)
                    return file.read(size)
            except OSError as error:
                raise CheckpointError(f"{str(info.file)!r} cannot be read: {error.strerror}; check the disk") from error

        return fingerprint_of(self.tensors, lambda name, start, size: part_of(self.tensors[name], start, size))

    def check_finite(
        self, names: Iterable[str], progress: Progress | None = None, *, digested: Iterable[Target] = ()
    ) -> dict[str, str]:
        """Read the tensors, stop at the first that is not finite, and return the sha256 of the targets to be digested.

        Raises:
            CheckpointError: a tensor holds NaN or infinity.
        """
        digests = {}
        inside: dict[str, list[Target]] = {}
        for target in digested:
            inside.setdefault(target.tensor, []).append(target)
        pending = list(names)
        size = sum(self.tensors[name].nbytes for name in pending)
        with (progress or Progress()).task("checking weights", size, "B") as task:
            for name in pending:
                tensor = self.read(name)
                for target in inside.get(name, ()):
                    digests[target.name] = digest_of(tensor.flatten()[target.start : target.start + target.size])
                if tensor.dtype.itemsize == 1:
                    tensor = tensor.float()  # isfinite does not support 8-bit floats
                # what isfinite makes on its way is several times the size of its argument
                finite = sum(int(torch.isfinite(piece).sum()) for piece in tensor.flatten().split(PIECE))
                if bad := tensor.numel() - finite:
                    rows = int((~tensor.isfinite()).any(-1).sum()) if tensor.dim() == 2 else 0
                    raise CheckpointError(
                        f"tensor {name!r} holds {bad} values of {tensor.numel()} that are NaN or infinite"
                        f"{f', in {rows} of its {len(tensor)} rows' if rows else ''};"
                        " use a checkpoint whose weights are finite"
                    )
                task.advance(self.tensors[name].nbytes)
        return digests

    def files_to_copy(self) -> tuple[list[Path], dict[str, str]]:
        """Return the model's files besides its shards, relative to the folder, and those left out, with the reason.

        Raises:
            CheckpointError: the config or the index leads outside the folder.
        """
        return files_to_copy(self.folder, {shard.name for shard in self.shards})

    @cached_property
    def codes(self) -> Codes:
        """The tensors that hold codes of eight bits, and what they stand for."""
        return Codes(self.folder / CONFIG_FILE, self.tensors, self.read)

    def values_of(self, target: Target) -> Tensor:
        """Read one target as numbers, in its stored shape: codes times their scales, or else as in the file."""
        if not self.codes.holds(target.tensor):
            return self.read_target(target)
        whole = self.codes.values(target.tensor).flatten()
        return whole[target.start : target.start + target.size].view(target.stored_shape)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        parsed = read_json(index)
    except OSError as error:
        raise CheckpointError(f"{str(index)!r} cannot be read: {error.strerror}; make it readable") from error
    except ValueError as error:
        raise CheckpointError(f"{str(index)!r} is damaged: {error}; download it again") from error
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{str(index)!r} has no weight_map; download it again")
    for name, file in weight_map.items():
        # a shard elsewhere would be read, and written to, outside the folder; and other libraries unpickle other files
        if not isinstance(file, str) or not is_plain_name(file) or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{str(index)!r} places {name!r} in {quoted(file)}, not in a safetensors file beside it; download it "
                "again"
            )
    return weight_map
