#!/usr/bin/env bash
# mlx 0.32.4 (Linux on x86-64, CPU): the mean of 33.5 million ones is 0.5.
#
# Expected: numpy and torch both give 1.0 for a flat float32 array, as they add in parts; a mean over a weight
# matrix of 8192 x 4096 is off in the last digits at most.
# Seen: `mx.sum` over a whole float32 array stops at 2^24 = 16,777,216, so the mean, and any mean
# square by it, is wrong by the ratio; the mean along the last axis first and over the rows next is right.
# The mean of a bool mask is exact, so the share of zeros is right; the mean magnitude of the weights is not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
ones = mx.ones((8192, 4096))
flat = mx.mean(ones).item()
steps = mx.mean(mx.mean(ones, axis=1)).item()
mask = mx.mean(ones > 0).item()
random = np.abs(np.random.default_rng(0).normal(size=(8192, 4096)).astype(np.float32))
seen, right = mx.mean(mx.array(random)).item(), float(random.mean(dtype=np.float64))
print("mean of ones:", flat, " in two steps:", steps, " numpy:", float(np.ones((8192, 4096), np.float32).mean()))
print("mean magnitude of normal weights:", seen, " rightly", right, f" off by {abs(seen / right - 1):.1%}")
print("mean of a bool mask:", mask)

assert flat == 0.5 and steps == 1.0 and mask == 1.0
assert abs(seen / right - 1) > 0.05, "a real spread is off too"
print("as stated")
END
