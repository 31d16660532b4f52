#!/usr/bin/env bash
# torch 2.13.0: a TCPStore that nobody serves is given up after twice its timeout and a pause, not after its timeout.
#
# Expected: TCPStore(..., is_master=False, timeout=4 s), to a port at which nothing listens, raises after 4 seconds.
# Seen: it tries, says that it has timed out after 4000 ms, pauses and tries again: at least 8 seconds.
# So with the timeouts of half an hour that training uses, a rank without its first one holds its node for an hour.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > client.py <<'END'
import socket
import time
from datetime import timedelta

from torch.distributed import DistNetworkError, TCPStore

with socket.socket() as reserved:  # bound, so that nobody else takes the port, and never listened to
    reserved.bind(("127.0.0.1", 0))
    began = time.monotonic()
    try:
        TCPStore("127.0.0.1", reserved.getsockname()[1], 2, is_master=False, timeout=timedelta(seconds=4))
    except DistNetworkError as error:
        took = time.monotonic() - began
        print(f"raised after {took:.1f} s: {str(error).splitlines()[0]}")
        assert "timed out after 4000ms" in str(error)
assert took >= 8, took
END
OMP_NUM_THREADS=1 "$work/venv/bin/python" client.py 2> log.txt
grep -c "retrying (try=0, timeout=4000ms" log.txt
echo "as stated: twice the timeout, and more"
