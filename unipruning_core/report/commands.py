"""The commands that make what a report shows, written anew from what the folders record."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unipruning_core.report.gather import Gathered
from unipruning_core.search.choice import own_settings, settings_of, spelled
from unipruning_core.search.run_document import REVISION, TARGETS


def commands_of(gathered: Gathered, results: Iterable[Path]) -> list[str]:
    """Return the search of each run folder, the projection of each checkpoint, and the report of them."""
    folders = [*(search.path for search in gathered.searches), *(output.path for output in gathered.outputs)]
    lines = [_search(search.run.description, search.path) for search in gathered.searches]
    for output in gathered.outputs:
        run = str(output.search.path) if output.search else "RUN"
        keep = output.report.get("keep_per_row", 0)
        words = ["project", gathered.model, run, "--sparsity", output.report["sparsity"]]
        lines.append(_joined([*words, *(["--keep-per-row", keep] if keep else []), "--out", output.path]))
    figures = [word for path in results for word in ("--results", path)]
    return [*lines, _joined(["report", *folders, *figures, "--out", "report.html"])]


def _search(description: Mapping[str, Any], path: Path) -> str:
    model, data, chosen = (description[name] for name in ("model", "data", TARGETS))
    words: list[object] = ["search", model.get("name", "MODEL")]
    if REVISION in model:
        words += ["--revision", model[REVISION]]
    settings = own_settings(description["settings"])
    words += ["--mode", settings["mode"], *_changed(settings)]
    for name in ("source", "samples", "seq_len", "packing", "dtype"):
        if name in data:
            words += ["--data" if name == "source" else spelled(name), data[name]]
    for name in ("include", "exclude"):
        words += [word for pattern in chosen[name] for word in (f"--{name}", pattern)]
    return _joined([*words, "--out", path])


def _changed(settings: Mapping[str, Any]) -> Iterator[object]:
    """Yield the settings that are not the mode's own."""
    usual = settings_of(settings["mode"], {}).to_json()
    for name, value in settings.items():
        if usual.get(name) != value:
            yield from (spelled(name), value)


def _joined(words: Iterable[object]) -> str:
    return shlex.join(["unipruning", *map(str, words)])
