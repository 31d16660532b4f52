"""JSON that is read back: regular files only, bounded in size, depth and numbers, and sealed by a checksum if ours."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn

from unipruning_core.storage.files import read_bytes

LARGEST_DOCUMENT = 1 << 26  # bytes: a budget with a count for every row of a model of 70B needs three quarters of it
DEEPEST = 64  # levels of nesting
MOST_CONTAINERS = 4_000_000  # arrays and objects, each of which takes some 60 bytes of memory
MOST_DIGITS = 100  # of a number
LONGEST_QUOTE = 80
CHECKSUM = "checksum"
NUMBER = int | float


def read_json(path: Path, *, strict: bool = True) -> Any:
    """Read a JSON document; ``strict`` as in ``parse_json``.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: it is too large, not UTF-8, or not JSON within the bounds above.
    """
    return parse_json(read_bytes(path, LARGEST_DOCUMENT), strict=strict)


def read_object(path: Path, *, strict: bool = True) -> dict[str, Any]:
    """Read a JSON document that is an object; raises as ``read_json``."""
    content = read_json(path, strict=strict)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def parse_json(text: bytes, *, strict: bool = True) -> Any:
    """Parse JSON.

    ``strict`` refuses what the standard does not know or two readers may read differently: NaN and infinities, numbers
    beyond float64, repeated names, text that is not Unicode.  Files of other programs may hold the first two.

    Raises:
        ValueError: it is none, or exceeds a bound.
    """
    if text.count(b"[") + text.count(b"{") > MOST_CONTAINERS:
        raise ValueError(f"it has more than {MOST_CONTAINERS} arrays and objects")
    try:
        content = json.loads(
            text.decode(),
            parse_int=_integer,
            parse_float=_finite if strict else _float,
            parse_constant=_no_constant if strict else None,
            object_pairs_hook=_without_repetition if strict else None,
        )
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from error
    _check_values(content, strict)
    return content


def member(content: Any, name: str, kind: type | UnionType) -> Any:
    """Return a member of an object; True and False are no numbers.

    Raises:
        ValueError: ``content`` is no object, lacks the member, or has one of another kind.
    """
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"{name!r} is missing")
    value = content[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name!r} is {quoted(value)}")
    return value


def is_number(value: object) -> bool:
    """Return whether a value is a number; True and False are none."""
    return isinstance(value, NUMBER) and not isinstance(value, bool)


def digest_member(content: Any, name: str) -> str:
    """Return a member that is a sha256 in hexadecimal; raises as ``member``."""
    value: str = member(content, name, str)
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{name!r} is {quoted(value)}, not a sha256")
    return value


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the checksum of everything else in it."""
    return {**content, CHECKSUM: _checksum(content)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content without its checksum.

    Raises:
        ValueError: there is none, or it is that of another content.
    """
    bare = {key: value for key, value in content.items() if key != CHECKSUM}
    written = content.get(CHECKSUM)
    if not isinstance(written, str):
        raise ValueError("it has no checksum")
    if (actual := _checksum(bare)) != written:
        raise ValueError(f"its checksum is {actual[:12]}… instead of {written[:12]}…")
    return bare


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, more than {MOST_DIGITS}")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, more than {MOST_DIGITS}")
    return float(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := _float(text)):
        raise ValueError(f"the number {text} is out of range")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object repeats a name")
    return content


def _check_values(content: Any, strict: bool) -> None:
    """Bound the depth, and refuse text that has no UTF-8, such as half of a surrogate pair."""
    level = [[content]]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for values in level:
            for value in values:
                if isinstance(value, dict):
                    below += [list(value), list(value.values())]
                elif isinstance(value, list):
                    below.append(value)
                elif strict and isinstance(value, str) and not value.isascii():
                    # but the bytes of a file's name that is not UTF-8, as Python escapes them, are recorded as they are
                    value.encode(errors="surrogateescape")
        if not (level := below):
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def quoted(value: object) -> str:
    """Return what a message shows of a value that was read back."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"
