"""A setting of the C library that avoids the page faults of large temporaries."""

from __future__ import annotations

import ctypes
import os
from typing import Any

MALLOC_ENV = "UNIPRUNING_CPU_MALLOC"  # "system" leaves the allocator as it is
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers for mallopt


def keep_freed_memory() -> str:
    """Make glibc reuse large blocks instead of mapping and faulting in fresh pages for each; return what was set.

    It affects the whole process and cannot be undone.  Peak memory stays the same, but is not returned to the system
    before ``release_freed_memory``.
    """
    if os.environ.get(MALLOC_ENV) == "system":
        return f"as the system sets it ({MALLOC_ENV})"
    mallopt = _function("mallopt")
    if mallopt is None or not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        return "as the system sets it (the C library has no such setting)"
    return "M_MMAP_MAX=0, M_TRIM_THRESHOLD=2^31-1"


def release_freed_memory() -> None:
    """Return every page that is free to the system, also between blocks in use, where the C library can."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def _function(name: str) -> Any:
    """Return a function of the C library, or None if it has none of this name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # not POSIX, where a library must be named
        return None
