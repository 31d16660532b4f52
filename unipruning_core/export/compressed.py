"""The format compressed-tensors: weights rounded to codes whose zero is exact, as vLLM and transformers read them.

The layouts for sparsity of that package are no longer read by anybody: transformers loads them as random weights, and
vLLM refuses them.  What its newest version reads are codes; those with a symmetric grid keep every zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import ConfigError
from unipruning_core.export.contract import Choice, Exporter
from unipruning_core.models.borders import library_errors_as
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE
from unipruning_core.storage.packed import Plain
from unipruning_core.storage.quantised import SECTIONS, without_sections
from unipruning_core.storage.rewritten import bytes_of, write_document, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.export.source import Source
    from unipruning_core.progress import Progress
    from unipruning_core.storage.checkpoint import Target

WORD = 32  # bits that packed codes share
REMEDY = "use llmcompressor on the pruned folder, and check-zeros on the result"


@dataclass(frozen=True)
class Layout:
    """How weights of a scheme are stored."""

    format: str  # in compressed-tensors
    dtype: torch.dtype
    bits: int
    group: int = 0  # inputs that share a scale; 0 for a row
    preset: str = ""  # the scheme's name there


LAYOUTS = {
    "W8A16": Layout("pack-quantized", torch.int32, 8),
    "W4A16": Layout("pack-quantized", torch.int32, 4, 128, "W4A16"),
    "W8A8": Layout("int-quantized", torch.int8, 8, preset="W8A8"),
    "FP8_DYNAMIC": Layout("float-quantized", torch.float8_e4m3fn, 8, preset="FP8_DYNAMIC"),
}


class Compressed(Exporter):
    """Codes by the package's own arithmetic, rounded to the nearest."""

    def size(self, source: Source, choice: Choice) -> int:
        _check(source, choice)
        return bytes_of(_tensors(source, choice))

    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        _check(source, choice)
        source.copy_files(folder, but=(CONFIG_FILE, INDEX_FILE))
        with library_errors_as(ConfigError, "compressed-tensors cannot write these weights", REMEDY):
            section = _section(source, choice)
            write_tensors(source.checkpoint, _tensors(source, choice), folder, progress, "quantising")
        write_document(folder / CONFIG_FILE, {**without_sections(source.config), SECTIONS[0]: section})
        return {}


def _check(source: Source, choice: Choice) -> None:
    """Refuse targets that a layer of compressed-tensors does not hold.

    Raises:
        ConfigError: one is none of a linear layer by itself, or its rows do not divide into groups.
    """
    source.check_floats("compressed-tensors")
    group = LAYOUTS[choice.type].group
    for target in source.masks.targets:
        if target.transposed or target.within is not None or ".experts." in target.name:
            raise ConfigError(f"{target.name!r} is not the weight of a linear layer by itself; {REMEDY}")
        if group and target.shape[1] % group:
            raise ConfigError(
                f"{target.name!r} has {target.shape[1]} inputs, which do not divide into the groups of {group} of "
                f"{choice.type}; choose another --type"
            )


def _tensors(source: Source, choice: Choice) -> list[Plain]:
    """Return what is written, in the order of the checkpoint."""
    by_name, layout = {target.name: target for target in source.masks.targets}, LAYOUTS[choice.type]
    held: dict[str, Mapping[str, Tensor]] = {}

    def part(name: str, which: str) -> Tensor:
        # the parts of a weight follow each other
        if name not in held:
            held.clear()
            held[name] = _codes(source.stored(by_name[name]), choice)
        return held[name][which]

    found = []
    for name, info in source.checkpoint.tensors.items():
        if name not in by_name:
            found.append(Plain(name, name, info.dtype, info.shape, partial(source.tensor, name)))
            continue
        for which, (dtype, shape) in _parts(by_name[name], info.dtype, layout).items():
            made = name.removesuffix("weight") + which
            found.append(Plain(made, name, dtype, shape, partial(part, name, which)))
    return found


def _parts(target: Target, dtype: torch.dtype, layout: Layout) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    rows, columns = target.shape
    scales = (dtype, (rows, columns // layout.group if layout.group else 1))
    if layout.dtype != torch.int32:
        return {"weight": (layout.dtype, (rows, columns)), "weight_scale": scales}
    packed = (layout.dtype, (rows, -(-columns * layout.bits // WORD)))
    return {"weight_packed": packed, "weight_scale": scales, "weight_shape": (torch.int64, (2,))}


def _codes(weight: Tensor, choice: Choice) -> Mapping[str, Tensor]:  # (out, in), any float
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    layout, scheme = LAYOUTS[choice.type], _scheme(choice)
    groups = weight.view(len(weight), -1, layout.group or weight.shape[1])
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    parts = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    compressor = BaseCompressor.get_value_from_registry(layout.format)
    codes: Mapping[str, Tensor] = compressor.compress(parts, scheme)
    return codes


def _scheme(choice: Choice) -> Any:
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationScheme,
        QuantizationStrategy,
        preset_name_to_scheme,
    )

    layout = LAYOUTS[choice.type]
    if layout.preset:
        scheme = preset_name_to_scheme(layout.preset, ["Linear"])
    else:
        weights = QuantizationArgs(num_bits=layout.bits, strategy=QuantizationStrategy.CHANNEL)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    scheme.format = layout.format
    return scheme


def _section(source: Source, choice: Choice) -> dict[str, Any]:
    """Return what the config says of the codes; layers that were not pruned stay as they are."""
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    pruned = {target.name for target in source.masks.targets}
    others = [
        name.removesuffix(".weight")
        for name, info in source.checkpoint.tensors.items()
        if name not in pruned and name.endswith(".weight") and len(info.shape) == 2
    ]
    if "lm_head" not in others:  # tied to the embedding, it has no tensor
        others.append("lm_head")
    config = QuantizationConfig(
        config_groups={"group_0": _scheme(choice)},
        format=LAYOUTS[choice.type].format,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=others,
    )
    section: dict[str, Any] = config.to_dict()
    return section
