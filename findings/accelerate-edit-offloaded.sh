#!/usr/bin/env bash
# accelerate 1.15.0: the same in-place edit of an offloaded weight stays on one route and is lost on the other.
#
# Expected: `align_module_device` brings an offloaded weight in, so a mask multiplied into it there
# either stays, as it does for a weight that is not offloaded, or is refused.
# Seen: with `cpu_offload` (and the CPU as execution device) the edit stays; with `disk_offload` it is gone after the
# `with` block, and the next forward uses the dense weight. Outside the block the weight is
# on the meta device, where multiplying by a mask that lies on the CPU raises nothing and does nothing.
# A pruner tested with CPU offload thus leaves a disk-offloaded model dense, silently.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - <<'END'
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.utils import align_module_device
from torch import nn

x = torch.ones(1, 8)
cpu = torch.device("cpu")


def run(offload):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 4, bias=False))
    dense = net(x)
    offload(net)
    zero = torch.zeros(4, 8)
    with torch.no_grad():
        net[0].weight.mul_(zero)
        ignored = torch.equal(net(x), dense)
        with align_module_device(net[0], execution_device=cpu):
            net[0].weight.mul_(zero)
            inside = net[0].weight.count_nonzero().item()
        return ignored, inside, net(x).count_nonzero().item() == 0


seen = {
    "cpu_offload": run(lambda net: cpu_offload(net, execution_device=cpu)),
    "disk_offload": run(lambda net: disk_offload(net, "offload", execution_device=cpu)),
}
print("edit outside ignored, non-zeros seen inside the block, edit inside kept")
for route, row in seen.items():
    print(f"{route:12}", row)

assert seen["cpu_offload"] == (True, 0, True), "kept with CPU offload"
assert seen["disk_offload"] == (True, 0, False), "lost with disk offload"
print("as stated: kept on the CPU, lost on disk")
END
