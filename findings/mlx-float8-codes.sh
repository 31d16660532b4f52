#!/usr/bin/env bash
# mlx 0.32.4: a float8 checkpoint loads as whole numbers from 0 to 255.
#
# Expected: what a reader cannot represent it refuses, as `mlx.core.load` refuses F8_E5M2, F4 and F64; or it
# converts. MLX has from_fp8, so e4m3 could be either.
# Seen: F8_E4M3 and F8_E8M0 come back as uint8 codes with no warning: 1.0 loads as 56, -1.0 as 184. A
# matrix product with them works and is wrong, `astype(float32)` gives the codes, and saving again
# writes U8, so the dtype is lost from the file. Zero stays 0, so counts of zeros do not show it
# (but -0.0 loads as 128).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import json
import struct

import mlx.core as mx

mx.set_default_device(mx.cpu)


def write(dtype, data, size):
    head = json.dumps({"w": {"dtype": dtype, "shape": [len(data) // size], "data_offsets": [0, len(data)]}}).encode()
    with open("w.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + data)


def attempt(dtype, data, size=1):
    write(dtype, data, size)
    try:
        loaded = mx.load("w.safetensors")["w"]
        mx.eval(loaded)  # a load is lazy, and the file is written again
        return loaded
    except RuntimeError as error:
        return str(error)


e4m3 = attempt("F8_E4M3", bytes([56, 184, 0, 128]))  # 1.0, -1.0, 0.0, -0.0
e8m0 = attempt("F8_E8M0", bytes([127, 128]))  # 1.0, 2.0
others = {"F8_E5M2": attempt("F8_E5M2", bytes([60])), "F64": attempt("F64", struct.pack("<d", 1.0), 8)}
print("1, -1, 0, -0 in e4m3:", e4m3, " decoded:", mx.from_fp8(e4m3, mx.float32))
print("1, 2 in e8m0        :", e8m0)
print("others              :", others)
mx.save_safetensors("again.safetensors", {"w": e4m3})
with open("again.safetensors", "rb") as file:
    stored = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["w"]["dtype"]
print("saved again as      :", stored)

assert e4m3.dtype == mx.uint8 and e4m3.tolist() == [56, 184, 0, 128], "codes, not numbers"
assert e8m0.dtype == mx.uint8 and e8m0.tolist() == [127, 128]
assert mx.from_fp8(e4m3, mx.float32).tolist() == [1, -1, 0, 0], "the codes are right"
assert all("unsupported" in text for text in others.values()), "others are refused"
assert stored == "U8", "the dtype is lost"
print("as stated: codes in place of numbers")
END
