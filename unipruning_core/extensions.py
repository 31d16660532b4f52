"""Vendor packages that torch imports automatically, any of which can make ``import torch`` fail.

Torch imports every package in the entry-point group ``torch.backends`` and fails with the first that does.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from unipruning_core.errors import chain, first_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "torch.backends"
AUTOLOAD_ENV = "TORCH_DEVICE_BACKEND_AUTOLOAD"
REMEDY = f"set {AUTOLOAD_ENV}=0 to run without it"


def load_extensions() -> dict[str, str]:
    """Import torch, then each of its extensions; return the names of those that fail, with the reason.

    For commands that report: once torch has failed with an extension, the same process cannot import it again.
    If one fails, the processes that this one starts load none.
    """
    points = _points()
    if not points or os.environ.get(AUTOLOAD_ENV, "1") != "1":
        return {}
    os.environ[AUTOLOAD_ENV] = "0"
    import torch  # noqa: F401

    failed: dict[str, str] = {}
    for point in points:
        try:
            point.load()()
        # a vendor's package can raise anything
        except Exception as error:
            failed[point.name] = root_cause(error)
    os.environ[AUTOLOAD_ENV] = "0" if failed else "1"
    return failed


def hide_broken_extensions() -> None:
    """Make an extension that cannot be imported look uninstalled for the rest of this process.

    Torch can be told to skip extensions; transformers cannot, and imports the one it knows wherever it is installed.
    Call this once the backend is chosen, so that a backend that needs the package has already reported why it fails.
    """
    for point in _points():
        package = point.module.partition(".")[0]
        try:
            importlib.import_module(package)
        # a vendor's package can raise anything
        except Exception:
            sys.modules[package] = None  # type: ignore[assignment]


def root_cause(error: BaseException) -> str:
    """Return the first line of an error's root cause, which torch wraps in its own error."""
    *_, root = chain(error)
    return first_line(root)


def _points() -> EntryPoints:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)
