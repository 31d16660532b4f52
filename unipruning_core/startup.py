"""The garbage collector during start-up: importing torch and transformers runs it hundreds of times for nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest(*, ours: bool = False) -> Iterator[None]:
    """Collect no garbage while much is imported; also a decorator of functions that import.

    In a process of ours, what is imported is not looked at again either, by later collections or at the end.  A process
    becomes ours by ``ours``; in that of a Python user, whose garbage may be large, nothing is kept from collection.
    """
    was_enabled, imported = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if (ours or gc.get_freeze_count()) and len(sys.modules) > imported:
            gc.freeze()
        if was_enabled:
            gc.enable()
