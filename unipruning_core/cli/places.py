"""Where in a file an option was given, for the message that refuses it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from unipruning_core.errors import ConfigError, UnipruningError


@contextmanager
def placed(place: str | None) -> Iterator[None]:
    """Put a place, such as ``recipe.yaml:3``, before the message of a refusal."""
    try:
        yield
    except UnipruningError as error:
        if place is None:
            raise
        raise ConfigError(f"{place}: {error}") from error


def place_of(options: argparse.Namespace, name: str) -> str | None:
    """Return the place where an option was given by a file, or None for the command line and defaults."""
    places: dict[str, str] = getattr(options, "places", {})
    return places.get(name)
