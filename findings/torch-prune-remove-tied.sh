#!/usr/bin/env bash
# torch 2.13.0: making a pruning permanent prunes a second layer, which was dense until then.
#
# Expected: `torch.nn.utils.prune.remove` changes nothing in what the model computes; it only folds
# the mask into the weight. With a tied pair one expects the tie to act at once (both sparse) or never.
# Seen: pruning the head of a tied pair leaves the embedding dense, as the shared parameter is kept
# whole under the name weight_orig. `remove` then writes the masked values into that shared parameter,
# so the embedding becomes sparse in the step that was to change nothing: perplexity measured before
# `remove` is not that of the model saved after it.
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
embedding, head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
head.weight = embedding.weight
tokens = torch.arange(8)


def share():
    return [(layer.weight == 0).float().mean().item() for layer in (embedding, head)]


prune.l1_unstructured(head, "weight", amount=0.5)
pruned, before = share(), head(embedding(tokens))
prune.remove(head, "weight")
removed, after = share(), head(embedding(tokens))
print("zeros in embedding, head, after pruning the head:", pruned)
print("zeros in embedding, head, after remove          :", removed)
print("largest change of the output by remove          :", (after - before).abs().max().item())

assert pruned == [0.0, 0.5], "the embedding is dense while the mask is separate"
assert removed == [0.5, 0.5], "remove prunes it"
assert not torch.allclose(before, after), "so remove changes what the model computes"
print("as stated: remove pruned the tied embedding")
END
