"""Quantised checkpoints, told by their config and by the names of their tensors; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError

SECTIONS = ("quantization_config", "compression_config")
# whose tensors tell what is stored how; of any other method a checkpoint cannot be pruned
BY_TENSORS = ("fp8", "finegrained_fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp4")
SPELLED = {"gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "torchao": "torchao"}
# how the names of a method's tensors end
MARKS = {
    "GPTQ or AWQ": re.compile(r".*\.(qweight|qzeros)"),
    "bitsandbytes": re.compile(r".*\.(SCB|absmax|quant_map|quant_state\..*)"),
    "HQQ": re.compile(r".*\.W_q"),
    "compressed-tensors (2:4 codes of Marlin)": re.compile(r".*\.(meta|scale_packed)"),
}
# layouts that ``dequantize`` reads, by how names end that all must be there
MXFP4, PACKED, BITMASK = "MXFP4", "compressed-tensors (packed codes)", "compressed-tensors (sparse bitmask)"
ZERO_POINTS = "codes of eight bits with zero points"
ENDINGS = {
    MXFP4: ("_blocks", "_scales"),
    PACKED: (".weight_packed", ".weight_shape", ".weight_scale"),
    BITMASK: (".compressed", ".bitmask", ".shape"),
    ZERO_POINTS: (".weight_zero_point", ".weight", ".weight_scale"),
}
SCALES = ("_scale_inv", "_scale")  # after the name of the tensor of codes


def sections_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what a config, and the configs of its parts, say of quantisation."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            if name in SECTIONS:
                yield value
            elif name.endswith("_config"):
                yield from sections_of(value)


def without_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that says nothing of quantisation."""
    return {
        name: without_sections(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in SECTIONS
    }


def block_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns of codes that share a scale, if the config tells."""
    for section in sections_of(config):
        groups = section.get("config_groups")
        weights = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
        told = [section.get("weight_block_size"), *(w.get("block_structure") for w in weights if isinstance(w, dict))]
        for sides in told:
            match sides:
                case [int(rows), int(columns)] if rows > 0 and columns > 0:
                    return rows, columns
    return None


def method_of(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return the method whose quantised weights cannot be read, or None if there is none."""
    for section in sections_of(config):
        method = section.get("quant_method")
        if method is None and ("load_in_4bit" in section or "load_in_8bit" in section):
            return "bitsandbytes"
        if isinstance(method, str) and method.lower() not in BY_TENSORS:
            return SPELLED.get(method.lower(), method)
    for name in names:
        for method, mark in MARKS.items():
            if mark.fullmatch(name):
                return method
    return None


def packed_layout(names: Iterable[str]) -> str | None:
    """Return the layout of tensors in which a single weight cannot be set to zero, or None if there are none."""
    ends = [name for endings in ENDINGS.values() for name in endings]
    stems: dict[str, set[str]] = {end: set() for end in ends}
    for name in names:
        for end in ends:
            if name.endswith(end):
                stems[end].add(name.removesuffix(end))
    for layout, (first, *others) in ENDINGS.items():
        if any(all(stem in stems[other] for other in others) for stem in stems[first]):
            return layout
    return None


def check_method(name: str, config: Mapping[str, Any], names: Iterable[str] = ()) -> None:
    """Refuse a model in the codes of a method that cannot be read.

    Raises:
        CheckpointError: it is.
    """
    if method := method_of(config, names):
        raise CheckpointError(
            f"model {name!r} is quantised by {method}, and its weights cannot be pruned as they are stored; pass the "
            "model that it was made from, in bfloat16, float16 or float32"
        )


def check_prunable(folder: Path, config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a checkpoint that is quantised in such a way that no weight can become zero where it is stored.

    Raises:
        CheckpointError: it is.
    """
    names = list(names)
    check_method(str(folder), config, names)
    if layout := packed_layout(names):
        raise CheckpointError(
            f"model {str(folder)!r} is stored as {layout}, in which single weights cannot be set to zero; write it in "
            f"bfloat16 with 'unipruning dequantize {folder} --out DIR' or --dequantize DIR, and prune that"
        )


def check_not_gguf(folder: Path) -> None:
    """Refuse a folder whose weights are in GGUF files.

    Raises:
        CheckpointError: it has some.
    """
    if files := sorted(path.name for path in folder.glob("*.gguf")):
        raise CheckpointError(
            f"{str(folder)!r} has only weights in GGUF ({files[0]!r}), which are not read; pass the model that they "
            "were made from, as safetensors"
        )
