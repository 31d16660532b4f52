"""A record of an earlier command as options: run.json of a search, unipruning.json of a projection."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unipruning_core.errors import ConfigError, reason_and_remedy
from unipruning_core.projection.report import KEEP_PER_ROW, REPORT_FILE, REVISION
from unipruning_core.search.choice import own_settings
from unipruning_core.search.finished import COMPILED, NOT_COMPILED, RUN_FILE
from unipruning_core.search.modes import MODES
from unipruning_core.storage.documents import CHECKSUM, member, quoted, read_object, unsealed

RUN, CHECKPOINT = "unipruning-run/", "unipruning-checkpoint-"  # with which their formats begin
REPEATING = ("prune", "search", "project", "plan")  # commands that a record gives options to


@dataclass(frozen=True)
class Record:
    """Options by destination, and what is to be said of where they come from."""

    values: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def recorded(path: Path, command: str) -> Record | None:
    """Return the options that a record holds, or None for JSON that is no record.

    Raises:
        ConfigError: it cannot be read, is damaged, or is nothing that the command could repeat.
    """
    try:
        content = read_object(path)
        if not str(version_of := content.get("format", "")).startswith((RUN, CHECKPOINT)):
            return None
        if command not in REPEATING:
            raise ConfigError(
                f"{str(path)!r} records what {', '.join(REPEATING[:-1])} and {REPEATING[-1]} can repeat, which "
                f"{command!r} cannot; pass a recipe"
            )
        record = unsealed(content) if CHECKSUM in content else content
        if version_of.startswith(CHECKPOINT):
            return _of_projection(record)
        folder = {"run_folder": path.parent} if command == "project" else {}
        search = _of_search(record)
        return Record(search.values | folder, search.remarks)
    except OSError as error:
        reason = reason_and_remedy(error, "check the path", path)
        raise ConfigError(f"record {str(path)!r} cannot be read: {reason}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is no whole record ({error}); pass {RUN_FILE} or {REPORT_FILE}") from error


def _of_projection(report: Mapping[str, Any]) -> Record:
    """Return the options of the projection, and of the search before it."""
    search = _of_search(member(report, "provenance", dict))
    sparsity = member(report, "sparsity", str)
    options: dict[str, Any] = {KEEP_PER_ROW: report.get(KEEP_PER_ROW, 0), "backend": member(report, "backend", str)}
    if REVISION in report:
        options["revision"] = report[REVISION]
    if sparsity.startswith("@"):  # the content of a budget is in no record
        return Record(
            search.values | options, [*search.remarks, f"made with the budget {sparsity}, whose content it lacks"]
        )
    return Record(search.values | options | {"sparsity": [sparsity]}, search.remarks)


def _of_search(record: Mapping[str, Any]) -> Record:
    """Return the options of a search from its record, or from what a projection repeats of it."""
    settings, model, data = (member(record, name, dict) for name in ("settings", "model", "data"))
    if (mode := member(settings, "mode", str)) not in MODES:
        raise ValueError(f"'mode' is {quoted(mode)}")
    options: dict[str, Any] = {**own_settings(settings), "backend": member(record, "backend", str)}
    options |= {"model": member(model, "name", str)} | ({"revision": model["revision"]} if "revision" in model else {})
    options |= {name: data[name] for name in ("samples", "seq_len", "packing", "dtype", "tokenizer") if name in data}
    options |= {name: data[name] for name in ("split", "text_column") if name in data}
    options["data"] = member(data, "source", str)
    if "sources" in data:
        parts = member(data, "sources", list)
        options["data"] = {member(part, "source", str): member(part, "weight", int | float) for part in parts}
    if record.get("skipped"):  # samples, which are left out only where that is asked for
        options["skip_nonfinite"] = True
    if COMPILED in record or NOT_COMPILED in record:
        options["compile"] = True
    # which records of earlier versions lack
    patterns = member({"target_patterns": {}, **record}, "target_patterns", dict)
    options |= {name: member(patterns, name, list) for name in ("include", "exclude") if name in patterns}
    return Record(options, _of_other_versions(member({"versions": {}, **record}, "versions", dict)))


def _of_other_versions(versions: Mapping[str, str]) -> list[str]:
    """Return a remark where this is not the software that made the record."""
    here = {"python": platform.python_version()}
    for package in versions:
        with suppress(PackageNotFoundError):
            here.setdefault(package, version(package))
    others = [f"{name} {was}, here {here.get(name)}" for name, was in versions.items() if here.get(name) != was]
    return [f"made with {'; '.join(others)}: results may differ in their last bits"] if others else []
