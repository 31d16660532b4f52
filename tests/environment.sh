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
# where that Python is itself of a virtual environment, the system's packages are not those that it has
if [ -n "$own" ]; then
  "$folder/bin/python" - "$("$python" -c 'import sys, sysconfig
print(sysconfig.get_path("purelib") if sys.prefix != sys.base_prefix else "")')" <<'PYTHON'
import pathlib, sys, sysconfig
if sys.argv[1]:
    pathlib.Path(sysconfig.get_path("purelib"), "own.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")
PYTHON
fi

new_tools() { $install --upgrade pip setuptools wheel; }
project() { $install --no-build-isolation -e ".[$1]"; }
offline() {
  # venv brings an old one until Python 3.11, which would hide the other
  ! "$python" -c 'import setuptools' || "$folder/bin/python" -m pip uninstall --quiet --yes setuptools
  $install --no-build-isolation --no-index --no-deps -e .
}
case $brings in
npu)
  new_tools
  project dev,demo
  ;;
cuda)
  # without a network, few questions are enough to know
  (PIP_RETRIES=1 new_tools && PIP_RETRIES=1 project dev,demo,cuda) || offline
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

# what everything imports is compiled here, once and even where Python was told to keep nothing; a GPU's machine without a
# network may lack one of them, which nothing on a GPU needs
env -u PYTHONDONTWRITEBYTECODE TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$folder/bin/python" -c 'import sys, torch, transformers
from importlib.util import find_spec
if sys.argv[1] != "cuda" or find_spec("datasets"):
    import datasets
from transformers.models.llama import modeling_llama' $brings
