"""Find the installed formats and choose one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from unipruning_core.backend import Probe
from unipruning_core.errors import ConfigError
from unipruning_core.export.contract import Choice
from unipruning_core.registry import answer_of, asked, installed
from unipruning_core.spelling import did_you_mean

if TYPE_CHECKING:
    from pluggy import PluginManager

    from unipruning_core.export.contract import Exporter
    from unipruning_core.exporter import ExporterSpec

ENTRY_POINT_GROUP = "unipruning.exporters"
DEFAULT = "safetensors"


class Formats:
    """The installed formats, and the plugins that failed to load."""

    def __init__(self) -> None:
        self.specs: dict[str, ExporterSpec] = {}
        self.broken: dict[str, Exception] = {}
        for name, _, spec in installed(ENTRY_POINT_GROUP, _described_by):
            if isinstance(spec, Exception):
                self.broken[name] = spec
                continue
            if spec.name in self.specs:
                raise ConfigError(f"two installed plugins provide the format {spec.name!r}; uninstall one")
            self.specs[spec.name] = spec

    def requested(self, name: str, type_name: str | None = None, *, force: bool = False) -> tuple[ExporterSpec, Choice]:
        """Return a format by its name, and the choice among its types; nothing heavy is imported.

        Raises:
            ConfigError: there is no such format or type, the format cannot be written here, or the type loses zeros.
        """
        if name in self.broken:
            raise ConfigError(
                f"the plugin of the format {name!r} failed to load: {self.broken[name]}; install it again"
            )
        if name not in self.specs:
            listed = ", ".join(sorted(self.specs)) or "none"
            raise ConfigError(f"no format is called {name!r}; installed: {listed}{did_you_mean(name, self.specs)}")
        spec = self.specs[name]
        if not (probe := asked(spec.probe)).available:
            raise ConfigError(f"the format {name!r} cannot be written here: {probe.detail}")
        chosen = type_name or (spec.types[0] if spec.types else "")
        if type_name and not spec.types:
            raise ConfigError(f"--type is for formats of several types, and {name} has one; leave it out")
        if type_name and type_name not in spec.types:
            hint = did_you_mean(type_name or "", spec.types)
            raise ConfigError(f"--type of {name} must be one of {', '.join(spec.types)}, not {type_name!r}{hint}")
        if chosen in spec.losing and not force:
            keeping = ", ".join(kind for kind in spec.types if kind not in spec.losing)
            raise ConfigError(
                f"{chosen} turns the zeros of pruned weights into other numbers; choose one of {keeping}, or pass "
                "--force"
            )
        return spec, Choice(chosen, force)

    def probe(self, spec: ExporterSpec) -> Probe:
        """Ask whether a format can be written here; a probe that raises counts as a no."""
        return asked(spec.probe)

    @staticmethod
    def load(spec: ExporterSpec) -> Exporter:
        module, _, attribute = spec.target.partition(":")
        return cast("Exporter", getattr(importlib.import_module(module), attribute)())


def _described_by(plugin: object, manager: PluginManager) -> Any:
    return answer_of(plugin, manager, "unipruning_exporter")
