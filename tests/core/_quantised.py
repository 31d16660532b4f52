"""Checkpoints in quantised layouts, made by hand from tiny ones."""

import json

import torch
from safetensors.torch import load_file, save_file

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
LARGEST = 448.0  # of float8_e4m3fn


def rewrite(folder, change, section=None, into=None):
    """Put what ``change`` returns for a name and a tensor in place of each, and a section into the config."""
    written = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        written |= change(name, tensor)
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, folder / "model.safetensors")
    if section is not None:
        config = json.loads((folder / "config.json").read_text())
        (config[into] if into else config)["quantization_config"] = section
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def is_linear(name, tensor):
    """Whether a tensor holds matrices of the decoder's blocks, routers aside, as quantisers tell."""
    matrix = tensor.dim() > 1 and "embed" not in name and "lm_head" not in name
    return matrix and "router" not in name and not name.endswith("gate.weight")


def in_blocks(tensor, rows, columns):
    """Return codes in float8 and one scale, float32, for each block."""
    *stack, height, width = tensor.shape
    grid = (-(-height // rows), -(-width // columns))
    padded = torch.zeros(*stack, grid[0] * rows, grid[1] * columns)
    padded[..., :height, :width] = tensor.float()
    blocks = padded.view(*stack, grid[0], rows, grid[1], columns)
    scales = blocks.abs().amax((-3, -1)) / LARGEST
    codes = (blocks / scales.clamp(min=1e-12)[..., :, None, :, None]).to(torch.float8_e4m3fn)
    return codes.view(padded.shape)[..., :height, :width].contiguous(), scales


def as_fp8(folder, block=(8, 8)):
    """Store the matrices of the blocks as DeepSeek-V3 does."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        codes, scales = in_blocks(tensor, *block)
        return {name: codes, f"{name}_scale_inv": scales}

    return rewrite(folder, change, {**FP8, "weight_block_size": list(block)})


def as_rows(folder, dtype=torch.float8_e4m3fn, largest=LARGEST):
    """Store the matrices of the blocks with one scale a row, as compressed-tensors does, with a name beside them."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        scales = tensor.float().abs().amax(-1, keepdim=True) / largest
        codes = tensor.float() / scales
        codes = (codes if dtype.is_floating_point else codes.round()).to(dtype)
        of_inputs = {f"{name.removesuffix('weight')}input_scale": torch.ones(1)}
        return {name: codes, f"{name}_scale": scales.bfloat16(), **of_inputs}

    kind = "float" if dtype.is_floating_point else "int"
    section = {"quant_method": "compressed-tensors", "format": f"{kind}-quantized", "config_groups": {}}
    return rewrite(folder, change, section)


def as_whole(folder):
    """Store the matrices of the blocks with one scale each, as modelopt does."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        scale = tensor.float().abs().amax() / LARGEST
        return {name: (tensor.float() / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}

    return rewrite(folder, change, {"quant_method": "modelopt", "quant_algo": "FP8"})


def packed_rows(tensor, bits):
    """Return integers, (rows, columns), as int32 that hold 32 // bits of them, the first in the lowest bits."""
    many = 32 // bits
    padded = torch.nn.functional.pad(tensor.long(), (0, -tensor.shape[1] % many)).view(len(tensor), -1, many)
    words = (padded << (bits * torch.arange(many))).sum(-1)
    return words.to(torch.int32)


def as_packed(folder, bits=4, group=8, zero_points=False):
    """Store the matrices of the blocks in int32, several codes each, as compressed-tensors does."""
    middle = 2 ** (bits - 1)

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        stem = name.removesuffix("weight")
        groups = tensor.float().view(len(tensor), -1, group)
        scales = (groups.abs().amax(-1) / (middle - 1)).bfloat16()
        shift = torch.arange(scales.numel()).view(scales.shape) % 3 - 1 if zero_points else torch.zeros(scales.shape)
        codes = (groups / scales.float().unsqueeze(-1)).round() + shift.unsqueeze(-1)
        codes = codes.clamp(-middle, middle - 1).view(tensor.shape)
        made = {
            f"{stem}weight_packed": packed_rows(codes + middle, bits),
            f"{stem}weight_shape": torch.tensor(tensor.shape),
            f"{stem}weight_scale": scales,
        }
        if zero_points:
            made[f"{stem}weight_zero_point"] = packed_rows((shift + middle).t(), bits).t()
        return made

    return rewrite(folder, change, {"quant_method": "compressed-tensors", "format": "pack-quantized"})


def as_bitmask(folder):
    """Store the matrices of the blocks as the values that are not zero, and bits for where they are."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        kept = tensor != 0
        bits = torch.nn.functional.pad(kept.int(), (0, -tensor.shape[1] % 8)).view(len(tensor), -1, 8)
        return {
            f"{name}.compressed": tensor[kept],
            f"{name}.bitmask": (bits << torch.arange(8)).sum(-1).to(torch.uint8),
            f"{name}.shape": torch.tensor(tensor.shape),
            f"{name}.row_offsets": kept.sum(1).cumsum(0) - kept.sum(1),
        }

    sparsity = {"format": "sparse-bitmask", "sparsity_structure": "unstructured"}
    return rewrite(folder, change, {"quant_method": "compressed-tensors", "sparsity_config": sparsity})


def save_gpt_oss(folder):
    """A gpt-oss whose sides are multiples of 32, as MXFP4 needs."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    routed = {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 2}
    torch.manual_seed(3)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    GptOssForCausalLM(GptOssConfig(**sizes, **heads, **routed, rope_parameters=rope)).bfloat16().save_pretrained(folder)
    return folder


def as_mxfp4(folder):
    """Store experts as gpt-oss does: two codes of four bits a byte, and a power of two for each 32."""

    def change(name, tensor):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor}
        experts, columns, rows = tensor.shape
        codes = torch.arange(tensor.numel()).mul(7).remainder(16).view(experts, rows, columns // 32, 16, 2)
        scales = torch.arange(experts * rows * columns // 32).remainder(5).add(120).view(experts, rows, columns // 32)
        blocks = codes[..., 0] | codes[..., 1] << 4
        return {f"{name}_blocks": blocks.to(torch.uint8), f"{name}_scales": scales.to(torch.uint8)}

    return rewrite(folder, change, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def as_gptq(folder):
    """Hold the matrices of the blocks under the names of GPTQ; their codes say nothing."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        return {
            f"{name.removesuffix('weight')}qweight": torch.zeros(tensor.shape[1] // 8, len(tensor), dtype=torch.int32)
        }

    return rewrite(folder, change)


def as_bitsandbytes(folder):
    """Hold the matrices of the blocks in the shapes and under the names of bitsandbytes in four bits."""

    def change(name, tensor):
        if not is_linear(name, tensor):
            return {name: tensor}
        codes = torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8)
        return {name: codes, f"{name}.absmax": torch.ones(tensor.numel() // 8), f"{name}.quant_map": torch.ones(16)}

    return rewrite(folder, change, {"quant_method": "bitsandbytes", "load_in_4bit": True})
