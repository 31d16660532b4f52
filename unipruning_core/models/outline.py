"""A model described by its config alone: no weights, no device, not even memory for them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unipruning_core.errors import CheckpointError
from unipruning_core.extensions import hide_broken_extensions
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.choice import BY_ROLE, TargetChoice
from unipruning_core.models.hub import mode_of, resolve_config
from unipruning_core.models.loading import build_model, stored_dtype
from unipruning_core.models.named import built_in_configs, check_dtype, check_outline
from unipruning_core.models.positions import positions_of
from unipruning_core.models.remote_code import check_code_caches
from unipruning_core.models.size import ModelSize
from unipruning_core.models.targets import LeftOut, find_targets
from unipruning_core.spelling import did_you_mean
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.config import check_bare_config
from unipruning_core.storage.layout import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from unipruning_core.storage.quantised import check_method
from unipruning_core.storage.tensorfile import TYPE_NAMES, TensorInfo

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Outline:
    """Everything about a model except its weights."""

    name: str
    config: PretrainedConfig
    stored: torch.dtype  # of most weights in the files
    dtype: torch.dtype  # in which the weights are loaded
    size: ModelSize
    targets: tuple[Target, ...]  # in checkpoint order
    left_out: tuple[LeftOut, ...]
    positions: int | None  # the most tokens at once; None for no limit
    searched: frozenset[str]  # parameters that hold targets, by name in the model
    shared: Mapping[str, str]  # parameters that are others under a second name, by it
    trust_remote_code: bool = False

    def build(self) -> PreTrainedModel:
        """Build the model under the caller's device context and tensor mode."""
        return build_model(self.name, self.config, trust_remote_code=self.trust_remote_code, dtype=self.dtype)

    @property
    def parameters(self) -> int:
        """The number of weights of the model."""
        return self.size.weights

    @property
    def weights(self) -> int:
        """The number of weights in all targets."""
        return sum(target.size for target in self.targets)

    def shapes(self) -> dict[tuple[int, int], int]:
        """Count the targets of each shape."""
        counted: dict[tuple[int, int], int] = {}
        for target in self.targets:
            counted[target.shape] = counted.get(target.shape, 0) + 1
        return counted


def outline(
    name: str,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,  # of a model on the hub
    choice: TargetChoice = BY_ROLE,
    headers: bool = False,  # whether to take names from those of the weights, where a folder has any
) -> Outline:
    """Outline a built-in model, a folder or file with a config, or a model on the hub.

    Raises:
        CheckpointError: there is no such config, it is not for a causal language model, or the folder has weights whose
            headers are damaged.
        ConfigError: weights cannot be loaded in this dtype, or a pattern of the choice has no effect.
    """
    check_dtype(dtype)
    config = load_config(name, trust_remote_code=trust_remote_code, revision=revision)
    check_method(name, config.to_dict())
    folder = Path(os.path.expanduser(name))
    saved = _saved_in(folder)
    stored = stored_dtype(saved) if saved else getattr(config, "dtype", None)
    stored = stored if isinstance(stored, torch.dtype) else torch.bfloat16
    held = stored if dtype == "auto" else getattr(torch, dtype)
    with torch.device("meta"):
        model = build_model(name, config, trust_remote_code=trust_remote_code, dtype=held)
    if headers and saved:
        checkpoint = saved
        checkpoint.codes.check_prunable()
    else:
        checkpoint = Checkpoint(folder, (), saved_header(model))
    layers, left_out = find_targets(model, checkpoint, choice)
    first: dict[int, str] = {}
    every = list(model.named_parameters(remove_duplicate=False))
    return Outline(
        name,
        config,
        stored,
        held,
        ModelSize.of(model, layers),
        tuple(layer.target for layer in layers),
        tuple(left_out),
        positions_of(config, model),
        frozenset(layer.name_in_model for layer in layers),
        {other: known for other, one in every if (known := first.setdefault(id(one), other)) != other},
        trust_remote_code,
    )


def _saved_in(folder: Path) -> Checkpoint | None:
    """Return the headers of a folder's weights, or None for a config alone, or with an index and none of its shards."""
    complete = any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    return Checkpoint.open(folder) if complete and any(folder.glob("*.safetensors")) else None


@collector_at_rest()
def load_config(name: str, *, trust_remote_code: bool = False, revision: str | None = None) -> PretrainedConfig:
    """Load the config of a name: built in, in a file or folder, or on the hub, in this order."""
    check_outline(name, revision)
    hide_broken_extensions()
    from transformers import AutoConfig

    known = built_in_configs()
    if name.lower() in known:
        return AutoConfig.for_model(**known[name.lower()])
    path = Path(os.path.expanduser(name))
    there = mode_of(str(path), f"model {name!r}")
    if there is None:
        # not by its id, whose code transformers would take from the newest revision
        try:
            path = resolve_config(name, trust_remote_code=trust_remote_code, revision=revision)
        except CheckpointError as error:
            hint = did_you_mean(name, known)
            raise CheckpointError(f"{error}; built in are {', '.join(known)}{hint}") from error
    file = path / CONFIG_FILE if there is None or stat.S_ISDIR(there) else path
    if mode_of(str(file), repr(name)) is None:
        raise CheckpointError(f"{name!r} has no {CONFIG_FILE}; check the path")
    check_bare_config(file)
    if trust_remote_code:
        check_code_caches(path)
    remedy = f"pass a folder, a {CONFIG_FILE}, a hub id, or one of {', '.join(known)}"
    with library_errors_as(CheckpointError, f"model {name!r} has no usable config", remedy):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def header_of(model: PreTrainedModel) -> dict[str, TensorInfo]:
    """Return a header of this model's tensors under their own names, in safetensors order: by dtype, then by name."""
    return _header(_stored(model))


def saved_header(model: PreTrainedModel) -> dict[str, TensorInfo]:
    """Return the header of a checkpoint that ``save_pretrained`` would write of a model; no value is read."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    # before transformers 5, which saves the names in memory
    except ImportError:
        return header_of(model)
    what = f"how {type(model).__name__} is saved cannot be known from its config"
    with library_errors_as(CheckpointError, what, "pass a folder with its weights"):
        shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in _stored(model).items()}
        return _header(revert_weight_conversion(model, shapes))


def _stored(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, a shared one once, by name in the model."""
    named = [*model.named_parameters(), *saved_buffers(model)]
    return dict({id(tensor): (name, tensor) for name, tensor in named}.values())


def _header(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    return {
        name: TensorInfo(Path(CONFIG_FILE), TYPE_NAMES[tensor.dtype], tuple(tensor.shape), 0, tensor.nbytes)
        for name, tensor in ordered
    }


def saved_buffers(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """Return the buffers that a checkpoint holds."""
    saved = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
