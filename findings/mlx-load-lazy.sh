#!/usr/bin/env bash
# mlx 0.32.4: weights loaded before a file is pruned in place are the pruned ones.
#
# Expected: `mlx.core.load` returns the arrays of the file as it is at that time, as safetensors' and torch's
# loaders do; or the difference between before and after shows at once as an error.
# Seen: loading keeps the file open and reads each array when it is first used. If the file's bytes are
# overwritten meanwhile, the arrays loaded before hold the new values: "before equals after" is
# true of any edit, and a check that pruning left the kept weights alone passes always. An array
# read earlier (`mx.eval`) is safe; replacing the file by a rename is too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import os

import mlx.core as mx

mx.set_default_device(mx.cpu)
mx.save_safetensors("dense.safetensors", {"w": mx.arange(8).astype(mx.float32)})
mx.save_safetensors("pruned.safetensors", {"w": mx.zeros(8)})
with open("dense.safetensors", "rb") as file:
    dense = file.read()
with open("pruned.safetensors", "rb") as file:
    pruned = file.read()


def before(evaluate, edit):
    with open("w.safetensors", "wb") as file:
        file.write(dense)
    loaded = mx.load("w.safetensors")["w"]
    if evaluate:
        mx.eval(loaded)
    edit()
    return loaded.tolist()


def in_place():
    with open("w.safetensors", "r+b") as file:
        file.write(pruned)


def by_rename():
    with open("new", "wb") as file:
        file.write(pruned)
    os.replace("new", "w.safetensors")


lazy, evaluated, renamed = before(False, in_place), before(True, in_place), before(False, by_rename)
print("loaded, file edited in place           :", lazy)
print("loaded, evaluated, file edited in place:", evaluated)
print("loaded, file replaced by rename        :", renamed)

assert len(dense) == len(pruned)
assert lazy == [0.0] * 8, "the array loaded before the edit holds the edit"
assert evaluated == renamed == [float(n) for n in range(8)], "these hold the old values"
print("as stated: the old weights are the new ones")
END
