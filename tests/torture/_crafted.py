"""How inputs made to do harm are made, tried and judged."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import Result
from _server import Command, Ended, cleared

Preparation = Callable[[Path], object]
WEIGHTS = "model/model.safetensors"


@dataclass
class Crafted:
    """``wanted``: "refused"; "any", which is anything but a fault; or "done"."""

    name: str
    prepare: Preparation
    words: Sequence[str]
    wanted: str = "refused"
    keeps: Sequence[str] = ()  # files that must still be there, with the same bytes
    base: str = "."  # of the template
    child: Callable[[], None] | None = None  # what is done in the process before the command


def edit(name: str, change: Callable[[Any], object], *, seal: bool = False) -> Preparation:
    """Change JSON documents, and their own checksum if wanted."""

    def prepare(work: Path) -> None:
        paths = sorted(work.glob(name))
        assert paths, name
        for path in paths:
            path.write_text(json.dumps(_changed(path, change, seal)))

    return prepare


def _changed(path: Path, change: Callable[[Any], object], seal: bool) -> Any:
    document = json.loads(path.read_text())
    sealed = document.pop("checksum", None) if seal and isinstance(document, dict) else None
    if sealed is not None and sealed != _checksum(document):
        raise NotImplementedError(f"{path.name} is sealed in another way than this test knows")
    changed = change(document)
    document = document if changed is None else changed
    if sealed is not None:
        document["checksum"] = _checksum(document)
    return document


def _checksum(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def put(key: str, value: object) -> Callable[[Any], object]:
    """Set what a dotted path leads to; Ellipsis removes it."""

    def change(document: Any) -> None:
        *path, last = key.split(".")
        for part in path:
            document = document[int(part) if isinstance(document, list) else part]
        if value is ...:
            del document[last]
        else:
            document[last] = value

    return change


def header(change: Callable[[dict[str, Any]], object]) -> Preparation:
    """Change the header of the model's weights."""

    def prepare(work: Path) -> None:
        content = (work / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        document = json.loads(content[8:end])
        change(document)
        text = json.dumps(document).encode()
        (work / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

    return prepare


def replaced(name: str, make: Callable[[Path], object]) -> Preparation:
    def prepare(work: Path) -> None:
        (work / name).unlink(missing_ok=True)
        make(work / name)

    return prepare


def write(name: str, content: bytes) -> Preparation:
    def prepare(work: Path) -> None:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)

    return prepare


def nothing(_: Path) -> None: ...


def cut(pattern: str) -> Preparation:
    def prepare(work: Path) -> None:
        for path in work.glob(pattern):
            path.write_bytes(path.read_bytes()[:60])

    return prepare


def attempt(case: Crafted, template: Path, folder: Path, _: random.Random) -> Result:
    """Do one and judge."""
    work = cleared(folder / "work")
    shutil.copytree(
        template / case.base, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("state-*", "placing", "tmp")
    )
    try:
        case.prepare(work)
    except NotImplementedError as error:
        return Result("crafted", case.name, "", f"not tried: {error}")
    kept = {name: (work / name).read_bytes() for name in case.keeps}
    ended = Command(case.words, work, *([case.child] if case.child else [])).ended(30.0)
    fault = _wrong(case, ended)
    lost = [
        name for name, content in kept.items() if not (work / name).exists() or (work / name).read_bytes() != content
    ]
    if lost:
        fault = f"{lost[0]} is lost; {fault or ended.last}"
    return Result("crafted", case.name, "", fault, outcome="refused" if ended.refused else "done")


def _wrong(case: Crafted, ended: Ended) -> str | None:
    if case.child is not None:
        # what it says cannot be read
        good = (0,) if case.wanted == "done" else (0, 2, 141)
        return None if ended.status in good and not ended.hung else f"exit {ended.status}: {ended.last}"
    if ended.fault:
        return f"{ended.fault}: {ended.last}"
    if case.wanted != "any" and not ended.refused:
        return "taken without a word"
    return None
