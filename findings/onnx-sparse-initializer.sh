#!/usr/bin/env bash
# onnx 1.23.2 and onnxruntime 1.32.0: a sparse initializer passes the checker and few of the tools take it.
#
# Expected: sparse_initializer is part of the format since IR 5; a model that `onnx.checker` accepts and
# onnxruntime runs goes through the two projects' own tools, or they say that they do not take it.
# And 60 % zeros make a file smaller.
# Seen: the model runs and is right. The file is larger than the dense one, as each kept float32 carries an int64
# position (break-even at a third of the weights). `save_as_external_data` leaves sparse values
# inside the model file without a word, so the 2 GB limit of protobuf is met all the same.
# The reference evaluator, the version converter and `quantize_dynamic` raise on it, none of them
# naming sparsity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import os

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import quantize_dynamic

random = np.random.default_rng(0)
weight = random.normal(size=(64, 64)).astype(np.float32)
weight[random.random(weight.shape) < 0.6] = 0
x = random.normal(size=(1, 64)).astype(np.float32)


def build(sparse):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:])
    if sparse:
        at = np.flatnonzero(weight).astype(np.int64)
        values = numpy_helper.from_array(weight.ravel()[at], "w")
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(at, "at"), [64, 64]))
    else:
        graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def inside(sparse):
    name = f"outside{sparse}.onnx"
    onnx.save(build(sparse), name, save_as_external_data=True, location=f"data{sparse}.bin", size_threshold=0)
    return os.path.getsize(name)


def quantized(sparse):
    onnx.save(build(sparse), "in.onnx")
    quantize_dynamic("in.onnx", "out.onnx")


def attempt(task):
    try:
        task()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:70]
    return "fine"


def tools(sparse):
    return {
        "reference evaluator": attempt(lambda: ReferenceEvaluator(build(sparse)).run(None, {"x": x})),
        "version converter": attempt(lambda: version_converter.convert_version(build(sparse), 20)),
        "quantize_dynamic": attempt(lambda: quantized(sparse)),
    }


session = onnxruntime.InferenceSession(build(True).SerializeToString(), providers=["CPUExecutionProvider"])
error = np.abs(session.run(None, {"x": x})[0] - x @ weight).max()
size = {sparse: len(build(sparse).SerializeToString()) for sparse in (False, True)}
left = {sparse: inside(sparse) for sparse in (False, True)}
print("error of onnxruntime:", error)
print("bytes, dense and sparse:", size[False], size[True], " left inside with external data:", left[False], left[True])
dense, sparse = tools(False), tools(True)
for name in dense:
    print(f"{name:20} dense: {dense[name]}; sparse: {sparse[name]}")

assert error < 1e-4, "onnxruntime runs it rightly"
assert size[True] > size[False], "60 % zeros, larger file"
assert left[False] < 1000 and left[True] >= 0.9 * size[True], "external data leaves it inside"
assert set(dense.values()) == {"fine"} and "fine" not in sparse.values(), "the tools take the dense one only"
assert not any("sparse initializer" in text.lower() for text in sparse.values())
print("as stated: valid, runs, and the tools around it do not take it")
END
