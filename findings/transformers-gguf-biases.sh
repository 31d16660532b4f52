#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: a llama whose attention has biases loads from GGUF without them.
#
# Expected: the biases of the file are loaded, as llama.cpp does, or named among the keys that nobody took.
# Seen: the config says attention_bias False, the lists of missing and unexpected keys are empty, no error is raised, and the
# model is to the bit the one whose biases are zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, attention_bias=True, **sizes))
biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
for value in biases:
    torch.nn.init.normal_(value)

names, writer = get_tensor_name_map(MODEL_ARCH.LLAMA, 1), GGUFWriter("model.gguf", "llama")
writer.add_vocab_size(32)
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_block_count(1)
writer.add_feed_forward_length(64)
writer.add_head_count(2)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
writer.add_rope_freq_base(10000.0)
for name, value in model.state_dict().items():
    if "q_proj" in name or "k_proj" in name:  # the two halves of a head lie in pairs there
        value = value.view(2, 2, -1, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
    writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), value.numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

loaded, told = AutoModelForCausalLM.from_pretrained(
    ".", gguf_file="model.gguf", dtype=torch.float32, output_loading_info=True
)
left = [name for name, _ in loaded.named_parameters() if name.endswith("bias")]
print("biases stored:", len(biases), "loaded:", len(left), "attention_bias:", loaded.config.attention_bias)
print("missing:", told["missing_keys"], "unexpected:", told["unexpected_keys"])
tokens = torch.arange(16)[None]
with torch.no_grad():
    apart = (loaded(tokens).logits - model(tokens).logits).abs().max().item()
    for value in biases:
        value.zero_()
    without = (loaded(tokens).logits - model(tokens).logits).abs().max().item()
print("logits differ by", round(apart, 2), "and from those without biases by", without)
assert len(biases) == 4 and not left and not told["missing_keys"] and not told["unexpected_keys"]
assert apart > 0.1 and without == 0
END
echo "as stated: four biases of the file are neither loaded nor reported"
