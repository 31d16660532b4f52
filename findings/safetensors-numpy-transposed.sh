#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: a transposed array is saved as another matrix.
#
# Expected: `safetensors.numpy.save` either stores the values that the array shows or refuses, as
# `safetensors.torch.save` refuses a transposed tensor with a ValueError. The docstring asks for
# contiguous arrays; a Fortran-ordered array counts as contiguous to many readers, and weights
# kept as (in, out) are turned with `.T` all the time.
# Seen: no error. The bytes are written in memory order under the turned shape, so the file is
# valid and of the right shape, and its numbers are in the wrong places.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import numpy as np
from safetensors.numpy import load, save

weight = np.arange(6, dtype=np.float32).reshape(2, 3)
turned = load(save({"w": weight.T}))["w"]
fortran = load(save({"w": np.asfortranarray(weight)}))["w"]
copied = load(save({"w": np.ascontiguousarray(weight.T)}))["w"]
print("array shown :", weight.T.tolist())
print("array loaded:", turned.tolist())
print("Fortran order, shown :", weight.tolist())
print("Fortran order, loaded:", fortran.tolist())

assert turned.shape == weight.T.shape, "the shape is that of the view"
assert turned.tolist() == weight.reshape(3, 2).tolist(), "a transposed view is stored in memory order"
assert not np.array_equal(fortran, weight), "a Fortran-ordered array is stored in memory order"
assert np.array_equal(copied, weight.T), "a copy is stored as it reads"
print("as stated: saved without an error, loaded as another matrix")
END
