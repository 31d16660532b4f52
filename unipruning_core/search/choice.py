"""Settings of a mode from text: one conversion for flags, KEY=VALUE pairs and records of earlier versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, TypeVar

from unipruning_core.errors import ConfigError
from unipruning_core.search.modes import DEFAULT_MODE, MODES
from unipruning_core.search.settings import Settings, bounds, checked, converted
from unipruning_core.spelling import did_you_mean

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Flag:
    """One setting as the command line offers it."""

    name: str  # the field's
    modes: tuple[str, ...]  # those that have it
    help: str
    metavar: str
    formerly: tuple[str, ...]

    @property
    def spelled(self) -> str:
        """The flag as the user types it."""
        return spelled(self.name)


def spelled(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def flags(kinds: Mapping[str, Any] | None = None) -> list[Flag]:
    """List the settings of all modes, or of other settings classes by name, in the order of their fields."""
    by_field: dict[str, dict[str, Field[Any]]] = {}
    for name, kind in (MODES if kinds is None else kinds).items():
        for item in fields(kind):
            by_field.setdefault(item.name, {})[name] = item
    return [_flag(name, by_mode) for name, by_mode in by_field.items()]


def _flag(name: str, by_mode: Mapping[str, Field[Any]]) -> Flag:
    first = next(iter(by_mode.values()))
    defaults: dict[Any, list[str]] = {}
    for mode, item in by_mode.items():
        defaults.setdefault(item.default, []).append(mode)
    if len(defaults) == 1:
        default = f"default: {_shown(first.default)}"
    else:
        default = "default: " + ", ".join(f"{_shown(value)} in {_listed(modes)}" for value, modes in defaults.items())
    interval = first.metadata["within"]
    allowed = f"{bounds(interval)}; " if interval else ""
    helps = list(dict.fromkeys(item.metadata["help"] for item in by_mode.values()))
    return Flag(
        name,
        tuple(by_mode),
        f"{'; or '.join(helps)} ({allowed}{default})".replace("%", "%%"),
        first.metadata["metavar"] or {"float": "X", "int": "N", "str": "NAME"}[str(first.type)],
        first.metadata["formerly"],
    )


def settings_of(mode: str | None, values: Mapping[str, Any]) -> Settings:
    """Return the settings of a mode from ``values``, text or numbers by field; other fields keep their defaults.

    Raises:
        ConfigError: there is no such mode, it has no such setting, or a value is of the wrong type or out of range.
    """
    mode = DEFAULT_MODE if mode is None else mode
    if mode not in MODES:
        raise ConfigError(f"--mode must be one of {', '.join(MODES)}, not {mode!r}{did_you_mean(mode, MODES)}")
    return built(MODES[mode], values, f"--mode {mode}")


def built(kind: type[Kind], values: Mapping[str, Any], owner: str, *, dashes: bool = True) -> Kind:
    """Build a settings dataclass from text or numbers by field name, earlier names included.

    In messages, ``owner`` names what the settings are for, and with ``dashes`` a setting is called by its flag.

    Raises:
        ConfigError: as ``settings_of``.
    """
    known = {alias: item for item in fields(kind) for alias in (item.name, *item.metadata["formerly"])}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        label = spelled(name) if dashes else f"{name} of {owner}"
        if (item := known.get(name)) is None:
            modes = next((flag.modes for flag in flags() if name in (flag.name, *flag.formerly)), None)
            names = [spelled(item.name) if dashes else item.name for item in fields(kind)]  # type: ignore[arg-type]
            whose = f"is for --mode {_listed(modes, 'or')}" if modes else "does not exist"
            raise ConfigError(f"{label} {whose}; settings of {owner} are {', '.join(names)}")
        if item.name in given:
            current = spelled(item.name) if dashes else item.name
            raise ConfigError(f"{label} is given twice, under an earlier name too; use only {current}")
        given[item.name] = checked(item, converted(item, value, label) if isinstance(value, str) else value, label)
    return kind(**given)


def own_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings record of a run folder under current names; format 1 listed the fields of every mode.

    Raises:
        KeyError: the record's mode is unknown.
    """
    renamed = {
        old: item.name for item in fields(MODES[record["mode"]]) for old in (*item.metadata["formerly"], item.name)
    }
    return {"mode": record["mode"]} | {renamed[name]: value for name, value in record.items() if name in renamed}


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _listed(names: Iterable[str], last: str = "and") -> str:
    *rest, end = names
    return f"{', '.join(rest)} {last} {end}" if rest else end
