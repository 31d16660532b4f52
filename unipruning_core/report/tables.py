"""The tables of a report, as text in cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unipruning_core.report.gather import Gathered, Pruned
from unipruning_core.report.measured import DENSE, PERPLEXITY, Measured
from unipruning_core.tools.listing import NUMBER


@dataclass(frozen=True)
class Table:
    """Rows of cells; ``numeric`` are the columns that are sorted by value."""

    name: str  # of its file
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    folded: bool = False  # shown when asked for


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def count(number: int | None) -> str:
    return "-" if number is None else str(number)


def overview(gathered: Gathered) -> Table:
    """One row for each checkpoint."""
    rows = []
    for output in gathered.outputs:
        overall = output.report["overall"]
        rows.append(
            [
                output.label,
                output.method,
                output.report["sparsity"],
                percent(output.sparsity),
                percent(overall.get("model", {}).get("sparsity")),
                percent(overall["zero_share"]),
                count(overall.get("empty_rows")),
                count(overall.get("empty_columns")),
                percent(output.lost_of_all),
            ]
        )
    columns = ["checkpoint", "search", "asked", "pruned", "of the model", "zeros in the file", "empty rows"]
    numeric = frozenset(range(3, 9))
    return Table("checkpoints", "Checkpoints", [*columns, "empty columns", "scores lost"], rows, numeric)


def matrices(output: Pruned) -> Table:
    """One row for each layer and projection."""
    rows = [
        [
            cell.place.layer_text,
            cell.place.projection,
            str(cell.matrices),
            cell.asked,
            str(cell.kept),
            str(cell.total),
            percent(cell.sparsity),
            percent(cell.lost),
            count(cell.empty_rows),
            count(cell.empty_columns),
        ]
        for cell in output.cells
    ]
    columns = ["layer", "projection", "matrices", "asked", "kept", "weights", "pruned", "scores lost", "empty rows"]
    numeric = frozenset({0, 2, *range(4, 10)})
    name = output.label.replace("/", "-")
    return Table(f"matrices-{name}", f"Matrices of {output.label}", [*columns, "empty columns"], rows, numeric, True)


def left_dense(gathered: Gathered) -> Table:
    """One row for each group of tensors that differ by numbers alone, with the reason."""
    groups: dict[tuple[str, str], int] = {}
    for search in gathered.searches:
        for name, why in search.left_out.items():
            groups[NUMBER.sub("*", name), why] = 0
        for name, why in search.left_out.items():
            groups[NUMBER.sub("*", name), why] += 1
    for output in gathered.outputs:
        for name, entry in output.report["matrices"].items():
            if entry["kept"] == entry["total"]:
                key = NUMBER.sub("*", name), f"{output.label} keeps all of it, as {entry['asked']} asks"
                groups[key] = groups.get(key, 0) + 1
    rows = [[name, str(number), why] for (name, why), number in groups.items()]
    return Table("left-dense", "Left dense", ["weights", "matrices", "why"], rows, frozenset({1}))


def quality(figures: Sequence[Measured]) -> Table:
    """One row for each figure that was measured."""
    rows = []
    for figure in figures:
        digits = 3 if figure.kind == PERPLEXITY else 4
        ends = (figure.value, figure.low, figure.high)
        numbers = ["-" if end is None else f"{end:.{digits}f}" for end in ends]
        place = "dense" if figure.series == DENSE else figure.pattern or "not known"
        about = [figure.model, figure.series, place, percent(figure.sparsity), figure.kind, figure.subject]
        rows.append([*about, *numbers])
    columns = ["model", "method", "asked", "pruned", "figure", "of", "value", "from", "to"]
    return Table("quality", "Figures", columns, rows, frozenset({3, 6, 7, 8}))


def provenance(name: str, title: str, record: Mapping[str, Any], *, folded: bool = False) -> Table:
    """One row for each recorded fact, nested names joined by dots."""
    rows = [[key, text] for key, text in _flat(record)]
    return Table(name, title, ["what", "value"], rows, folded=folded)


def _flat(record: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in record.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return found
