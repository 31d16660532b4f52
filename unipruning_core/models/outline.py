"""A model described by its config alone: no weights, no device, not even memory for them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.extensions import hide_broken_extensions
from unipruning_core.models.borders import library_errors_as
from unipruning_core.models.hub import mode_of
from unipruning_core.models.loading import DTYPES, build_model
from unipruning_core.models.targets import LeftOut, find_targets
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.config import CONFIG_FILE, check_bare_config
from unipruning_core.storage.tensorfile import TensorInfo

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def built_in_configs() -> dict[str, dict[str, Any]]:
    """Return the built-in configs by name, with the shapes that the published ones state."""
    return {
        "llama-2-7b": _llama(4096, 11008, layers=32, heads=32, kv_heads=32, vocabulary=32000),
        "llama-2-13b": _llama(5120, 13824, layers=40, heads=40, kv_heads=40, vocabulary=32000),
        "llama-2-70b": _llama(8192, 28672, layers=80, heads=64, kv_heads=8, vocabulary=32000),
        "qwen2.5-7b": _llama(3584, 18944, layers=28, heads=28, kv_heads=4, vocabulary=152064) | {"model_type": "qwen2"},
        "qwen2.5-14b": _llama(5120, 13824, layers=48, heads=40, kv_heads=8, vocabulary=152064)
        | {"model_type": "qwen2"},
        "smollm2-135m": _llama(576, 1536, layers=30, heads=9, kv_heads=3, vocabulary=49152)
        | {"tie_word_embeddings": True, "max_position_embeddings": 8192},
        # shapes of openPangu-Embedded-7B; its blocks are those of a Llama with biases
        "openpangu-7b": _llama(4096, 12800, layers=34, heads=32, kv_heads=8, vocabulary=153376)
        | {"attention_bias": True},
    }


def _llama(hidden: int, inner: int, *, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096 if vocabulary == 32000 else 32768,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


@dataclass(frozen=True)
class Outline:
    """Everything about a model except its weights."""

    name: str
    config: PretrainedConfig
    dtype: torch.dtype  # in which the weights are loaded
    parameters: int
    targets: tuple[Target, ...]  # in checkpoint order
    left_out: tuple[LeftOut, ...]
    trust_remote_code: bool = False

    def build(self) -> PreTrainedModel:
        """Build the model under the caller's device context and tensor mode."""
        return build_model(self.name, self.config, trust_remote_code=self.trust_remote_code, dtype=self.dtype)

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


def outline(name: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> Outline:
    """Outline a built-in model, a folder or file with a config, or a model on the hub.

    Raises:
        CheckpointError: there is no such config, or it is not for a causal language model.
        ConfigError: weights cannot be loaded in this dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    config = load_config(name, trust_remote_code=trust_remote_code)
    held = getattr(config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    held = held if isinstance(held, torch.dtype) else torch.bfloat16
    with torch.device("meta"):
        model = build_model(name, config, trust_remote_code=trust_remote_code, dtype=held)
    layers, left_out = find_targets(model, Checkpoint(Path(name), (), header_of(model)))
    return Outline(
        name,
        config,
        held,
        sum(parameter.numel() for parameter in model.parameters()),
        tuple(layer.target for layer in layers),
        tuple(left_out),
        trust_remote_code,
    )


def load_config(name: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Load the config of a name: built in, in a file or folder, or on the hub, in this order."""
    hide_broken_extensions()
    from transformers import AutoConfig

    known = built_in_configs()
    if name.lower() in known:
        return AutoConfig.for_model(**known[name.lower()])
    path = os.path.expanduser(name)
    there = mode_of(path, f"model {name!r}")
    if there is not None and stat.S_ISDIR(there) and mode_of(os.path.join(path, CONFIG_FILE), repr(name)) is None:
        raise CheckpointError(f"{name!r} has no {CONFIG_FILE}; check the path")
    if there is not None:
        check_bare_config(Path(path, CONFIG_FILE) if stat.S_ISDIR(there) else Path(path))
    remedy = f"pass a folder, a {CONFIG_FILE}, a hub id, or one of {', '.join(known)}"
    with library_errors_as(CheckpointError, f"model {name!r} has no usable config", remedy):
        return AutoConfig.from_pretrained(name if there is None else path, trust_remote_code=trust_remote_code)


def header_of(model: PreTrainedModel) -> dict[str, TensorInfo]:
    """Return the header that a checkpoint of this model would have, in safetensors order: by dtype, then by name."""
    stored = {id(tensor): (name, tensor) for name, tensor in [*model.named_parameters(), *saved_buffers(model)]}
    ordered = sorted(stored.values(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    return {
        name: TensorInfo(Path(CONFIG_FILE), tensor.dtype, tuple(tensor.shape), 0, tensor.nbytes)
        for name, tensor in ordered
    }


def saved_buffers(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """Return the buffers that a checkpoint holds."""
    saved = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
