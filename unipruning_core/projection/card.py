"""``README.md`` beside a pruned checkpoint: a model card with what the report says, and nothing that it does not.

The base model's own card is kept as ``README.base.md``.  A card's figures stand between two marks, so that they can be
put in later; the text around them is the user's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unipruning_core.errors import CheckpointError, OutputError, reason_and_remedy
from unipruning_core.projection.report import KEEP_PER_ROW, REPORT_FILE, REVISION, TUNED
from unipruning_core.search.finished import COMPILED
from unipruning_core.search.modes import MODES
from unipruning_core.search.words import search_words
from unipruning_core.storage.documents import read_object
from unipruning_core.storage.files import read_bytes, write_text
from unipruning_core.storage.layout import CONFIG_FILE

CARD_FILE, BASE_CARD_FILE = "README.md", "README.base.md"
CARD = "card_sha256"  # in the report: of the card without its figures
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
NOT_MEASURED = "None were measured when this was written."
LARGEST_CARD = 1 << 20  # bytes
FRONT_MATTER = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---\s*(\r?\n|\Z)", re.DOTALL)
# of the base model's card, what holds for the pruned model too
KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")
GENERATES = "ForCausalLM"


def write_card(folder: Path, report: Mapping[str, Any], names: list[str]) -> str:
    """Write the card of a folder whose files are ``names``, which change with it, and return its digest.

    The base model's card, copied by then, gets out of the way; that of an earlier pruning is replaced, since what it
    says is of other masks.
    """
    if CARD_FILE in names:
        names.remove(CARD_FILE)
        if BASE_CARD_FILE not in names:
            (folder / CARD_FILE).rename(folder / BASE_CARD_FILE)
            names.append(BASE_CARD_FILE)
    text = card_text(report, base_metadata(folder / BASE_CARD_FILE), _generates(folder))
    (folder / CARD_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
    names.append(CARD_FILE)
    return _digest(text)


def has_own_words(folder: Path, report: Mapping[str, Any]) -> bool:
    """Return whether somebody has changed a card besides its figures; of cards of before a digest nothing is known."""
    if CARD not in report:
        return False
    try:
        return bool(_digest(read_bytes(folder / CARD_FILE, LARGEST_CARD).decode()) != report[CARD])
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _digest(text: str) -> str:
    """Return the sha256 of a card without what stands between its marks."""
    before, begin, rest = text.partition(BEGIN)
    return hashlib.sha256(f"{before}{begin}{rest.partition(END)[2]}".encode(errors="backslashreplace")).hexdigest()


def base_metadata(path: Path) -> dict[str, Any]:
    """Return what a card says of itself, or nothing where there is none or it cannot be read."""
    try:
        found = FRONT_MATTER.match(read_bytes(path, LARGEST_CARD).decode())
        content = yaml.safe_load(found[1]) if found else None
    # another's text, which says nothing then
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    kept = {name: content[name] for name in KEPT if name in content} if isinstance(content, dict) else {}
    return {
        name: value
        for name, value in kept.items()
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    }


def card_text(report: Mapping[str, Any], base: Mapping[str, Any], generates: bool = True) -> str:
    """Return the card of a pruned checkpoint, the same text for the same report."""
    name, sparsity = _base_name(report), str(report["sparsity"])
    front: dict[str, Any] = {"base_model": name} if REVISION in report else {}
    front |= {"library_name": "transformers", **({"pipeline_tag": "text-generation"} if generates else {}), **base}
    front |= {"tags": ["pruned", "sparse", "unipruning"]}
    rows = "\n".join(f"| {what} | {cell(value)} |" for what, value in _facts(report, base))
    commands = "\n".join(_commands(report))
    made = f"```\n{commands}\n```\n" if commands else "By scores that no search of unipruning made.\n"
    overall = report["overall"]
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {_plain(name)}, pruned to {_plain(sparsity)}

{overall["total"] - overall["kept"]:,} of {overall["total"]:,} weights of the pruned layers are zero; \
{"the kept ones were trained afterwards" if report.get(TUNED) else "the kept ones are those of the base model"}.
It loads like the base model, is as large, and no faster by itself: zeros are stored as zeros.

| | |
| --- | --- |
{rows}

## Figures

{BEGIN}
{NOT_MEASURED}
{END}

## How it was made

{made}
`{REPORT_FILE}` has the counts of every matrix, all settings and checksums; `unipruning.masks` has the masks, one bit a
weight.
"""


