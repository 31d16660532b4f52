#!/usr/bin/env bash
# torch 2.13.0, ml_dtypes 0.6.0, onnxruntime 1.32.0: too large a number in float8 is three things.
#
# Expected: a format has one conversion, and in torch the formats behave alike: too large gives NaN
# where the format has no infinity (e4m3fn), infinity where it has (e5m2), and infinity never comes
# out finite.
# Seen: torch's e4m3fn clamps: 500, 1e9 and infinity all become 448, so an overflow leaves no trace;
# torch's e4m3fnuz gives NaN and its e5m2 gives infinity for the same inputs. ml_dtypes (jax, numpy)
# gives NaN for e4m3fn. onnxruntime's Cast gives 448, and, unlike torch, 57344 for infinity in e5m2.
# And e8m0, the block scale of MX formats, has no zero: torch makes 0 into 2^-127, ml_dtypes NaN.
# So a check "no NaN after the cast" proves nothing in torch, and the same weights differ by library.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.23.2 onnxruntime==1.32.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import ml_dtypes
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

values = [500.0, 1e9, float("inf"), 0.0]


def in_torch(name):
    return torch.tensor(values).to(getattr(torch, name)).float().tolist()


def in_ml_dtypes(name):
    return np.array(values, np.float32).astype(getattr(ml_dtypes, name)).astype(np.float32).tolist()


def in_onnxruntime(dtype):
    nodes = [helper.make_node("Cast", ["x"], ["q"], to=dtype), helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(values, np.float32)})[0].tolist()


seen = {
    "torch e4m3fn": in_torch("float8_e4m3fn"),
    "torch e4m3fnuz": in_torch("float8_e4m3fnuz"),
    "torch e5m2": in_torch("float8_e5m2"),
    "torch e8m0fnu": in_torch("float8_e8m0fnu"),
    "ml_dtypes e4m3fn": in_ml_dtypes("float8_e4m3fn"),
    "ml_dtypes e8m0fnu": in_ml_dtypes("float8_e8m0fnu"),
    "onnxruntime e4m3fn": in_onnxruntime(TensorProto.FLOAT8E4M3FN),
    "onnxruntime e5m2": in_onnxruntime(TensorProto.FLOAT8E5M2),
}
print("from", values)
for name, result in seen.items():
    print(f"{name:20}", result)

inf = float("inf")
assert seen["torch e4m3fn"] == [448, 448, 448, 0], "torch clamps, infinity too"
assert np.isnan(seen["torch e4m3fnuz"][:3]).all(), "the sister format gives NaN"
assert seen["torch e5m2"] == [512, inf, inf, 0], "e5m2 goes to infinity"
assert np.isnan(seen["ml_dtypes e4m3fn"][:3]).all(), "ml_dtypes gives NaN"
assert seen["onnxruntime e4m3fn"] == [448, 448, 448, 0] and seen["onnxruntime e5m2"][1:3] == [57344, 57344]
assert seen["torch e8m0fnu"][3] == 2.0**-127 and np.isnan(seen["ml_dtypes e8m0fnu"][3]), "e8m0 has no zero"
print("as stated: 448, NaN or infinity, by library and format")
END
