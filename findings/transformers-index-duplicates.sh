#!/usr/bin/env bash
# transformers 5.24.0 with safetensors 0.8.0: of a tensor in two shards the last file counts, whatever the index says.
#
# Expected: "weight_map" in model.safetensors.index.json names the file of each tensor, so a tensor of the same name
# in another shard, which a tool left there, is not read.
# Seen: every tensor of every shard that the index names is taken, file by file, and a later one replaces an earlier.  The
# index sends the name to the first shard; the model gets the values of the second, and nothing is said.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import json
import os

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=False, **sizes)).save_pretrained("model")
tensors = load_file("model/model.safetensors")
name, other = "model.norm.weight", "lm_head.weight"
first = {key: value for key, value in tensors.items() if key != other}
second = {other: tensors[other], name: torch.full((16,), 7.0)}
save_file(first, "model/model-00001-of-00002.safetensors", {"format": "pt"})
save_file(second, "model/model-00002-of-00002.safetensors", {"format": "pt"})
places = dict.fromkeys(first, "model-00001-of-00002.safetensors") | {other: "model-00002-of-00002.safetensors"}
with open("model/model.safetensors.index.json", "w") as file:
    json.dump({"metadata": {}, "weight_map": places}, file)
os.remove("model/model.safetensors")
loaded, told = LlamaForCausalLM.from_pretrained("model", output_loading_info=True)
value = loaded.get_parameter(name)[0].item()
print(f"{name}: the index names {places[name]}, which holds {first[name][0].item()}; loaded: {value}; told:", dict(told))
assert first[name][0].item() == 1.0 and value == 7.0
assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
END
echo "as stated: the last shard counts"
