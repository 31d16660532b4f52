#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: DoRA on a weight with an all-zero row gives NaN from the first forward.
#
# Expected: a fresh adapter (B = 0) changes nothing, so a row that pruning emptied goes on giving 0;
# plain LoRA on the same weight does so.
# Seen: DoRA divides each row by its norm, 0 / 0 here. The output of a dead row is NaN before any
# training step, and merging writes the NaN into the base weight, where the zeros were.
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


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8, bias=False))
    with torch.no_grad():
        net[0].weight[3] = 0
    return net


x = torch.randn(2, 16)
plain = model()(x)
lora = get_peft_model(model(), LoraConfig(target_modules=["0"], r=2))(x)
dora = get_peft_model(model(), LoraConfig(target_modules=["0"], r=2, use_dora=True))
out = dora(x)
merged = dora.merge_and_unload()[0].weight
print("base, dead row:", plain[:, 3].tolist())
print("LoRA, dead row:", lora[:, 3].tolist())
print("DoRA, dead row:", out[:, 3].tolist(), " merged weight:", merged[3, :4].tolist())

assert torch.equal(lora, plain), "a fresh LoRA changes nothing"
assert out[:, 3].isnan().all() and merged[3].isnan().all(), "DoRA makes NaN of the dead row"
others = [row for row in range(8) if row != 3]
assert torch.allclose(out[:, others], plain[:, others], atol=1e-5), "the other rows are right"
print("as stated: NaN in the dead row alone")
END
