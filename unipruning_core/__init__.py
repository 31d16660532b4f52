"""UniPruning's device-neutral core; these four names are what a backend plugin needs."""

from unipruning_core.backend import Backend, BackendSpec, Probe
from unipruning_core.hookspecs import hookimpl

__all__ = ["Backend", "BackendSpec", "Probe", "hookimpl"]
