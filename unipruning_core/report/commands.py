"""The commands that make what a report shows, written anew from what the folders record."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unipruning_core.report.gather import Gathered
from unipruning_core.search.finished import COMPILED
from unipruning_core.search.run_document import REVISION, TARGETS
from unipruning_core.search.words import search_words


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
    name = str(model.get("name", "MODEL"))
    compiles, revision = COMPILED in description, model.get(REVISION)
    words = search_words(name, description["settings"], data, chosen, revision=revision, compiles=compiles)
    return shlex.join([*words, "--out", str(path)])


def _joined(words: Iterable[object]) -> str:
    return shlex.join(["unipruning", *map(str, words)])
