"""Tiny mixtures of experts, one for each way in which files and parameters hold experts."""

import torch
from transformers import (
    DbrxConfig,
    DbrxForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
)

EXPERTS = 4
SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ROUTED = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}


def of_one_tensor_each():
    return MixtralForCausalLM(MixtralConfig(**SIZES, **ROUTED))


def of_one_tensor_for_all():
    return GraniteMoeForCausalLM(GraniteMoeConfig(**SIZES, **ROUTED))


def transposed():
    kinds = ["sliding_attention", "full_attention"]
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return GptOssForCausalLM(GptOssConfig(**SIZES, **ROUTED, head_dim=16, layer_types=kinds, rope_parameters=rope))


def all_at_once():
    routed = {"num_local_experts": EXPERTS, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1}
    return Llama4ForCausalLM(Llama4TextConfig(**SIZES, **routed, head_dim=16, intermediate_size_mlp=24))


def stacked_in_rows():
    feed_forward = {"ffn_hidden_size": 24, "moe_num_experts": EXPERTS, "moe_top_k": 2, "hidden_size": 32}
    attention = {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 64, "vocab_size": 48}
    return DbrxForCausalLM(DbrxConfig(**sizes, attn_config=attention, ffn_config=feed_forward))


LAYOUTS = {
    layout.__name__: layout
    for layout in (of_one_tensor_each, of_one_tensor_for_all, transposed, all_at_once, stacked_in_rows)
}


def save_mixture(folder, layout="of_one_tensor_each", seed=0):
    torch.manual_seed(seed)
    model = LAYOUTS[layout]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # some classes begin with zeros
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder
