#!/usr/bin/env bash
# torch 2.13.0: with Muon, a gradient that is zero at pruned weights does not keep them zero.
#
# Expected: the usual way to train under a mask, which is to multiply the gradient by the mask, holds for
# every optimizer: where weight, gradient and momentum are zero, the step is zero. It holds for
# SGD, AdamW, Adafactor and the other optimizers tried in torch.optim.
# Seen: torch.optim.Muon orthogonalises the whole gradient matrix, which mixes entries of a row and
# of a column, so after one step no pruned weight is zero any more. The mask must be applied to the weight
# after each step.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from torch import nn

torch.manual_seed(0)
mask = torch.rand(32, 32) > 0.5
x = torch.randn(64, 32)


def zeros_after_step(optimizer, **settings):
    layer = nn.Linear(32, 32, bias=False)
    with torch.no_grad():
        layer.weight.mul_(mask)
    step = getattr(torch.optim, optimizer)(layer.parameters(), lr=0.01, **settings)
    layer(x).square().sum().backward()
    layer.weight.grad.mul_(mask)
    step.step()
    return int((layer.weight == 0).sum())


pruned = int((~mask).sum())
left = {name: zeros_after_step(name) for name in ("SGD", "AdamW", "NAdam", "Adagrad", "Adafactor", "Rprop", "Muon")}
print("pruned weights:", pruned, " still zero after one step:", left)

assert all(count == pruned for name, count in left.items() if name != "Muon"), "the others keep them"
assert left["Muon"] < pruned // 100, "Muon revives them"
print("as stated: Muon alone revives pruned weights")
END
