#!/usr/bin/env bash
# layer.sh PYTHON BASE FOLDER PACKAGE...: make a virtual environment that sees everything in the one at BASE, an absolute
# path where one may be in the making, and adds packages that must not be there
set -euo pipefail
python=$1 base=$2 folder=$3

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --no-compile --no-deps "${@:4}"
inside=$("$folder/bin/python" -c 'import os, sys, sysconfig
print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')
printf 'import site; site.addsitedir("%s")\n' "$base/$inside" >"$folder/$inside/base.pth"
