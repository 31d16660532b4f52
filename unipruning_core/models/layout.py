"""What a user may say about where a search lies, read without torch: the place of its state, and how much to use."""

from __future__ import annotations

import re

from unipruning_core.errors import ConfigError
from unipruning_core.storage.documents import quoted

OFFLOADS = ("auto", "none", "cpu", "disk")
PREFIXES = ("", "K", "M", "G", "T")
UNITS = {f"{prefix}B": 1000**power for power, prefix in enumerate(PREFIXES)}
UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate(PREFIXES)}


def size_of(text: str | int | None, flag: str = "--max-memory") -> int | None:
    """Return a size in bytes, as it is or from text such as "22GiB"; ``flag`` is its name in messages.

    Raises:
        ConfigError: it is no size, or none at all.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) *([KMGT]I?B)?", str(text).strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[(found[2] or "B").upper()]) if found else 0
    if size <= 0:
        raise ConfigError(f"{flag} must be a size such as 22GiB or 500MB, not {quoted(text)}")
    return size


def check_offload(offload: str) -> None:
    """Refuse a place that does not exist.

    Raises:
        ConfigError: it is not one of ``OFFLOADS``.
    """
    if offload not in OFFLOADS:
        raise ConfigError(f"--offload must be one of {', '.join(OFFLOADS)}, not {quoted(offload)}")
