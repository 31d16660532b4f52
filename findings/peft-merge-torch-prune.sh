#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0's prune: merging an adapter into a pruned layer loses the adapter.
#
# Expected: LoRA on a layer pruned by torch.nn.utils.prune either refuses or merges as elsewhere:
# the merged model computes what the model with the adapter computed.
# Seen: attaching, running and merging raise nothing, and the merged model is the base without the adapter.
# The sum goes to `weight`, which a pruned layer computes anew from weight_orig and the mask
# at the next forward. `prune.remove` before the adapter is attached avoids it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 peft==0.21.2
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import prune

x = torch.randn(4, 16)


def run(fold_the_mask_first):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8, bias=False))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    if fold_the_mask_first:
        prune.remove(net[0], "weight")
    base = net(x)
    adapted = get_peft_model(net, LoraConfig(target_modules=["0"], r=2, init_lora_weights=False))
    with_adapter = adapted(x)
    merged = adapted.merge_and_unload()(x)
    return [(a - b).abs().max().item() for a, b in ((with_adapter, base), (merged, with_adapter), (merged, base))]


pruned, folded = run(False), run(True)
print("differences: adapter/base, merged/adapter, merged/base")
print("mask kept by torch.nn.utils.prune:", pruned)
print("mask folded by prune.remove first:", folded)

assert pruned[0] > 0.1 and folded[0] > 0.1, "the adapter does something"
assert pruned[2] == 0 and pruned[1] > 0.1, "merging lost it"
assert folded[1] < 1e-4, "merging kept it"
print("as stated: the merged model is the base model")
END
