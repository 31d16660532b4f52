#!/usr/bin/env bash
# torch 2.13.0 on a CPU: the power of an element depends on how many threads share the tensor.
#
# Expected: an operation on single elements gives an element the same bits whatever lies beside it.
# Seen: of a million elements of torch.pow(x, 0.7), a few differ in their last bit between one thread and three, and a
# thousand between the whole tensor and pieces of it, on one thread. A thread computes whole vectors and then what is
# left of its share by another function, and where the shares end moves. numpy.power gives the same bits either way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import numpy as np
import torch

x = torch.rand(999_999, generator=torch.Generator().manual_seed(0)) + 0.01


def power(threads):
    torch.set_num_threads(threads)
    return x.pow(0.7)


one, three = power(1), power(3)
moved = int((one != three).sum())
print("one thread and three:", moved, "of", len(x), "elements differ")
assert moved > 0

torch.set_num_threads(1)
pieces = torch.cat([piece.pow(0.7) for piece in x.split(1001)])
differ = int((pieces != one).sum())
print("whole and pieces of 1001, one thread:", differ, "elements differ; at most",
      float((pieces - one).abs().div(one).max()), "relative")
assert differ > 0
assert torch.allclose(pieces, one, rtol=1e-6)
array = x.numpy()
same = np.array_equal(np.power(array, np.float32(0.7)),
                      np.concatenate([np.power(array[i : i + 1001], np.float32(0.7)) for i in range(0, len(array), 1001)]))
print("numpy, whole and pieces the same:", same)
assert same
print("as stated: an element's power depends on where it lies")
END
