#!/usr/bin/env bash
# torch 2.13.0: a pruned output projection of MultiheadAttention no longer follows its parameter.
#
# Expected: `torch.nn.utils.prune` works on every module that has a weight; the masked weight is
# computed anew at each forward, as the documentation says, so training goes on under the mask.
# Seen: MultiheadAttention reads `out_proj.weight` and never calls `out_proj`, so the hook that
# computes the masked weight does not run. The weight stays as it was when pruned: a new value of
# weight_orig (by training or by load_state_dict) has no effect, and the second backward raises.
# Linear layers beside it behave as expected.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(0)
attention, linear = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)
prune.l1_unstructured(attention.out_proj, "weight", amount=0.5)
prune.l1_unstructured(linear, "weight", amount=0.5)
x = torch.randn(3, 1, 8)


def outputs():
    return attention(x, x, x)[0], linear(x)


first = outputs()
first[0].sum().backward()
try:
    outputs()[0].sum().backward()
    second = "no error"
except RuntimeError as error:
    second = str(error)
with torch.no_grad():
    attention.out_proj.weight_orig.mul_(100)
    linear.weight_orig.mul_(100)
then = outputs()
print("weight_orig times 100, output of attention changed:", not torch.equal(first[0], then[0]))
print("weight_orig times 100, output of Linear changed   :", not torch.equal(first[1], then[1]))
print("second backward:", second[:70])

assert torch.equal(first[0], then[0]), "the attention still uses the old weight"
assert not torch.equal(first[1], then[1]), "a Linear uses the new one"
assert "second time" in second, "the graph of the first step is used again"
print("as stated: the pruned out_proj is frozen at its first value")
END
