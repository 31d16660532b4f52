"""The format semi-structured: 2:4 as torch.sparse packs it, written here and loaded onto a GPU.

The file ``unipruning.semi-structured`` is a safetensors file under another ending, since loaders take every
``*.safetensors`` for weights.  Of a matrix (out, in) that keeps at most two of every four inputs it holds
``NAME.values``, (out, in / 2), and ``NAME.meta``, (out, in / 16) int16: the two numbers of each four and two bits for
the place of each, in the order that CUTLASS reads.  All other tensors are as they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.contract import Choice, Exporter
from unipruning_core.models.auto import auto_class
from unipruning_core.models.borders import library_errors_as
from unipruning_core.progress import Progress, as_progress
from unipruning_core.projection.counts import HALF, is_half
from unipruning_core.storage.documents import member, parse_json, quoted
from unipruning_core.storage.layout import INDEX_FILE
from unipruning_core.storage.tensorfile import read_header, read_tensor
from unipruning_core.storage.tensorstream import TensorStream

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from unipruning_core.export.source import Source
    from unipruning_core.storage.checkpoint import Target

FILE = "unipruning.semi-structured"
FORMAT = "unipruning-semi-structured-1"
DTYPES = (torch.bfloat16, torch.float16)  # in float32 the same hardware keeps one of two
ROWS, COLUMNS = 32, 64  # which the sides of a matrix divide by
META_COLUMNS = 16  # inputs to one int16
Contents = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class SemiStructured(Exporter):
    """Half of the values, and their places."""

    def size(self, source: Source, choice: Choice) -> int:
        source.check_floats("semi-structured")
        packed = {target.name for target in source.masks.targets if _fits(source, target)}
        if not packed:
            raise ConfigError(
                f"no matrix of {str(source.folder)!r} keeps at most 2 of every 4 inputs in bfloat16 or float16 with "
                f"sides that divide by {ROWS} and {COLUMNS}; project with --sparsity 2:4"
            )
        contents = _contents(source, packed)
        return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in contents.values())

    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        by_name = {target.name: target for target in source.masks.targets}
        packed = {target.name for target in source.masks.targets if _fits(source, target)}
        source.copy_files(folder, but=(INDEX_FILE,))
        about = {"format": FORMAT, "matrices": json.dumps(sorted(packed))}
        names = source.checkpoint.tensors
        with (
            progress.task("packing", len(names), "tensors") as task,
            TensorStream(folder / FILE, _contents(source, packed), about) as stream,
        ):
            for name in names:
                if name in packed:
                    for part in _packed(name, source.stored(by_name[name])):
                        stream.append(part)
                else:
                    stream.append(source.tensor(name))
                task.advance()
        return {"packed": len(packed), "dense": [name for name in by_name if name not in packed]}


def _fits(source: Source, target: Target) -> bool:
    if source.checkpoint.tensors[target.tensor].dtype not in DTYPES or target.within is not None or target.transposed:
        return False
    if target.shape[0] % ROWS or target.shape[1] % COLUMNS:
        return False
    pattern = source.masks.patterns[target.name]
    if pattern is not None and pattern.m == HALF[1]:
        return pattern.n <= HALF[0]
    return is_half(source.masks.read(target.name))


def _contents(source: Source, packed: set[str]) -> Contents:
    contents: Contents = {}
    for name, info in source.checkpoint.tensors.items():
        if name in packed:
            rows, columns = info.shape
            contents[f"{name}.values"] = (info.dtype, (rows, columns // 2))
            contents[f"{name}.meta"] = (torch.int16, (rows, columns // META_COLUMNS))
        else:
            contents[name] = (info.dtype, info.shape)
    return contents


def _packed(name: str, weight: Tensor) -> Iterator[Tensor]:
    pack, unpack = _conversions()
    values, meta = pack(weight)
    # the packer drops what does not fit, without a word
    if not torch.equal(unpack(values, meta), weight):
        raise CheckpointError(f"weight {name!r} keeps more than 2 of 4 inputs somewhere; project again")
    yield values
    yield meta


def _conversions() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return torch's packer and its inverse, which run on any device.

    Raises:
        ConfigError: this release of torch has them elsewhere.
    """
    try:
        from torch.sparse._semi_structured_conversions import (
            sparse_semi_structured_from_dense_cutlass as pack,
        )
        from torch.sparse._semi_structured_conversions import (
            sparse_semi_structured_to_dense_cutlass as unpack,
        )
    except ImportError as error:
        raise ConfigError(
            f"torch {torch.__version__} has no packer of 2:4 in Python; use a release between 2.6 and 2.13"
        ) from error
    return pack, unpack


