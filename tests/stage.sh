#!/usr/bin/env bash
# stage.sh NAME COMMAND...: run one stage of `make test`; its seconds and its last word on tests go into build/stages
set -o pipefail
# environment.sh leaves it to the first import to compile a module
unset PYTHONDONTWRITEBYTECODE
name=$1 began=$SECONDS output=$(mktemp)
"${@:2}" 2>&1 | tee "$output"
status=$?
said=$(grep -E '^[0-9]+ (passed|failed)|^[0-9]+ error' "$output" | tail -n 1)
rm "$output"
((status == 0)) || said="exit status $status; $said"
mkdir -p build
printf 'stage %-16s %4d s  %s\n' "$name:" $((SECONDS - began)) "$said" | tee -a build/stages
exit $status
