#!/bin/bash
# build.sh OUT PYTHON: build the simulated CANN into OUT for a Python that has torch 2.13.
set -euo pipefail
out=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

gcc -O1 -shared -fPIC -Wl,-soname,libascendcl.so -o "$out/libascendcl.so" "$here"/runtime/*.c

# torch_npu looks the runtime's functions up through the handles of these libraries too
for name in libhccl libacl_op_compiler libge_runner libgraph libacl_tdt_channel; do
  echo 'int npusim_empty;' | gcc -shared -fPIC -Wl,-soname,$name.so -Wl,--no-as-needed \
    -o "$out/$name.so" -x c - -x none -L"$out" -lascendcl
done

torch=$(TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$python" -c "import os, torch; print(os.path.dirname(torch.__file__))")
# the files apart, so that two cores share the work
for source in "$here"/operators/*.cpp; do
  g++ -std=c++20 -O0 -c -fPIC -w -I"$torch/include" -o "$out/$(basename "$source" .cpp).o" "$source" &
  compilers+=($!)
done
for compiler in "${compilers[@]}"; do wait "$compiler"; done
g++ -shared -Wl,-soname,libopapi.so -o "$out/libopapi.so" "$out"/*.o -L"$torch/lib" -ltorch_cpu -lc10 -L"$out" -lascendcl
