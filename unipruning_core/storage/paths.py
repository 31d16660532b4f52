"""Paths that a user gave: what the file system raises is one sentence; and names in documents, which stay there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unipruning_core.errors import UnipruningError, reason_and_remedy

SEPARATORS = frozenset("/\\:")  # also those of Windows, where others may read what was written here


def is_plain_name(name: str) -> bool:
    """Return whether a name in a document is that of a file in its own folder on every system, and shows as it is.

    Control characters and those that change the direction of writing do not.
    """
    return name.isprintable() and not SEPARATORS & set(name) and name.strip(". ") == name != ""


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
