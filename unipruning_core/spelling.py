"""What a misspelt word may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable

ALIKE = 0.6  # 1 is the same word


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of the known words that is most like ``word``, whatever its case, or None if none is like it."""
    # only a word that is wrong needs it
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_lower, 1, ALIKE)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about a word that is not known: a question, or nothing where no word is like it."""
    found = nearest(word, known)
    return "" if found is None else f"; did you mean {found!r}?"
