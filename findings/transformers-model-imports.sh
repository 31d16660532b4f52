#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: importing a model class imports torch's compiler.
#
# Expected: torch's compiler, its symbolic mathematics and its distributed tensors are imported by what compiles or
# distributes something; a model class in eager mode needs none of them, and the package imports lazily.
# Seen: "from transformers import LlamaForCausalLM" alone imports torch._dynamo, torch._inductor, sympy and
# torch.distributed.tensor; a config class imports the last two, the three Auto classes none of the four. So a program
# that measures its start by the Auto classes pays most of it later, with the first model that it loads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.24.0
cd "$work"
seen() {
  "$work/venv/bin/python" -W ignore - "$@" <<'END'
import sys

import torch

before = set(sys.modules)
exec(sys.argv[1])
heavy = ("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor")
assert not before & set(heavy), "torch alone imports them"
found = [name for name in heavy if name in sys.modules]
print(f"{sys.argv[1]}: {len(set(sys.modules) - before)} modules, of these", found)
assert found == sys.argv[2:]
END
}
seen "from transformers import AutoConfig, AutoTokenizer, AutoModelForCausalLM"
seen "from transformers import LlamaConfig" sympy torch.distributed.tensor
seen "from transformers import LlamaForCausalLM" torch._dynamo torch._inductor sympy torch.distributed.tensor
echo "as stated: a model class imports torch's compiler"
