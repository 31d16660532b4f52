"""Names of models and dtypes that need no file; imports nothing heavy."""

from __future__ import annotations

import os
from typing import Any

from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.models.hub import HUB_ID, check_pinned
from unipruning_core.spelling import did_you_mean

DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that weights cannot be loaded in.

    Raises:
        ConfigError: it is none of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}{did_you_mean(dtype, DTYPES)}")


def check_outline(name: str, revision: str | None = None) -> None:
    """Refuse a name that is neither built in nor a file or folder, and cannot be a hub id.

    Raises:
        CheckpointError: it is none of them, or a revision is given of a model that is not on the hub.
    """
    known = built_in_configs()
    on_hub = name.lower() not in known and not os.path.exists(os.path.expanduser(name))
    if revision is not None:
        check_pinned(name, revision, on_hub=on_hub)
    if on_hub and not HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"model {name!r} has no usable config: there is no such file or folder; pass a folder, a config.json, "
            f"a hub id, or one of {', '.join(known)}{did_you_mean(name, known)}"
        )


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
