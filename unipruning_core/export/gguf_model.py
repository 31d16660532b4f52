"""What a model in GGUF says of itself: its architecture, its sides, and how positions turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.export.gguf_tokenizer import CONVERTER
from unipruning_core.models.borders import library_errors_as
from unipruning_core.storage.config import check_config
from unipruning_core.storage.layout import CONFIG_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from unipruning_core.export.source import Source


@dataclass(frozen=True)
class Family:
    """An architecture of llama.cpp."""

    name: str  # there
    halves: bool  # rows of queries and keys in pairs, where transformers has them in halves


# by the model_type of config.json: dense decoders whose every tensor and number is known here
FAMILIES = {
    "llama": Family("llama", True),
    "mistral": Family("llama", True),
    "qwen2": Family("qwen2", False),
    "qwen3": Family("qwen3", False),
}


@dataclass(frozen=True)
class Described:
    """A model and its config."""

    family: Family
    config: Any  # of transformers
    rope: Mapping[str, Any]  # how positions turn, with rope_type and rope_theta

    @classmethod
    def of(cls, source: Source) -> Described:
        """Read and check a config.

        Raises:
            ConfigError: llama.cpp needs more of this model than is known here.
            CheckpointError: the config is damaged.
        """
        from transformers import AutoConfig

        kind = source.config.get("model_type")
        if kind not in FAMILIES:
            raise ConfigError(
                f"GGUF is written for {', '.join(FAMILIES)}, and {str(source.folder)!r} is {kind!r}; {CONVERTER}"
            )
        path = source.folder / CONFIG_FILE
        check_config(path, source.config, source.checkpoint.tensors.values())
        what = f"model {str(source.folder)!r} has no usable config"
        with library_errors_as(CheckpointError, what, "copy the complete checkpoint"):
            config = AutoConfig.from_pretrained(source.folder)
        # one mapping from transformers 5 on, and two members before
        rope = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
        rope.setdefault("rope_theta", getattr(config, "rope_theta", 10000.0))
        rope.setdefault("rope_type", rope.get("type", "default"))
        unknown = {
            "hidden_act": config.hidden_act not in ("silu", "swish"),
            "rope_type": rope["rope_type"] not in ("default", "linear", "llama3"),
            "attention_bias": kind == "qwen3" and bool(config.attention_bias),
            "use_sliding_window": bool(getattr(config, "use_sliding_window", False)),
        }
        if odd := [name for name, is_odd in unknown.items() if is_odd]:
            value = rope.get(odd[0], getattr(config, odd[0], None))
            raise ConfigError(f"GGUF is not written for {odd[0]} {value!r} of {str(source.folder)!r}; {CONVERTER}")
        return cls(FAMILIES[kind], config, rope)

    @property
    def head(self) -> int:
        """The side of a head."""
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)

    def heads_of(self, name: str) -> int | None:
        """Return how many heads the rows of a tensor are, if they are to be turned."""
        layer = name.split(".")[-2]
        if not self.family.halves or layer not in ("q_proj", "k_proj"):
            return None
        return int(self.config.num_attention_heads if layer == "q_proj" else self.config.num_key_value_heads)

    def frequencies(self) -> Tensor | None:  # (head / 2,), float32
        """Return what llama.cpp divides the turning of each pair by, for the scaling of Llama 3; None without it."""
        if self.rope["rope_type"] != "llama3":
            return None
        factor, old = float(self.rope["factor"]), float(self.rope["original_max_position_embeddings"])
        low, high = float(self.rope["low_freq_factor"]), float(self.rope["high_freq_factor"])
        powers = torch.arange(0, self.head, 2, dtype=torch.float64) / self.head
        lengths = 2 * math.pi * float(self.rope["rope_theta"]) ** powers
        # between the two lengths, the inverse goes in a line from that of the long to that of the short
        smooth = ((old / lengths - low) / (high - low)).clamp(0, 1)
        return (1 / ((1 - smooth) / factor + smooth)).float()

    def add_to(self, writer: Any, name: str) -> None:
        """Add all that llama.cpp reads besides tokens and tensors."""
        config = self.config
        writer.add_name(name)
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(self.head)
        writer.add_value_length(self.head)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.head)
        writer.add_rope_freq_base(float(self.rope["rope_theta"]))
        if self.rope["rope_type"] == "linear":
            from gguf import RopeScalingType

            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(self.rope["factor"]))


def in_pairs(weight: Tensor, heads: int) -> Tensor:  # (out, ...), rows of queries or keys
    """Put row i of half h of each head at row 2 i + h."""
    halves = weight.view(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
