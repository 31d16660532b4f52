#!/usr/bin/env bash
# environment.sh PYTHON FOLDER TORCH: make a virtual environment with this project and what its tests and demo need
set -euo pipefail
python=$1 folder=$2 torch=$3
# most modules are never imported, so none is compiled before it is
install="$folder/bin/python -m pip install --quiet --no-compile"

# a machine with npu-smi brings its own torch and torch_npu, which must match its CANN; one whose Python has triton and a
# torch that sees a GPU keeps those, which match its driver, and without a network all else that it has
brings=nothing
if command -v npu-smi >/dev/null; then
  brings=npu
elif "$python" -c 'import torch, triton; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; then
  brings=cuda
fi
own=
[ $brings = nothing ] || own=--system-site-packages
"$python" -m venv $own "$folder"

new_tools() { $install --upgrade pip setuptools wheel; }
project() { $install --no-build-isolation -e ".[$1]"; }
case $brings in
npu)
  new_tools
  project dev,demo
  ;;
cuda)
  { new_tools && project dev,demo,cuda; } || $install --no-build-isolation --no-index --no-deps -e .
  ;;
nothing)
  new_tools
  # one with nvidia-smi takes the CUDA build and triton; any other takes the CPU build where the package index offers it
  if command -v nvidia-smi >/dev/null; then
    $install "torch==$torch"
    project dev,demo,cuda
  else
    $install "torch==$torch+cpu" || $install "torch==$torch"
    project dev,demo
  fi
  ;;
esac

# what everything imports is compiled here, once and even where Python was told to keep nothing
env -u PYTHONDONTWRITEBYTECODE TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$folder/bin/python" -c 'import torch, transformers, datasets
from transformers.models.llama import modeling_llama'
