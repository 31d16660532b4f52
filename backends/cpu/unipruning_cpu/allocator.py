"""A setting of the C library that avoids the page faults of large temporaries."""

from __future__ import annotations

import ctypes
import os

MALLOC_ENV = "UNIPRUNING_CPU_MALLOC"  # "system" leaves the allocator as it is
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers for mallopt


def keep_freed_memory() -> str:
    """Make glibc reuse large blocks instead of mapping and faulting in fresh pages for each; return what was set.

    It affects the whole process and cannot be undone.  Peak memory stays the same, but is not returned to the system
    before the process ends.
    """
    if os.environ.get(MALLOC_ENV) == "system":
        return f"as the system sets it ({MALLOC_ENV})"
    try:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    except TypeError:  # not POSIX, where a library must be named
        mallopt = None
    if mallopt is None or not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        return "as the system sets it (the C library has no such setting)"
    return "M_MMAP_MAX=0, M_TRIM_THRESHOLD=2^31-1"
