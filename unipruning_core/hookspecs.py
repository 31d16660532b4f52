"""The two hooks: a backend plugin implements the one, a plugin for a format of export the other."""

import pluggy

from unipruning_core.backend import BackendSpec
from unipruning_core.exporter import ExporterSpec

hookspec = pluggy.HookspecMarker("unipruning")
hookimpl = pluggy.HookimplMarker("unipruning")


@hookspec
def unipruning_backend() -> BackendSpec:  # type: ignore[empty-body]
    """Describe the backend this plugin provides.

    Called on every command, so it must import neither torch nor a vendor package.
    """


@hookspec
def unipruning_exporter() -> ExporterSpec:  # type: ignore[empty-body]
    """Describe the format this plugin exports pruned checkpoints to.

    Called by every export, so it must import neither torch nor the package of the format.
    """
