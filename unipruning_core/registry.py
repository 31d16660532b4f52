"""Find the installed backends and choose one."""

from __future__ import annotations

import importlib
import logging
import os
from importlib.metadata import entry_points
from typing import cast

import pluggy

from unipruning_core import hookspecs
from unipruning_core.backend import Backend, BackendSpec, Probe
from unipruning_core.errors import BackendNotFoundError, BackendUnavailableError

ENTRY_POINT_GROUP = "unipruning.backends"
BACKEND_ENV = "UNIPRUNING_BACKEND"

log = logging.getLogger(__name__)


class Catalogue:
    """The installed backends, and the plugins that failed to load.

    Each caller builds its own; there is no module-level instance to reset.
    """

    def __init__(self) -> None:
        self.specs: dict[str, BackendSpec] = {}
        self.places: dict[str, str] = {}  # what the entry point of each names: a module, or something in one
        self.broken: dict[str, Exception] = {}
        manager = new_manager()
        # an editable install beside an egg-info lists each point twice
        points = {(point.name, point.value): point for point in entry_points(group=ENTRY_POINT_GROUP)}
        for (name, _), point in sorted(points.items()):
            try:
                spec = described_by(point.load(), manager)
            # one bad plugin must not take the others, or the command, down with it
            except Exception as error:
                self.broken[name] = error
                continue
            if spec.name in self.specs:
                raise BackendUnavailableError(spec.name, "two installed plugins provide it; uninstall one")
            self.specs[spec.name] = spec
            self.places[spec.name] = point.value

    def select(self, requested: str | None = None, device_type: str | None = None) -> Backend:
        """Load the requested backend: by argument, else by environment variable, else "auto".

        "auto" is the available backend with the highest priority, among those for ``device_type`` if given.

        Raises:
            BackendNotFoundError: no plugin provides the name.
            BackendUnavailableError: the plugin is broken, or cannot run here; there is no silent fallback.
        """
        spec = self.requested(requested)
        if spec is None:
            return self._load(self._best(device_type))
        probe = self.probe(spec)
        if not probe.available:
            raise BackendUnavailableError(spec.name, probe.detail)
        return self._load(spec)

    def requested(self, name: str | None) -> BackendSpec | None:
        """Return the backend of that name, or of the environment variable's, or None for "auto"; it is not probed.

        Raises:
            BackendNotFoundError, BackendUnavailableError: as ``select``.
        """
        name = name or os.environ.get(BACKEND_ENV) or "auto"
        if name == "auto":
            return None
        if name in self.broken:
            raise BackendUnavailableError(name, f"its plugin failed to load: {self.broken[name]}")
        if name not in self.specs:
            raise BackendNotFoundError(name, sorted(self.specs))
        return self.specs[name]

    def probe(self, spec: BackendSpec) -> Probe:
        """Ask a backend whether it can run here; a probe that raises counts as a no."""
        try:
            return spec.probe()
        # the contract forbids raising, but a third party's mistake must not end the command
        except Exception as error:
            return Probe(False, f"its probe failed: {error}")

    def _best(self, device_type: str | None) -> BackendSpec:
        probes: dict[str, Probe] = {}
        fitting = [spec for spec in self.specs.values() if device_type in (None, spec.device_type)]
        for spec in sorted(fitting, key=lambda spec: (-spec.priority, spec.name)):
            probes[spec.name] = self.probe(spec)
            if probes[spec.name].available:
                log.info("backend %s (%s)", spec.name, probes[spec.name].detail)
                return spec
            log.info("skipping backend %s: %s", spec.name, probes[spec.name].detail)
        for_device = f" for device {device_type!r}" if device_type else ""
        raise BackendUnavailableError(
            "auto",
            "; ".join(f"{n}: {p.detail}" for n, p in probes.items())
            or f"no backend is installed{for_device}; install unipruning again",
        )

    @staticmethod
    def _load(spec: BackendSpec) -> Backend:
        module, _, attribute = spec.target.partition(":")
        return cast("Backend", getattr(importlib.import_module(module), attribute)())


def new_manager() -> pluggy.PluginManager:
    """Return a plugin host that knows the hook."""
    manager = pluggy.PluginManager("unipruning")
    manager.add_hookspecs(hookspecs)
    return manager


def described_by(plugin: object, manager: pluggy.PluginManager) -> BackendSpec:
    """Return the manifest of a plugin, which is registered in ``manager`` from then on."""
    manager.register(plugin)
    for implementation in manager.hook.unipruning_backend.get_hookimpls():
        if implementation.plugin is plugin:
            return cast("BackendSpec", implementation.function())
    raise AttributeError("it implements no unipruning_backend hook")
