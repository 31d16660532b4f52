"""The one hook a backend plugin implements."""

import pluggy

from unipruning_core.backend import BackendSpec

hookspec = pluggy.HookspecMarker("unipruning")
hookimpl = pluggy.HookimplMarker("unipruning")


@hookspec
def unipruning_backend() -> BackendSpec:  # type: ignore[empty-body]
    """Describe the backend this plugin provides.

    Called on every command, so it must import neither torch nor a vendor package.
    """
