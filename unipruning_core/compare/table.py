"""The table of a comparison: medians over seeds, bootstrap intervals over windows, as text, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from unipruning_core.storage.files import write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unipruning_core.compare.runner import TableLine

RESAMPLES = 5000
LEVEL = 0.95
DENSE = "dense"


@dataclass(frozen=True)
class Row:
    """One line of the table.  A broken model has infinite perplexity; None stands for an unknown value."""

    method: str
    sparsity: str  # including its budget
    perplexity: float  # the median over seeds
    low: float  # of the interval
    high: float
    ratio: float | None  # to the first row of the same sparsity
    ratio_low: float | None
    ratio_high: float | None
    least: float  # of the seeds' perplexities
    most: float
    seeds: int
    pruned: float  # fraction of the target weights that the masks prune
    pruned_of_model: float | None  # fraction of all weights of the model
    tokens: int  # of calibration
    search_seconds: float | None
    project_seconds: float | None
    search_peak_mib: float | None
    project_peak_mib: float | None


def rows_of(lines: Sequence[TableLine], results: Sequence[Sequence[Mapping[str, Any]]]) -> list[Row]:
    """Return the rows, from the measurements of each line's cells."""
    losses = [np.array([cell["measured"]["per_window_nll"] for cell in cells], dtype=np.float64) for cells in results]
    windows = losses[0].shape[1]
    # one draw for all rows, so that ratios compare the same windows
    draw = np.random.default_rng(0).integers(windows, size=(RESAMPLES, windows))
    sampled = [resampled(nll, draw) for nll in losses]
    rows = []
    for position, (line, cells) in enumerate(zip(lines, results, strict=True)):
        first = next((i for i, other in enumerate(lines) if other.nominal == line.nominal), 0)
        perplexities, reference = _exp(losses[position].mean(axis=1)), _exp(losses[first].mean(axis=1))
        low, high = interval(sampled[position])
        ratio: tuple[float | None, ...] = (None, None, None)
        if line.method is not None:
            ratio = _ratio(perplexities, sampled[position], reference, sampled[first])
        rows.append(
            Row(
                method=line.method.label if line.method else DENSE,
                sparsity=str(line.sparsity) if line.sparsity else "",
                perplexity=float(np.median(perplexities)),
                low=low,
                high=high,
                ratio=ratio[0],
                ratio_low=ratio[1],
                ratio_high=ratio[2],
                least=float(perplexities.min()),
                most=float(perplexities.max()),
                seeds=len(perplexities),
                pruned=cells[0]["pruned"]["sparsity"] if "pruned" in cells[0] else 0.0,
                pruned_of_model=_of_model(cells[0]),
                tokens=cells[0]["search"]["tokens"] if "search" in cells[0] else 0,
                search_seconds=_median(cells, "search", "seconds"),
                project_seconds=_median(cells, "project", "seconds"),
                search_peak_mib=_median(cells, "search", "peak_mib"),
                project_peak_mib=_median(cells, "project", "peak_mib"),
            )
        )
    return rows


def resampled(nll: NDArray[np.float64], draw: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median perplexity over seeds, (resamples,), of nll (seeds, windows) for each draw of windows."""
    medians: NDArray[np.float64] = np.median(_exp(nll[:, draw].mean(axis=2)), axis=0)
    return medians


def interval(sampled: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle ``LEVEL`` of the resampled values: the percentile bootstrap."""
    tail = (1 - LEVEL) / 2
    # no interpolation, which infinite values do not allow
    low, high = np.quantile(sampled, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def to_text(rows: Sequence[Row], remarks: Mapping[str, str]) -> str:
    """Format the table for a terminal."""
    width = max(6, *(len(row.method) for row in rows))
    lines = [
        f"{'sparsity':>12} {'of model':>8}  {'method':{width}} {'perplexity':>10} {'95 %':>17} {'ratio':>6}"
        f" {'95 %':>13} {'seeds':>17} {'search':>8} {'project':>8} {'peak memory':>12} {'tokens':>8}"
    ]
    for row in rows:
        seeds = f"{_short(row.least)}-{_short(row.most)}" if row.seeds > 1 else ""
        lines.append(
            f"{row.sparsity:>12} {_percent(row.pruned_of_model):>8}  {row.method:{width}} {_short(row.perplexity):>10}"
            f" {f'{_short(row.low)}-{_short(row.high)}':>17} {_plain(row.ratio):>6}"
            f" {_plain(row.ratio_low) + '-' + _plain(row.ratio_high) if row.ratio else '':>13} {seeds:>17}"
            f" {_seconds(row.search_seconds, row):>8} {_seconds(row.project_seconds, row):>8}"
            f" {f'{row.search_peak_mib:.0f} MiB' if row.search_peak_mib else '':>12} {row.tokens or '':>8}"
        )
    shown = {row.method for row in rows}
    explained = [f"  {text}: {remark}" for text, remark in remarks.items() if text.partition("/")[0] in shown]
    return "\n".join([*lines, "", *explained])


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per row, with the fields of ``Row`` as header; unknown values are empty."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [item.name for item in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    partial.replace(path)


def write_results(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write the rows and what they describe as strict JSON: values that are not finite are null."""
    plain = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in item.items()}
        for item in map(asdict, rows)
    ]
    write_json(path, {**json.loads(json.dumps(about)), "rows": plain})


def _ratio(
    perplexities: NDArray[np.float64],
    perplexities_sampled: NDArray[np.float64],
    first: NDArray[np.float64],
    first_sampled: NDArray[np.float64],
) -> tuple[float, float, float]:
    # the ratio of two infinite values is NaN
    with np.errstate(invalid="ignore"):
        return float(np.median(perplexities) / np.median(first)), *interval(perplexities_sampled / first_sampled)


def _exp(nll: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.exp(nll)


def _median(cells: Sequence[Mapping[str, Any]], stage: str, key: str) -> float | None:
    known = [cell[stage][key] for cell in cells if stage in cell and cell[stage][key] is not None]
    return median(known) if known else None


def _of_model(cell: Mapping[str, Any]) -> float | None:
    """Return the fraction of the model that is pruned; records of before it was counted lack it."""
    if "pruned" not in cell:
        return 0.0
    of_model: float | None = cell["pruned"].get("model", {}).get("sparsity")
    return of_model


def _percent(value: float | None) -> str:
    return "" if not value else f"{value:.1%}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.4g}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _seconds(value: float | None, row: Row) -> str:
    if value is None:
        return "" if row.method == DENSE else "?"
    return f"{value:.1f} s"
