#!/usr/bin/env bash
# torch 2.13.0: torchrun takes a flag of the program that it starts for one of its own, even after the program's name.
#
# Expected: what follows the program belongs to the program, as `torchrun -m app --role x` shows, which arrives whole.
# Seen: `torchrun -m app --run x` starts nothing: "ambiguous option: --run could match --run-path, --run_path".
# It is argparse's abbreviation of flags, tried against all words of the line; `--` before `-m` ends it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
echo 'import sys; print("the program got", sys.argv[1:])' > app.py
export OMP_NUM_THREADS=1
port=$((20000 + RANDOM % 20000))
start() { "$work/venv/bin/torchrun" --nproc-per-node 1 --master-port "$port" "$@" 2>&1; }
start -m app --role x | tee role.txt
start -m app --run x > run.txt && { echo "it started"; exit 1; }
tail -1 run.txt
start -- -m app --run x | tee apart.txt
grep -q "the program got \['--role', 'x'\]" role.txt
grep -q "ambiguous option: --run could match --run-path, --run_path" run.txt
! grep -q "the program got" run.txt
grep -q "the program got \['--run', 'x'\]" apart.txt
echo "as stated: --run is torchrun's own unless -- comes first"