def load_semi_structured(
    folder: str | os.PathLike[str], device: str | torch.device, progress: bool | Progress = True
) -> PreTrainedModel:
    """Load what ``export`` packed as a model on a GPU, whose 2:4 layers are in torch's semi-structured layout.

    Each packed matrix is given to ``torch.sparse.to_sparse_semi_structured``, which takes the layout of the library
    that the GPU has.  The model is for inference: torch computes linear layers with such weights, and little else.

    Raises:
        CheckpointError: the folder was not written by ``export --to semi-structured``, or is damaged.
        ConfigError: the device cannot compute with 2:4.
    """
    folder, shown = Path(folder), as_progress(progress)
    from transformers import AutoConfig

    tensors, packed = _opened(folder)
    _, unpack = _conversions()
    state: dict[str, Tensor] = {}
    for name, info in tensors.items():
        stem = name.removesuffix(".values")
        if stem in packed:
            state[stem] = unpack(read_tensor(info), read_tensor(tensors[f"{stem}.meta"]))
        elif name.removesuffix(".meta") not in packed:
            state[name] = read_tensor(info)
    dtype = state[packed[0]].dtype
    with library_errors_as(CheckpointError, f"{str(folder)!r} cannot be loaded", "export again"):
        config = AutoConfig.from_pretrained(folder)
        kind = auto_class(str(folder), config, trust_remote_code=False)._model_mapping[type(config)]
        model = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    modules: dict[str, Any] = dict(model.named_modules())
    if unknown := [name for name in packed if name.rpartition(".")[0] not in modules]:
        raise ConfigError(f"{type(model).__name__} calls {unknown[0]!r} otherwise; load the pruned checkpoint itself")
    model.requires_grad_(False)
    halves = {}
    with (
        shown.task("packing", len(packed), "matrices") as task,
        library_errors_as(ConfigError, f"{str(device)!r} cannot compute with 2:4", "use a GPU that can"),
    ):
        for name in packed:
            module = modules[name.rpartition(".")[0]]
            halves[name] = torch.sparse.to_sparse_semi_structured(module.weight.detach().to(device))
            # so that what is moved below is not the dense weight
            module.weight = None
            task.advance()
        model.to(device)
    for name, half in halves.items():
        modules[name.rpartition(".")[0]].weight = nn.Parameter(half, requires_grad=False)
    loaded: PreTrainedModel = model
    return loaded


def _opened(folder: Path) -> tuple[dict[str, Any], list[str]]:
    if not (folder / FILE).is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no {FILE}; pass a folder that 'unipruning export --to semi-structured' wrote"
        )
    tensors, metadata = read_header(folder / FILE)
    try:
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {quoted(metadata.get('format'))}, not {FORMAT!r}")
        packed = parse_json(member(metadata, "matrices", str).encode())
        if not isinstance(packed, list) or not packed:
            raise ValueError("it names no matrices")
        if missing := [name for name in packed if not {f"{name}.values", f"{name}.meta"} <= tensors.keys()]:
            raise ValueError(f"it lacks {quoted(missing[0])}")
    except ValueError as error:
        raise CheckpointError(f"{str(folder / FILE)!r} is damaged: {error}; export again") from error
    return tensors, packed
