"""Questions to the file system about a path that a user gave: what it raises is one sentence about that path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unipruning_core.errors import UnipruningError, reason_and_remedy


@contextmanager
def path_errors_as(kind: type[UnipruningError], what: str) -> Iterator[None]:
    """Turn an error about a path into one sentence: a name too long, a loop of links, no permission, no home folder.

    Raises:
        UnipruningError: of this kind.
    """
    try:
        yield
    # pathlib raises a RuntimeError for a loop and for an unknown home folder, and a ValueError for a NUL
    except (OSError, RuntimeError, ValueError) as error:
        raise kind(f"{what} cannot be looked at: {reason_and_remedy(error, 'check the path')}") from error
