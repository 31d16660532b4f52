"""What the rules of shrinking do not know: changes of single families, by the dotted names of their options."""

from typing import Any

# the sections are a default of the model's code, too long for small heads
SECTIONS = {"text_config.rope_parameters.mrope_section": [4, 2, 2]}
DENSE_FIRST = ["dense", "sparse", "sparse", "sparse"]
ALTERNATING = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MIXTURE = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 48}
INDEXER = {"n_heads": 2, "kv_heads": 1, "head_dim": 16, "budget": 32, "compress_ratio": 4}
SHARED_ATTENTION = {"layers_block_type": ALTERNATING, "attention_hidden_size": 128, "attention_head_dim": 32}

CHANGES: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "vision_config.codebook_size": 16,
        "audio_config.codebook_size": 16,
        "audio_config.num_filters": 4,
        "image_token_offset": 288,
        "audio_token_offset": 304,
    },
    "bamba": {"attn_layer_indices": [2]},
    "blip-2": {"image_token_index": 300},
    # the cache has as many layers as the encoder
    "blenderbot": {"encoder_layers": 4},
    "blt": {"encoder_hash_byte_group_vocab": 300},
    "chameleon": {"vq_config.base_channels": 32, "vocabulary_map": {"<image>": 300, "IMGIMGAZ": 301}},
    "cohere_compass": {"text_config.rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_ocr2": {"text_config.mlp_layer_types": DENSE_FIRST},
    "diffusion_gemma": {f"text_config.{name}": value for name, value in MIXTURE.items()},
    "dory": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp", "sliding_attention", "mlp"],
        "n_input_layers": 2,
        "n_recurrent_layers": 2,
        "n_output_layers": 2,
    },
    "dots3_note": {"text_config.head_dim": 32},
    "dots3_note_text": {"head_dim": 32},
    "emu3": {"vq_config.base_channels": 32, "vocabulary_map": {"<image>": 300, "IMGIMGAZ": 301}},
    "ernie4_5_vl_moe": {
        "text_config.moe_intermediate_size": [48, 48],
        "text_config.rope_parameters.mrope_section": [3, 3, 2],
    },
    "florence2": {
        "vision_config.embed_dim": [32, 32, 64, 64],
        "vision_config.num_heads": [2, 2, 4, 4],
        "vision_config.num_groups": [2, 2, 4, 4],
        "vision_config.depths": [1, 1, 1, 1],
    },
    # the text model alone stays dense
    "gemma4": {
        "text_config.enable_moe_block": True,
        **{f"text_config.{name}": value for name, value in MIXTURE.items()},
    },
    "gemma4_assistant": {
        "!text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 30,
            "num_hidden_layers": 30,
        },
        "text_config.num_kv_shared_layers": 4,
    },
    "gemma4_unified_assistant": {"text_config.num_kv_shared_layers": 4},
    "glm46v": SECTIONS,
    "glm4v": SECTIONS,
    "glm4v_moe": {"text_config.rope_parameters.mrope_section": [2, 1, 1]},
    "glm_ocr": SECTIONS,
    "glmga": SECTIONS,
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[0, 0]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    # stacks of 2 layers, run (3 + 1) x 2 times
    "hunyuan_vl": SECTIONS,
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2},
    "instructblip": {"image_token_index": 300},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2, "mamba_dt_rank": 4},
    "janus": {"vq_config.num_embeddings": 64, "vq_config.base_channels": 32},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "mistral4": {"head_dim": 32},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "paddleocr_vl": SECTIONS,
    "qwen2_5_omni_thinker": {**SECTIONS, "vision_start_token_id": 310},
    "qwen2_5_vl": SECTIONS,
    "qwen2_vl": SECTIONS,
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 310},
    "qwen4_exp": {f"text_config.indexer_{name}": value for name, value in INDEXER.items()},
    "qwen4_exp_text": {f"indexer_{name}": value for name, value in INDEXER.items()},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "step3p7": {"text_config.sliding_window": 32},
    "xlstm": {"qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {**SHARED_ATTENTION, "mamba_dt_rank": 4},
    "zamba2": {**SHARED_ATTENTION, "hybrid_layer_ids": [1, 3], "n_mamba_heads": 8},
}
