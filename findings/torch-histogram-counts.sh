#!/usr/bin/env bash
# torch 2.13.0 (CPU): histogram counts stop at 16,777,216, and at 256 in bfloat16.
#
# Expected: counting is exact, or is refused, as torch.quantile refuses more than 16 million values;
# histc of 33 million weights, a usual size for one matrix, sums to the number of weights.
# Seen: counts are added up one by one in the dtype of the input. `torch.histc` and
# `torch.histogram` on one thread stop at 2^24 in float32, 2048 in float16, 256 in bfloat16, with no
# error; each further thread adds its own counter of that limit, so the result depends on the number of
# threads. `torch.bincount` with float32 weights stops at 2^24 whatever the number of threads is.
# So a threshold taken from such a histogram of pruned weights (most of them in the bin of 0) is wrong.
# Use float64, or bincount of the bin numbers without weights (int64).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import torch

n = 2**25 + 1000
zeros = torch.zeros(n)
torch.set_num_threads(1)
one = torch.histc(zeros, bins=2, min=0, max=1)[0].item()
other = torch.histogram(zeros, bins=2, range=(0.0, 1.0)).hist[0].item()
double = torch.histc(zeros.double(), bins=2, min=0, max=1)[0].item()
half = {d: torch.histc(torch.zeros(100_000, dtype=d), bins=2, min=0, max=1)[0].item() for d in (torch.float16, torch.bfloat16)}
weighted = torch.bincount(torch.zeros(n, dtype=torch.long), weights=torch.ones(n))[0].item()
plain = torch.bincount(torch.zeros(n, dtype=torch.long))[0].item()
print("values counted                :", n)
print("histc, histogram, one thread  :", one, other)
print("histc in float64              :", double)
print("histc of 100,000 in half types:", half)
print("bincount, float32 weights     :", weighted, " without weights:", plain)

assert one == other == weighted == 2**24, "float32 counters stop at 2^24"
assert half == {torch.float16: 2048.0, torch.bfloat16: 256.0}, "half types stop far earlier"
assert double == plain == n, "float64 and integers count to the end"
print("as stated: half of the values are missing from the count")
END
