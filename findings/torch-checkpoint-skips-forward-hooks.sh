#!/usr/bin/env bash
# torch 2.13.0, torch.utils.checkpoint: while a block is recomputed, the forward hook of its last layer does not run.
#
# Expected: forward hooks and forward pre-hooks come in pairs, so that what a pre-hook sets up, a hook takes down.
# Seen: the recomputation of a block of three layers runs three pre-hooks and two hooks. It stops inside the last layer,
# once every tensor that the backward pass needs has been saved, by an exception that nobody sees.
# A hook registered with always_call=True runs; so does every hook under set_checkpoint_early_stop(False).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def hooks_run(always_call, context):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    before, after = [], []
    for number, layer in enumerate(block):
        layer.register_forward_pre_hook(lambda *_, number=number: before.append(number))
        layer.register_forward_hook(lambda *_, number=number: after.append(number), always_call=always_call)
    with context:
        out = checkpoint(block, torch.randn(4, 8, requires_grad=True), use_reentrant=False)
        assert before == after == [0, 1, 2], "the first forward runs every hook"
        before.clear()
        after.clear()
        out.sum().backward()
    return before, after


plain = hooks_run(False, nullcontext())
always = hooks_run(True, nullcontext())
whole = hooks_run(False, set_checkpoint_early_stop(False))
print("recomputed, pre-hooks and hooks:", *plain)
print("with always_call=True:          ", *always)
print("without early stop:             ", *whole)

assert plain == ([0, 1, 2], [0, 1])
assert always == ([0, 1, 2], [0, 1, 2])
assert whole == ([0, 1, 2], [0, 1, 2])
print("as stated: the last layer's hook is skipped")
END
