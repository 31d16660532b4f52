"""Find the installed backends and choose one."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, cast

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
        for name, place, spec in installed(ENTRY_POINT_GROUP, described_by):
            if isinstance(spec, Exception):
                self.broken[name] = spec
                continue
            if spec.name in self.specs:
                raise BackendUnavailableError(spec.name, "two installed plugins provide it; uninstall one")
            self.specs[spec.name] = spec
            self.places[spec.name] = place

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
        return asked(spec.probe)

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


def installed(
    group: str, describe: Callable[[object, pluggy.PluginManager], Any]
) -> Iterator[tuple[str, str, Any | Exception]]:
    """Yield the name of each entry point of a group, what it names, and its manifest, or why there is none."""
    manager = new_manager()
    # an editable install beside an egg-info lists each point twice
    points = {(point.name, point.value): point for point in entry_points(group=group)}
    for (name, place), point in sorted(points.items()):
        try:
            manifest = describe(point.load(), manager)
        # one bad plugin must not take the others, or the command, down with it
        except Exception as error:
            yield name, place, error
        else:
            yield name, place, manifest


def asked(probe: Callable[[], Probe]) -> Probe:
    """Return the answer of a probe; one that raises counts as a no."""
    try:
        return probe()
    # the contract forbids raising, but a third party's mistake must not end the command
    except Exception as error:
        return Probe(False, f"its probe failed: {error}")


def new_manager() -> pluggy.PluginManager:
    """Return a plugin host that knows the hooks."""
    manager = pluggy.PluginManager("unipruning")
    manager.add_hookspecs(hookspecs)
    return manager


def described_by(plugin: object, manager: pluggy.PluginManager) -> BackendSpec:
    """Return the manifest of a backend, whose plugin is registered in ``manager`` from then on."""
    return cast("BackendSpec", answer_of(plugin, manager, "unipruning_backend"))


def answer_of(plugin: object, manager: pluggy.PluginManager, hook: str) -> Any:
    """Register a plugin, and return what its own implementation of a hook answers."""
    manager.register(plugin)
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        if implementation.plugin is plugin:
            return implementation.function()
    raise AttributeError(f"it implements no {hook} hook")
