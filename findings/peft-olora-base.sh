#!/usr/bin/env bash
# peft 0.21.2: with OLoRA or PiSSA neither `unload` nor `disable_adapter` gives the base model back.
#
# Expected: both are described as giving the base model; the base is frozen, so its weight is what was
# loaded, pruned zeros included. True for the default initialisation and for "orthogonal".
# Seen: "olora" and "pissa" subtract the adapter's start from the base weight when the adapter is attached.
# The model without the adapter computes something else, and the pruned zeros of the base are filled:
# all of them by pissa, a part by olora. Only base and adapter together give the start.
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

torch.manual_seed(0)
weight = torch.randn(32, 32)
weight[torch.rand(32, 32) < 0.5] = 0
x = torch.randn(4, 32)


def run(start):
    net = nn.Sequential(nn.Linear(32, 32, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(weight)
    base = net(x)
    adapted = get_peft_model(net, LoraConfig(target_modules=["0"], r=4, init_lora_weights=start))
    with adapted.disable_adapter():
        disabled = torch.allclose(adapted(x), base, atol=1e-4)
    together = torch.allclose(adapted(x), base, atol=1e-3)
    unloaded = adapted.unload()[0].weight
    return together, disabled, torch.equal(unloaded, weight), int((unloaded == 0).sum())


zeros = int((weight == 0).sum())
seen = {str(start): run(start) for start in (True, "orthogonal", "olora", "pissa")}
print("zeros in the base:", zeros)
print("start: with adapter = base, disabled = base, unloaded = base, zeros left")
for start, row in seen.items():
    print(f"{start:10}", row)

assert seen["True"] == seen["orthogonal"] == (True, True, True, zeros), "these leave the base alone"
for start in ("olora", "pissa"):
    assert seen[start][:3] == (True, False, False), "the base alone is another model"
    assert seen[start][3] < zeros, "and its zeros are filled"
assert seen["pissa"][3] == 0
print("as stated: the base weight was rewritten")
END