def put_figures(folder: Path, figures: str) -> None:
    """Put figures into the card of a folder, in place of those that it has.

    Raises:
        CheckpointError: the card is missing, or has no place for them.
        OutputError: it cannot be written; it is as it was then.
    """
    path = folder / CARD_FILE
    try:
        text = read_bytes(path, LARGEST_CARD).decode()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"card {str(path)!r} cannot be read: {error}; project again") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CheckpointError(
            f"card {str(path)!r} has no place for figures; put the lines {BEGIN} and {END} where they belong"
        )
    try:
        write_text(path, f"{before}{BEGIN}\n{figures.strip()}\n{END}{after}")
    except OSError as error:
        reason = reason_and_remedy(error, "let it be written to", path)
        raise OutputError(f"card {str(path)!r} could not be written: {reason}") from error


def cell(text: str) -> str:
    """Return text as a cell of a table, without what would end the cell, the table or the place of figures."""
    return re.sub(r"[|`<>\r\n]", "_", text)


def _facts(report: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    overall, provenance = report["overall"], report["provenance"]
    revision = f", revision {report[REVISION]}" if REVISION in report else ""
    yield "base model", f"{_base_name(report)}{revision}"
    licence = base.get("license_name", base.get("license"))
    yield "licence", str(licence) if licence else "the base model's card names none; look there before sharing this"
    yield "sparsity", f"{report['sparsity']}: {overall['sparsity']:.4%} of the pruned layers"
    if "model" in overall:
        yield "of the whole model", f"{overall['model']['sparsity']:.4%} of {overall['model']['weights']:,} weights"
    if report.get(KEEP_PER_ROW):
        yield "kept in every row", f"at least {report[KEEP_PER_ROW]}"
    if empty := overall.get("empty_rows", 0) + overall.get("empty_columns", 0):
        yield "rows and columns pruned whole", f"{empty:,}"
    settings, data = _part(provenance, "settings"), _part(provenance, "data")
    if "mode" in settings:
        yield "method", f"{settings['mode']}, local metric {settings.get('metric')}, seed {settings.get('seed')}"
    if {"source", "samples", "seq_len"} <= data.keys():
        texts = " and ".join(_last(part["source"]) for part in data.get("sources") or [data])
        yield "calibration", f"{data['samples']} x {data['seq_len']} tokens of {texts}"
    if "sha256" in data:
        yield "sha256 of the text", str(data["sha256"])
    yield "made with", ", ".join(f"{name} {version}" for name, version in _part(provenance, "versions").items())


def _commands(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the commands that make this checkpoint, with every setting, so that later defaults change nothing."""
    provenance = report["provenance"]
    settings, data = _part(provenance, "settings"), _part(provenance, "data")
    if settings.get("mode") not in MODES or not {"source", "samples", "seq_len", "packing"} <= data.keys():
        return
    words = search_words(
        _base_name(report),
        settings,
        data,
        _part(provenance, "target_patterns"),
        revision=report.get(REVISION),
        compiles=COMPILED in provenance,
        shown=_last,
    )
    yield shlex.join([*words, "--out", "run"])
    last = ["unipruning", "project", _base_name(report), "run", "--sparsity", str(report["sparsity"])]
    keep = ["--keep-per-row", str(report[KEEP_PER_ROW])] if report.get(KEEP_PER_ROW) else []
    yield shlex.join([*last, *keep, "--out", "pruned"])


def _base_name(report: Mapping[str, Any]) -> str:
    """Return the id of a model of the hub, or else the name of its folder, without where that lies."""
    name = str(_part(report["provenance"], "model").get("name", "the base model"))
    return name if REVISION in report else _last(name)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}


def _last(name: object) -> str:
    """Return the last part of a path; a name of the hub has one slash and no file."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else str(name)
    return Path(text).name if Path(text).is_absolute() or text.count("/") != 1 or Path(text).suffix else text


def _generates(folder: Path) -> bool:
    try:
        architectures: Sequence[Any] = read_object(folder / CONFIG_FILE, strict=False).get("architectures") or ()
    except (OSError, ValueError):
        return False
    return any(str(name).endswith(GENERATES) for name in architectures)


def _plain(text: str) -> str:
    """Return text without what Markdown or a table takes for its own."""
    return re.sub(r"[^\w .:;,%/+@=()-]", "_", text)
