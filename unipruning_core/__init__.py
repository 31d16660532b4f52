"""UniPruning's device-neutral core; these names are what a plugin needs.

They are resolved on first use, so that a command reaches its own error handling before anything else is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipruning_core.backend import Backend, BackendSpec, Probe
    from unipruning_core.exporter import ExporterSpec
    from unipruning_core.hookspecs import hookimpl

_HOMES = {
    "Backend": "backend",
    "BackendSpec": "backend",
    "ExporterSpec": "exporter",
    "Probe": "backend",
    "hookimpl": "hookspecs",
}

__all__ = ["Backend", "BackendSpec", "ExporterSpec", "Probe", "hookimpl"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"unipruning_core.{_HOMES[name]}"), name)
