#!/usr/bin/env bash
# A search over the eight cards of an Ascend server, or of several with NODES and HEAD set on each:
#   MODEL=/shared/model RUN=/shared/run examples/cluster/ascend.sh
# Checked by tests/core/test_examples_cluster.py: bash -n, and the words of torchrun and unipruning by their parsers.
# HCCL has run it nowhere: the search over ranks is tested with gloo alone.

# before -u, since it reads variables that are not set
source "${ASCEND_TOOLKIT_HOME:-/usr/local/Ascend/ascend-toolkit}/set_env.sh"
set -euo pipefail
: "${MODEL:?is not set; export MODEL, a folder that all servers share, or a hub id}"
: "${RUN:?is not set; export RUN, a folder that all servers share}"
NODES=${NODES:-1}
HEAD=${HEAD:-localhost}

export HCCL_CONNECT_TIMEOUT=600  # seconds in which all cards must have connected; 120 unless told otherwise
export HCCL_DETERMINISTIC=true   # sums in one order, so that two runs give the same bytes
# on servers with several networks: export HCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0
export OMP_NUM_THREADS=4
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240  # seconds in which the ranks may save; torchrun's own are 30

exec torchrun --nnodes "$NODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id unipruning \
    -m unipruning_core search "$MODEL" --out "$RUN" --backend npu --batch-size 16 --samples 512
