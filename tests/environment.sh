#!/usr/bin/env bash
# environment.sh PYTHON FOLDER TORCH: make a virtual environment with this project and what its tests and demo need
set -euo pipefail
python=$1 folder=$2 torch=$3
# most modules are never imported, so none is compiled before it is
install="$folder/bin/python -m pip install --quiet --no-compile"

# a machine with npu-smi brings its own torch and torch_npu, which must match its CANN
if command -v npu-smi >/dev/null; then
  "$python" -m venv --system-site-packages "$folder"
else
  "$python" -m venv "$folder"
fi
$install --upgrade pip setuptools wheel

# one with nvidia-smi takes the CUDA build and triton; any other takes the CPU build where the package index offers it
extras=dev,demo
if command -v nvidia-smi >/dev/null; then
  extras=dev,demo,cuda
  $install "torch==$torch"
elif ! command -v npu-smi >/dev/null; then
  $install "torch==$torch+cpu" || $install "torch==$torch"
fi
$install --no-build-isolation -e ".[$extras]"

# what everything imports is compiled here, once and even where Python was told to keep nothing
env -u PYTHONDONTWRITEBYTECODE TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$folder/bin/python" -c 'import torch, transformers, datasets
from transformers.models.llama import modeling_llama'
