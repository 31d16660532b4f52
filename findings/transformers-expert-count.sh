#!/usr/bin/env bash
# transformers 5.24.0 and 4.57.1: a Qwen3-MoE config that the newer version saves has 128 experts for the older one.
#
# Expected: a config.json means the same to both versions, or the older one says what it does not know.
# Seen: the newer version saves the number of experts as "num_local_experts" alone.  The older one reads
# "num_experts", does not find it, takes its default of 128, and keeps the other number as an unknown attribute, without a
# word.  A model built from it is sixteen times as large; one loaded misses most of its experts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 5.24.0 4.57.1; do
  python3 -m venv "$version"
  "$version/bin/pip" install --quiet --no-compile --disable-pip-version-check "transformers==$version"
done
5.24.0/bin/python -W ignore - <<'END'
import json

from transformers import Qwen3MoeConfig

config = Qwen3MoeConfig(num_experts=8, num_experts_per_tok=2)
assert config.num_experts == 8
config.save_pretrained("saved")
content = json.load(open("saved/config.json"))
print("saved:", {name: value for name, value in content.items() if "expert" in name})
assert content["num_local_experts"] == 8 and "num_experts" not in content
END
4.57.1/bin/python -W ignore - <<'END'
from transformers import AutoConfig

config = AutoConfig.from_pretrained("saved")
print("read by 4.57.1: num_experts", config.num_experts, "num_local_experts", config.num_local_experts)
assert (config.num_experts, config.num_local_experts) == (128, 8)
END
echo "as stated: 8 experts become 128"
