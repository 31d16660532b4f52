"""A model's config.json, read as numbers alone and compared with its weights before any model is built from it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from unipruning_core.errors import CheckpointError
from unipruning_core.storage.documents import quoted, read_object
from unipruning_core.storage.tensorfile import TensorInfo

PACKED = 8  # weights in one stored number, at most: 4 bits each in an int32
SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
LARGEST_SIDE_FILE = 1 << 28  # bytes
MOST_LAYERS = 10_000  # where there are no weights to compare with
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
LAYERS = re.compile(r"n_layer|\w*_(layers|blocks)")
EXPERTS = re.compile(r"\w*_experts")
SIDES = re.compile(r"vocab_size|\w*hidden_size|\w*intermediate_size|n_embd|n_inner|d_model|d_ff|ffn_dim|head_dim")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.

    Raises:
        CheckpointError: it cannot be read, or is not a JSON object.
    """
    try:
        return read_object(path, strict=False)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}; make it a readable file") from error
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}; copy it from the original model") from error


def check_config(path: Path, config: Mapping[str, Any], tensors: Collection[TensorInfo]) -> None:
    """Refuse a config that describes far more than the weights hold, and would take long or much memory to build.

    No model has more layers or experts than tensors, unless a tensor stacks experts, or sides far beyond all others.

    Raises:
        CheckpointError: it does.
    """
    sides = max((side for info in tensors for side in info.shape), default=0)
    stacked = max((info.shape[0] for info in tensors if len(info.shape) > 2), default=0)
    limits = {LAYERS: len(tensors), EXPERTS: max(len(tensors), stacked), SIDES: PACKED * sides}
    _check_numbers(path, config, limits, f"its weights are {len(tensors)} tensors with sides of at most {sides}")


def check_bare_config(path: Path) -> None:
    """Refuse a config without weights that would take long to build.

    Raises:
        CheckpointError: it cannot be read, is not a JSON object, or describes more than any model has.
    """
    limits = {LAYERS: MOST_LAYERS, EXPERTS: MOST_LAYERS}
    _check_numbers(path, read_config(path), limits, f"no model has more than {MOST_LAYERS}")


def _check_numbers(path: Path, config: Mapping[str, Any], limits: Mapping[re.Pattern[str], int], known: str) -> None:
    for name, value in _numbers(config):
        if name in DEPTHS and value < 1:
            raise CheckpointError(
                f"{str(path)!r} has {name} {quoted(value)}, which must be 1 or more; copy it from the original model"
            )
        if any(pattern.fullmatch(name) and value > limit for pattern, limit in limits.items()):
            raise CheckpointError(
                f"{str(path)!r} describes another model: {name} is {quoted(value)}, but {known}; copy it from the "
                "original model"
            )


def check_side_files(folder: Path) -> None:
    """Refuse a file beside the weights, such as a tokenizer's, that is too large to be one.

    Raises:
        CheckpointError: there is one.
    """
    for path in sorted(folder.glob("*")):
        if path.suffix in SIDE_FILES and path.is_file() and (size := path.stat().st_size) > LARGEST_SIDE_FILE:
            raise CheckpointError(
                f"{str(path)!r} has {size} bytes, more than {LARGEST_SIDE_FILE}, so it belongs to no tokenizer or "
                "config; copy it from the original model"
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a config and of the configs of its parts."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
