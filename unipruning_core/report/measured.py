"""Figures of quality, read from what compare, eval and perplexity have written as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipruning_core.errors import ConfigError
from unipruning_core.projection.report import REPORT_FILE, found_report
from unipruning_core.report.words import UNKNOWN_RESULTS
from unipruning_core.storage.documents import is_number, parse_json
from unipruning_core.storage.files import read_bytes

PERPLEXITY, ACCURACY = "perplexity", "accuracy"
LARGEST = 1 << 26  # bytes
DENSE = "dense"


@dataclass(frozen=True)
class Measured:
    """One figure of one model."""

    kind: str  # PERPLEXITY or ACCURACY
    subject: str  # the text, or the task
    series: str  # the method, which one line of a figure joins; DENSE for the model itself
    model: str  # as the file names it
    sparsity: float | None  # fraction of the target weights; None if it is not known
    pattern: str  # what was asked for, such as 2:4
    value: float
    low: float | None = None  # of an interval
    high: float | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a model that a file names."""

    series: str
    sparsity: float | None
    pattern: str


Lookup = Callable[[str], Known]


def read_results(path: Path, lookup: Lookup) -> list[Measured]:
    """Read one file; what it holds is told by its members.

    Raises:
        ConfigError: it cannot be read, or holds no figures that are known.
    """
    try:
        text = read_bytes(path, LARGEST)
        found = [figure for document in _documents(text) for figure in _figures(document, lookup)]
    except OSError as error:
        raise ConfigError(f"results {str(path)!r} cannot be read: {error.strerror}; check the name") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(UNKNOWN_RESULTS.format(str(path))) from error
    if not found:
        raise ConfigError(UNKNOWN_RESULTS.format(str(path)))
    return found


def known_models(outputs: Mapping[str, Known], dense: str) -> Lookup:
    """Return what looks a model up by name: among the outputs, by real path, then in its own folder.

    ``dense`` is the name of the model before it was pruned.
    """
    by_path = {os.path.realpath(path): known for path, known in outputs.items()}

    def lookup(name: str) -> Known:
        if (place := os.path.realpath(name)) in by_path:
            return by_path[place]
        if (Path(name) / REPORT_FILE).is_file() and (report := found_report(Path(name))) is not None:
            settings = report["provenance"].get("settings", {})
            words = [str(settings[key]) for key in ("mode", "metric") if key in settings]
            return Known(" ".join(words) or name, float(report["overall"]["sparsity"]), report["sparsity"])
        if name == dense or place == os.path.realpath(dense) or os.path.isdir(name):
            return Known(DENSE, 0.0, "")
        return Known(name, None, "")

    return lookup


def _documents(text: bytes) -> Iterator[Any]:
    """Yield one document, or one a line."""
    try:
        yield parse_json(text, strict=False)
    except ValueError:
        yield from (parse_json(line, strict=False) for line in text.splitlines() if line.strip())


def _figures(document: Any, lookup: Lookup) -> Iterator[Measured]:
    if "rows" in document:
        subject = _text_name(document.get("eval_text", "the text"))
        yield from (found for row in document["rows"] for found in _of_row(row, subject))
    elif "models" in document:
        for entry in document["models"]:
            yield from _of_model(entry, lookup)
    elif "per_window_nll" in document:
        name, source = str(document.get("model", "not named")), _text_name(document["source"])
        yield from _of_perplexity(document, source, name, lookup(name))


def _of_row(row: Mapping[str, Any], subject: str) -> Iterator[Measured]:
    pruned, value = _finite(row["pruned"]), _finite(row["perplexity"])
    # a broken model has no perplexity in JSON
    if pruned is None or value is None or value <= 0:
        return
    method, sparsity = str(row["method"]), str(row["sparsity"])
    cut, slash, budget = sparsity.partition("/")
    series = method if ":" in cut else f"{method}{slash}{budget}"
    ends = _finite(row.get("low")), _finite(row.get("high"))
    yield Measured(PERPLEXITY, subject, series, method, pruned, sparsity, value, *ends)


def _of_model(entry: Mapping[str, Any], lookup: Lookup) -> Iterator[Measured]:
    model = str(entry["model"])
    known = lookup(model)
    for task, figures in entry.get("tasks", {}).items():
        named = [name for name, value in figures.items() if "stderr" not in name and _finite(value) is not None]
        metric = next((name for name in named if name.partition(",")[0] == "acc"), named[0] if named else None)
        if metric is None:
            continue
        name, comma, filtered = metric.partition(",")
        value, error = _finite(figures[metric]), _finite(figures.get(f"{name}_stderr{comma}{filtered}"))
        assert value is not None
        about = (str(task), known.series, model, known.sparsity, known.pattern)
        yield Measured(ACCURACY, *about, value, *_interval(value, error))
    for source, figures in entry.get("perplexity", {}).items():
        yield from _of_perplexity(figures, _text_name(source), model, known)


def _of_perplexity(figures: Any, source: str, model: str, known: Known) -> Iterator[Measured]:
    if not isinstance(figures, Mapping):
        figures = {"perplexity": figures}
    value, error = (_finite(figures.get(name)) for name in ("perplexity", "perplexity_stderr"))
    if value is not None and value > 0:
        about = (source, known.series, model, known.sparsity, known.pattern)
        yield Measured(PERPLEXITY, *about, value, *_interval(value, error))


def _interval(value: float, error: float | None) -> tuple[float | None, float | None]:
    """Return what lies within one standard error."""
    return (None, None) if error is None else (value - error, value + error)


def _text_name(source: object) -> str:
    """Return the name of a text without the folders that a file of it is in."""
    return os.path.basename(str(source)) if os.path.isabs(str(source)) else str(source)


def _finite(value: Any) -> float | None:
    return float(value) if is_number(value) and math.isfinite(value) else None
