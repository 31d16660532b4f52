"""What identifies a model: a hash of parts of its tensors, cheap enough to be made again whenever it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

from unipruning_core.storage.tensorfile import TensorInfo

FINGERPRINT_SAMPLE = 4096  # bytes, at the start, middle and end of each tensor


def fingerprint_of(
    tensors: Mapping[str, TensorInfo],
    part: Callable[[str, int, int], bytes],  # reads a tensor's bytes: name, first byte, count
) -> str:
    """Return a sha256 of each tensor's name, dtype, shape and FINGERPRINT_SAMPLE bytes from its start, middle and end.

    Tensors are ordered by name, so that sharding does not matter.  A fine-tune changes every matrix throughout, and so
    the fingerprint; an edit of a few weights between the samples goes unnoticed.
    """
    digest = hashlib.sha256()
    for name, info in sorted(tensors.items()):
        digest.update(json.dumps([name, info.type_name, info.shape]).encode())
        last = info.nbytes - FINGERPRINT_SAMPLE
        for start in (0, last // 2, last):
            digest.update(part(name, max(start, 0), min(FINGERPRINT_SAMPLE, info.nbytes)))
    return digest.hexdigest()
