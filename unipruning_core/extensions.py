"""Packages of vendors that torch imports by itself, each of which can take ``import torch`` down with it.

Torch imports every package behind the entry-point group ``torch.backends`` and fails with the first that fails.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import EntryPoints, entry_points

GROUP = "torch.backends"
AUTOLOAD_ENV = "TORCH_DEVICE_BACKEND_AUTOLOAD"
REMEDY = f"set {AUTOLOAD_ENV}=0 to run without it"


def load_extensions() -> dict[str, str]:
    """Import torch and then what torch would import by itself, one at a time; the names of those that fail, and why.

    For a command that reports: a torch that failed with an extension cannot be imported again in the same process.
    Where one fails, none is loaded by the processes that this one starts.
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
    """Make an extension that cannot be imported look as if it were not installed, for the rest of this process.

    Torch can be told to leave extensions alone; transformers cannot, and imports the one it knows wherever it is
    installed.  To be called once the backend is chosen, so that a backend that asks for the package has been told why
    it fails.
    """
    for point in _points():
        package = point.module.partition(".")[0]
        try:
            importlib.import_module(package)
        # a vendor's package can raise anything
        except Exception:
            sys.modules[package] = None  # type: ignore[assignment]


def root_cause(error: BaseException) -> str:
    """The first line of what the root of an error says, which torch wraps in one of its own."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _points() -> EntryPoints:
    return entry_points(group=GROUP)
