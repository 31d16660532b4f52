"""Tiny models that also take images, each with a tower that is deeper and wider than its text decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _checkpoints import save_text, save_tokenizer

LAYERS, TARGETS = 2, 14  # of the text decoder
TEXT = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "model_type": "opt"}
TOWER = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_TOWER = {"depth": 3, "hidden_size": 48, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
ROPE = {"type": "mrope", "mrope_section": [2, 1, 1]}
KINDS: dict[str, dict[str, Any]] = {
    # renamed while loading, with a scaled embedding, and a mask of its own for images
    "gemma3": {
        "text_config": TEXT,
        "vision_config": TOWER,
        "mm_tokens_per_image": 4,
        "image_token_index": 44,
        "boi_token_index": 45,
        "eoi_token_index": 46,
    },
    "llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": TOWER | {"model_type": "clip_vision_model"},
        "image_token_index": 44,
    },
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral"},
        "vision_config": TOWER | {"model_type": "pixtral"},
        "image_token_index": 44,
    },
    # positions in three dimensions
    "qwen2_5_vl": {
        "text_config": TEXT | {"rope_scaling": ROPE, "max_window_layers": 2},
        "vision_config": QWEN_TOWER | {"patch_size": 8},
        "image_token_id": 44,
        "video_token_id": 45,
        "vision_start_token_id": 46,
        "vision_end_token_id": 47,
    },
}
# the forward pass of the whole needs images, that of the language model inside does not
NEEDING_IMAGES: dict[str, dict[str, Any]] = {
    "blip-2": {
        "text_config": TEXT | OPT,
        "vision_config": TOWER,
        "qformer_config": TEXT | {"num_hidden_layers": 3, "encoder_hidden_size": 48},
        "image_token_index": 44,
    },
}
FILES = {
    "preprocessor_config.json": '{"size": 16}\n',
    "processor_config.json": '{"image_seq_length": 4}\n',
    "chat_template.jinja": "{{ messages }}\n",
}


def built(kind: str) -> Any:
    """The model of a kind, with random weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, **(KINDS | NEEDING_IMAGES)[kind])
    return AutoModelForImageTextToText.from_config(config).eval()


def save_image_text(folder: Path, kind: str) -> Path:
    """A folder with ``model``, the files of its tokenizer and processor, and ``text.txt``."""
    built(kind).save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    for name, content in FILES.items():
        (folder / "model" / name).write_text(content)
    save_text(folder / "text.txt")
    return folder
