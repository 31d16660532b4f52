"""UniPruning's device-neutral core; these four names are what a backend plugin needs.

They are resolved on first use, so that a command reaches its own error handling before anything else is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipruning_core.backend import Backend, BackendSpec, Probe
    from unipruning_core.hookspecs import hookimpl

__all__ = ["Backend", "BackendSpec", "Probe", "hookimpl"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"unipruning_core.{'hookspecs' if name == 'hookimpl' else 'backend'}"), name)
