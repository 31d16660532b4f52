#!/usr/bin/env bash
# torch 2.13.0: torchrun, told to stop, ends with 1 and a traceback, although its processes ended as a signal asks.
#
# Expected: a batch system that sends SIGTERM finds 143, the code by which it knows a job that was stopped, as it does
# where the same program runs without torchrun.
# Seen: the program saves and ends with 143; torchrun prints a SignalException and ends with 1, as for a crash.
# So a requeue that depends on the exit code does not happen.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > app.py <<'END'
import signal
import sys
import time


def stop(*_):
    print("saved", flush=True)
    sys.exit(143)


signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(100)
END
export OMP_NUM_THREADS=1
stopped() {
    "$@" > said.txt 2>&1 &
    until grep -q ready said.txt; do sleep 0.2; done
    kill -TERM $!
    code=0
    wait $! || code=$?
    grep -q saved said.txt
}
stopped "$work/venv/bin/python" app.py
echo "alone: $code"
test "$code" = 143
stopped "$work/venv/bin/torchrun" --nproc-per-node 1 --master-port $((20000 + RANDOM % 20000)) app.py
echo "under torchrun: $code, $(tail -1 said.txt)"
test "$code" = 1
grep -q "SignalException: Process .* got signal: 15" said.txt
echo "as stated: torchrun ends with 1"
