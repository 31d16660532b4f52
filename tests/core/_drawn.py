"""What hypothesis draws for several files of tests: the same inputs in every run, and no deadline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# a folder is one that all inputs of one test share
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
numbers = st.one_of(st.integers(), st.floats(), st.integers(min_value=2**62), st.just(10**400))
# a few characters of each sort; to draw from all takes seconds to prepare
letters = 'abe059%/:.@+-*[]{}"\\ \n\0é\u0666\U0001f600'
texts = st.text(letters, max_size=8)
words = st.text(letters + "\ud800", max_size=8)  # half a character, which is no text
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
places = st.floats(0, 1, exclude_max=True)  # of a file or a document
damages = st.tuples(
    st.sampled_from(["bytes", "bit", "cut", "more", "again"]), places, st.binary(min_size=1, max_size=8)
)


def damaged(whole: bytes, damage: tuple[str, float, bytes]) -> bytes:
    """Return a file's content with one damage."""
    how, where, new = damage
    at = int(where * len(whole))
    match how:
        case "bytes":
            return whole[:at] + new + whole[at + len(new) :]
        case "bit":
            return whole[:at] + bytes([whole[at] ^ 1 << new[0] % 8]) + whole[at + 1 :]
        case "cut":
            return whole[:at]
        case "more":
            return whole[:at] + new + whole[at:]
        case _:  # a part of it a second time
            return whole + whole[at:]


def edited(content: Any, where: float, value: Any) -> Any:
    """Return a JSON document with another value at one of its places."""
    changed = copy.deepcopy(content)
    found = list(_inside(changed))
    holder, key = found[int(where * len(found))]
    holder[key] = value
    return changed


def _inside(content: Any) -> Any:
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield content, key
        if isinstance(value, dict | list):
            yield from _inside(value)


def in_place_of(path: Path, content: bytes) -> bytes:
    """Write a file; return what it held."""
    before = path.read_bytes()
    path.write_bytes(content)
    return before
