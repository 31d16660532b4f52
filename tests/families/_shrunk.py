"""Configurations of any family, shrunk to a few layers of 64 by rules on the names of their numbers."""

from __future__ import annotations

import re
from typing import Any

LAYERS, TOWER_LAYERS = 4, 2
HIDDEN, HEADS, HEAD, VOCABULARY = 64, 4, 16, 320
# no size of an expert is the hidden one, so that its inputs are known by their number
EXPERTS, INNER, INNER_OF_EXPERTS = 8, 96, 48
# towers of an image-text model; all else is text
TOWER = re.compile(r"vision|audio|vq|sam_|video|visual|image|vit|qformer|perceiver|depth|tokenizer|patcher|encoder")
# what a default configuration leaves open and the model needs
UNSET = {
    "head_dim": HEAD,
    "num_key_value_heads": 2,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}
LAYER_COUNT = re.compile(
    r"^(num_)?(hidden_layers|layers?|n_layers?|decoder_layers|encoder_layers|blocks|depth)$"
    r"|^(num_(decoder|encoder)_layers|.*_(num_hidden_layers|num_layers|layers?_num))$"
)
KEY_HEADS = re.compile(r"(key_value|kv|query_group).*heads|num_kv_heads|kv_n_heads|num_query_groups")
TOKEN = re.compile(r"token_id$|token_index$|_token$|^(pad|bos|eos|unk|mask)_index$")
# the first rule whose pattern is found in a number's name caps it; None leaves it
RULES: tuple[tuple[str, int | None], ...] = (
    (r"token|_id$|_ids$|_index$|dropout|version|factor|scal|_std|theta|norm_eps|labels|beams|seed|bits", None),
    (r"kv_shared_layers|mtp|nextn", 0),
    (r"num_dense_layers|first_k_dense|max_window_layers|n_dense|num_layers_dense", 1),
    (r"vocab.*size|vocabulary", VOCABULARY),
    (r"codebook_size", 256),
    (r"zero_expert_num", 2),
    (r"per_tok|top_?k_experts|moe_?top_?k|experts_per|moe_k$|n_activated|num_selected|router_topk", 2),
    (r"shared_experts?$|num_experts_shared", 1),
    (r"num_expert_group|^n_group$|topk_group", 1),
    (r"num_.*experts|n_.*experts|experts_num|num_experts|expert_num", EXPERTS),
    (r"moe_hidden_size", HIDDEN),
    (r"expert.*(size|dim)|moe.*(size|dim)", INNER_OF_EXPERTS),
    (r"(intermediate|ffn|feed_forward|inner|mlp).*(size|dim|hidden)|^d_ff$|^n_inner$", INNER),
    (r"lora_rank|low_?rank|_rank$", 32),
    (r"^qk_head_dim$", 2 * HEAD),
    (r"rotary_dim", 8),
    (r"mamba_n(um)?_heads", 2 * HIDDEN // HEAD),
    (r"head_?dim|d_head|d_kv|head_size|headdim|kv_channels|head_v_dim|head_k_dim", HEAD),
    (r"heads?$|heads?_num|_heads_", HEADS),
    (r"index_topk|block_topk", 16),
    (r"conv|kernel|stride|merge|ratio|window_pattern", None),
    (r"max_position|n_positions|max_seq_len|positions$|max_length|seq_len$|context_length|n_ctx", 512),
    (r"(sliding|attention)_?window|window_size|local_attention|chunk_size|block_size", 32),
    (r"patch_size", 8),
    (r"image_size|resolution|crop_size|img_size", 32),
    (r"(hidden|embed|projection|output|model|projector|width|state|channels|latent|codebook|in).*(size|dim)$", HIDDEN),
    (r"^(d_model|n_embd|dim|width|lru_width|mamba_d_ssm)$|_dim$|channels?$|_hidden$", HIDDEN),
)


def shrunk(config_class: type[Any], changes: dict[str, Any]) -> Any:
    """Return a small configuration, with ``changes`` by dotted names; those that begin with ! build the default."""
    default = {name[1:]: value for name, value in changes.items() if name.startswith("!")}
    small = _shrunk(config_class(**default).to_dict(), tower=False)
    for name, value in changes.items():
        if name.startswith("!"):
            continue
        *above, last = name.split(".")
        place = small
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return config_class(**small)


def _shrunk(content: dict[str, Any], tower: bool) -> dict[str, Any]:
    lengths = {value for name, value in content.items() if isinstance(value, int) and LAYER_COUNT.search(name)}
    layers = TOWER_LAYERS if tower else LAYERS
    small: dict[str, Any] = {}
    for name, value in content.items():
        if name in ("transformers_version", "_name_or_path", "architectures"):
            continue
        if name == "per_layer_config" and value:
            small[name] = {layer: _shrunk(own, tower) for layer, own in value.items() if int(layer) < layers}
        elif isinstance(value, dict):
            small[name] = _shrunk(value, tower or bool(TOWER.search(str(name)))) if _nested(name, value) else value
        elif isinstance(value, list):
            small[name] = _list(name, value, layers, lengths)
        elif value is None:
            small[name] = UNSET.get(name)
        elif type(value) is int:
            own = LAYER_COUNT.search(name) and (layers, value)
            small[name] = min(own) if own else _number(name, value, content)
        else:
            small[name] = value
    _fit_sections(small)
    return small


def _nested(name: str, value: dict[Any, Any]) -> bool:
    return name not in ("id2label", "label2id") and all(isinstance(key, str) for key in value)


def _number(name: str, value: int, content: dict[str, Any]) -> int:
    if TOKEN.search(name):
        return value if value < VOCABULARY else VOCABULARY - 1 - sum(name.encode()) % 20
    if KEY_HEADS.search(name):
        return min(value, HEADS if value in (content.get("num_attention_heads"), content.get("n_head")) else 2)
    cap = next((cap for pattern, cap in RULES if re.search(pattern, name)), None)
    return value if cap is None or value < 0 else min(value, cap)


def _list(name: str, value: list[Any], layers: int, lengths: set[int]) -> list[Any]:
    if len(value) in lengths and len(value) > layers:
        cut = [_number(name, item, {}) if type(item) is int else item for item in value[:layers]]
        # every kind of layer stays, the rare ones at the end
        if all(isinstance(item, str) for item in value):
            missing = [kind for kind in dict.fromkeys(value) if kind not in cut][: layers - 1]
            cut[layers - len(missing) :] = missing
        return cut
    places = all(type(item) is int for item in value) and value == sorted(set(value)) and value
    if places and re.search(r"layer|idx|ids|indices|indexes", name) and not re.search("token", name):
        return [item for item in value if item < layers] or [1]
    return value


def _fit_sections(small: dict[str, Any]) -> None:
    """Let the sections of a rotation over time, height and width add up to half of what is rotated."""
    for rope in (small.get("rope_parameters"), small.get("rope_scaling")):
        if not isinstance(rope, dict) or not (sections := rope.get("mrope_section")):
            continue
        head = small.get("qk_rope_head_dim") or small.get("head_dim") or HEAD
        half = int(head * (rope.get("partial_rotary_factor") or small.get("partial_rotary_factor") or 1)) // 2
        rest = [half // len(sections)] * (len(sections) - 1)
        rope["mrope_section"] = [half - sum(rest), *rest]
