#!/usr/bin/env bash
# torch 2.13.0: leaving the meta device by `to_empty` unties tied weights.
#
# Expected: `to_empty(device=...)` is `to` without the copy, and `to`, `half` and deepcopy all keep two
# modules that share a parameter sharing it.
# Seen: after `to_empty` the embedding and the head hold two parameters. Nothing says so: the state
# dict has the same names as before and loads strictly, and the two hold equal values. From then on
# whatever is done to one of the two (pruning the embedding, one training step) leaves the other as it
# was, and parameter counts are too high.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from torch import nn


def tied(device):
    with torch.device(device):
        embedding, head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
    head.weight = embedding.weight
    return nn.ModuleList([embedding, head])


def shared(model):
    return model[0].weight is model[1].weight


cpu = tied("cpu").to(torch.bfloat16)
model = tied("meta")
before = shared(model), sum(p.numel() for p in model.parameters())
model.to_empty(device="cpu")
after = shared(model), sum(p.numel() for p in model.parameters())
report = model.load_state_dict(tied("cpu").state_dict())
equal = torch.equal(model[0].weight, model[1].weight)
with torch.no_grad():
    model[0].weight.zero_()
print("tied, parameters: on meta", before, " after to_empty", after, " after to(bfloat16) on a CPU", shared(cpu))
print("strict load:", report, " values equal:", equal)
print("embedding zeroed, head non-zero:", int(model[1].weight.count_nonzero()))

assert before == (True, 512) and after == (False, 1024), "to_empty unties"
assert shared(cpu), "to keeps the tie"
assert equal and not report.missing_keys, "loading does not show it"
assert model[1].weight.count_nonzero() == 512, "the head no longer follows"
print("as stated: tied before, untied after")
END
