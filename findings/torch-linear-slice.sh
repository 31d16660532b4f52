#!/usr/bin/env bash
# torch 2.13.0, bfloat16 on a CPU: a linear layer copies its whole weight for a contiguous slice of a batch of one.
#
# Expected: x[:, :340] of one sequence is contiguous, and is multiplied as a view of the same numbers that was made otherwise.
# Seen: where x needs a gradient and the weight does not, as behind a frozen output layer, it is a batched product (bmm) with
# a clone of the weight, and x[0, :340][None], of the same memory and shape, a plain one (mm) that copies nothing: what tells
# them apart is the stride of the dimension of size one, which is_contiguous does not look at.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END' 2> errors || { cat errors; exit 1; }
import torch
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile

torch.manual_seed(0)
weight, x = torch.randn(4096, 64).bfloat16(), torch.randn(1, 1024, 64).bfloat16()
slices = {"x[:, :340]": x[:, :340], "x[0, :340][None]": x[0, :340][None]}
one, other = slices.values()
assert one.is_contiguous() and other.is_contiguous() and one.data_ptr() == other.data_ptr() and one.shape == other.shape
found = {}
for name, part in slices.items():
    part.requires_grad_()
    linear(part, weight)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        linear(part, weight)
    names = ("aten::mm", "aten::bmm", "aten::clone")
    found[name] = [(event.key, event.input_shapes[0]) for event in seen.key_averages(True) if event.key in names]
    print(f"{name:17} strides {part.stride()}: {found[name]}")
assert [key for key, _ in found["x[0, :340][None]"]] == ["aten::mm"]
assert {key for key, _ in found["x[:, :340]"]} == {"aten::bmm", "aten::clone"}
(cloned,) = (shape for key, shape in found["x[:, :340]"] if key == "aten::clone")
assert sorted(cloned) == [1, 64, 4096]
END
