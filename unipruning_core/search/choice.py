"""From words to the settings of a mode: one conversion for flags, KEY=VALUE and records of earlier versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, TypeVar

from unipruning_core.errors import ConfigError
from unipruning_core.search.modes import DEFAULT_MODE, MODES
from unipruning_core.search.settings import Settings, bounds, converted

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Flag:
    """One setting as the command line offers it."""

    name: str  # of the field
    modes: tuple[str, ...]  # that have it
    help: str
    metavar: str
    formerly: tuple[str, ...]

    @property
    def spelled(self) -> str:
        """As the user types it."""
        return spelled(self.name)


def spelled(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def flags(kinds: Mapping[str, Any] | None = None) -> list[Flag]:
    """Every setting of any mode, or of some other settings by a name each, in the order of their fields."""
    found: dict[str, dict[str, Field[Any]]] = {}
    for name, kind in (MODES if kinds is None else kinds).items():
        for item in fields(kind):
            found.setdefault(item.name, {})[name] = item
    return [_flag(name, by_mode) for name, by_mode in found.items()]


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
    """The settings of a mode; ``values`` are words or numbers by field, and what is not among them keeps its default.

    Raises:
        ConfigError: there is no such mode, it has no such setting, or a value is of another type or out of range.
    """
    mode = DEFAULT_MODE if mode is None else mode
    if mode not in MODES:
        raise ConfigError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    return built(MODES[mode], values, f"--mode {mode}")


def built(kind: type[Kind], values: Mapping[str, Any], owner: str, *, dashes: bool = True) -> Kind:
    """A settings dataclass from words or numbers by field name, earlier names included.

    ``owner`` is what a message calls the one that the settings are for; ``dashes`` says whether it calls a setting by
    its flag.

    Raises:
        ConfigError: as ``settings_of``.
    """
    known = {alias: item for item in fields(kind) for alias in (item.name, *item.metadata["formerly"])}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in values.items():
        label = spelled(name) if dashes else f"{name} of {owner}"
        if (item := known.get(name)) is None:
            modes = next((flag.modes for flag in flags() if name in (flag.name, *flag.formerly)), None)
            own = ", ".join(item.name for item in fields(kind))  # type: ignore[arg-type]
            whose = f"is for --mode {_listed(modes, 'or')}" if modes else "does not exist"
            raise ConfigError(f"{label} {whose}; settings of {owner} are {own}")
        if item.name in given:
            raise ConfigError(f"{label} is given twice, once as {item.name}, its name today")
        given[item.name] = converted(item, value, label) if isinstance(value, str) else value
    return kind(**given)


def own_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings record of a run folder in today's names; records of format 1 listed the fields of every mode.

    Raises:
        KeyError: the record names no mode that is known.
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
