#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: an FP8 checkpoint in modelopt's layout loads as its codes, without the scales.
#
# Expected: a quantisation method that the library does not know ends the loading, or its weights are read by their
# scales: what is stored is a code, the weight is code times scale.
# Seen: the method is skipped with a line in the log, the codes are taken for weights, and the scales are listed as
# unexpected.  No error is raised, no weight is missing, and the model is another one by the factor of each scale.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import json

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).save_pretrained("model")
tensors, stored, scale = load_file("model/model.safetensors"), {}, 0.01
for key, value in tensors.items():
    if "_proj" in key:
        stored[key] = (value / scale).to(torch.float8_e4m3fn)
        stored[key.replace(".weight", ".weight_scale")] = torch.tensor(scale)
    else:
        stored[key] = value
save_file(stored, "model/model.safetensors", {"format": "pt"})
config = json.load(open("model/config.json"))
config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
json.dump(config, open("model/config.json", "w"))
loaded, told = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32, output_loading_info=True)
name = "model.layers.0.mlp.up_proj.weight"
ratio = (loaded.get_parameter(name) / tensors[name]).median().item()
print("weights loaded / weights stored:", round(ratio, 1), "missing:", told["missing_keys"])
assert 95 < ratio < 105 and not told["missing_keys"]
assert sum(key.endswith("weight_scale") for key in told["unexpected_keys"]) == 7
END
echo "as stated: codes are weights a hundred times too large"
