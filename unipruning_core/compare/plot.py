"""A plot of perplexity against sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from unipruning_core.compare.table import DENSE, Row
from unipruning_core.tools.bench.plot import check_drawer


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a PNG: one line per method and budget, with an interval at each point, and N:M as separate marks."""
    figure = check_drawer().Figure(figsize=(8, 5), layout="constrained")
    draw(figure.add_subplot(), rows, title)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)


def draw(axes: Any, rows: Sequence[Row], title: str) -> None:
    """Draw the lines on a logarithmic axis; rows that are not finite have no point."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not isfinite(row.high):
            continue
        if row.method == DENSE:
            axes.axhline(row.perplexity, color="black", linewidth=0.8, linestyle=":", label=DENSE)
            continue
        sparsity, slash, budget = row.sparsity.partition("/")
        name = f"{row.method} {sparsity}" if ":" in sparsity else f"{row.method}{slash}{budget}"
        groups.setdefault(name, []).append(row)
    for name, points in groups.items():
        points.sort(key=lambda row: row.pruned)
        below = [row.perplexity - row.low for row in points]
        above = [row.high - row.perplexity for row in points]
        axes.errorbar(
            [100 * row.pruned for row in points],
            [row.perplexity for row in points],
            [below, above],
            marker="x" if len(points) == 1 else "o",
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_xlabel("weights pruned, % of all targets")
    axes.set_ylabel("perplexity")
    axes.set_title(title)
    axes.legend(fontsize="small")
