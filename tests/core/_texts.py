"""Texts that the tests write."""

from __future__ import annotations

import json
from pathlib import Path

ROWS = [{"text": "one fish"}, {"text": ""}, {"text": "two\nfish"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
