#!/bin/bash
# conform.sh SIMULATION PYTHON: the conformance suite of the npu backend on every simulated chip.
set -euo pipefail
exec "$2" "$(dirname "$0")/conform.py" "$1" "${@:3}"
