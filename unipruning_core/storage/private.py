"""Caches that code or data is taken from: used only where no other user can have put it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unipruning_core.errors import ConfigError


def check_private(folder: Path, what: str, remedy: str, *, strict: bool = False) -> None:
    """Refuse a folder that everybody can write to, or that another user owns; what is not there passes.

    Root may use what others own, such as a cache mounted into a container, unless ``strict``.

    Raises:
        ConfigError: it can be written to, or is another user's.
    """
    try:
        status = folder.stat()
    except OSError:
        return
    if not hasattr(os, "geteuid"):  # where modes and owners say nothing of who can write
        return
    trusted = (0, os.geteuid())
    if status.st_uid not in trusted and (strict or os.geteuid()):
        fault = f"belongs to another user (uid {status.st_uid})"
    elif status.st_mode & stat.S_IWOTH:
        fault = f"can be written to by everybody (mode {stat.S_IMODE(status.st_mode):03o})"
    else:
        return
    raise ConfigError(f"{what} {str(folder)!r} {fault}, so nothing in it is used; {remedy}")
