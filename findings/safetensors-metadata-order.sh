#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors and the same metadata give other bytes at each save.
#
# Expected: the format has a fixed order of tensors and no time stamp, and a checkpoint saved twice
# by a one-key writer is byte for byte the same; so a hash of the file identifies its content.
# Seen: with several metadata entries their order in the header changes from save to save, even
# within one process. Tensors, metadata and file size are equal, the hash of the file is not.
# So: compare tensors, or write one metadata entry (a JSON text, say), before trusting a file hash.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'END'
import hashlib
import json
import struct

import numpy as np
from safetensors.numpy import load, save

tensors = {"a": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
many = {f"key{n}": str(n) for n in range(8)}


def header(data):
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])


saves = [save(tensors, many) for _ in range(20)]
single = [save(tensors, {"format": "pt"}) for _ in range(20)]
hashes = {hashlib.sha256(data).hexdigest() for data in saves}
print("20 saves, 8 metadata entries:", len(hashes), "different files, sizes", {len(data) for data in saves})
print("two orders:", list(header(saves[0])["__metadata__"]), list(header(saves[1])["__metadata__"]))
print("20 saves, 1 metadata entry  :", len(set(single)), "different file")

assert len(hashes) > 1, "the order of the metadata is not fixed"
assert all(header(data)["__metadata__"] == many for data in saves), "the metadata itself is whole"
assert all(np.array_equal(load(data)["a"], tensors["a"]) for data in saves)
assert len(set(single)) == 1, "one entry is written the same way each time"
print("as stated: equal content, different bytes")
END
