"""Which matrices the user wants pruned or dense, by patterns of their names; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import translate
from typing import Any

from unipruning_core.errors import ConfigError
from unipruning_core.storage.documents import member, quoted

REGEX = "re:"


@dataclass(frozen=True)
class TargetChoice:
    """Patterns of names: ``fnmatch``, or a regular expression for the whole name after ``re:``.

    Raises:
        ConfigError: one is empty, or not a regular expression.
    """

    include: tuple[str, ...] = ()  # prune what matches, and nothing else; without any, what its role suggests
    exclude: tuple[str, ...] = ()  # leave dense what matches, whatever else does

    def __post_init__(self) -> None:
        for flag, patterns in (("--include", self.include), ("--exclude", self.exclude)):
            for pattern in patterns:
                compiled(pattern, flag)

    @classmethod
    def of(cls, include: str | Sequence[str], exclude: str | Sequence[str]) -> TargetChoice:
        """Return the choice of one pattern or several each."""
        both = ((given,) if isinstance(given, str) else tuple(given) for given in (include, exclude))
        return cls(*both)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> TargetChoice:
        """Return the choice that ``to_json`` recorded.

        Raises:
            ValueError: it is no such record.
        """
        parts = [member(record, name, list) for name in ("include", "exclude")]
        if not all(isinstance(pattern, str) for part in parts for pattern in part):
            raise ValueError(f"its patterns are {quoted(parts)}")
        try:
            return cls(*map(tuple, parts))
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def to_json(self) -> dict[str, list[str]]:
        return {name: list(patterns) for name, patterns in asdict(self).items()}

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


BY_ROLE = TargetChoice()


def compiled(pattern: str, flag: str) -> re.Pattern[str]:
    """Return what matches the whole of a name.

    Raises:
        ConfigError: the pattern is empty, or not a regular expression.
    """
    if not pattern.removeprefix(REGEX):
        raise ConfigError(f"{flag} must be a pattern such as '*.down_proj.weight', or {REGEX}REGEX, not {pattern!r}")
    if not pattern.startswith(REGEX):
        return re.compile(translate(pattern))
    try:
        return re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise ConfigError(
            f"{flag} {pattern!r} is not a regular expression: {error}; correct it, or leave out {REGEX!r} for a "
            "pattern with * and ?"
        ) from error
