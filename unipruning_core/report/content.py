"""What stands on the page, section by section."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unipruning_core.report import words
from unipruning_core.report.charts import (
    Map,
    Point,
    domain_of,
    heat_map,
    histograms,
    quality_chart,
    steps_chart,
)
from unipruning_core.report.commands import commands_of
from unipruning_core.report.figure import Figure
from unipruning_core.report.gather import Gathered, Pruned, Searched
from unipruning_core.report.measured import DENSE, PERPLEXITY, Measured
from unipruning_core.report.places import Place, short_names
from unipruning_core.report.tables import (
    Table,
    left_dense,
    matrices,
    overview,
    percent,
    provenance,
    quality,
)

LARGEST_THRESHOLD = 1e38  # above it stands what a pattern keeps, whatever its score


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    title: str
    text: Sequence[str] = ()  # paragraphs
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True)
class Content:
    """The whole page."""

    title: str
    about: str
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in section.figures]


def content_of(gathered: Gathered, figures: Sequence[Measured], results: Sequence[Path]) -> Content:
    """Arrange what was read; a section without anything to show is left out."""
    outputs = gathered.outputs
    sections = [
        _maps(outputs),
        _lost(gathered),
        _quality(figures),
        _along(gathered.searches),
        _spreads(gathered),
        _left_dense(gathered),
        _matrices(outputs),
        _provenance(gathered),
        _commands(gathered, results),
    ]
    counted = [_counted(len(gathered.searches), "search", "es"), _counted(len(outputs), "pruned checkpoint", "s")]
    about = f"{gathered.model}: {' and '.join(filter(None, counted))}"
    summary = [Section("overview", "Overview", tables=[overview(gathered)])] if outputs else []
    name = re.split(r"[/\\]", gathered.model.rstrip("/\\"))[-1]
    return Content(f"Pruning report: {name}", about, [*summary, *filter(None, sections)])


def _counted(number: int, what: str, more: str) -> str:
    return f"{number} {what}{more if number > 1 else ''}" if number else ""


def _maps(outputs: Sequence[Pruned]) -> Section | None:
    if not outputs:
        return None
    domain = domain_of([cell.sparsity for output in outputs for cell in output.cells])
    text = [words.SPARSITY]
    return Section(
        "sparsity",
        "Sparsity ratio by layer and projection",
        text,
        [
            _map(output, "sparsity", {cell.place: cell.sparsity for cell in output.cells}, domain, "pruned")
            for output in outputs
        ],
    )


def _map(output: Pruned, kind: str, values: Mapping[Place, float], domain: tuple[float, float], unit: str) -> Figure:
    short = short_names(place.projection for place in values)
    layers = sorted({place.layer for place in values})
    by_cell = {(place.layer_text, short[place.projection]): value for place, value in values.items()}
    rows = list(dict.fromkeys(next(p.layer_text for p in values if p.layer == layer) for layer in layers))
    caption = f"{output.report['sparsity']}, {output.method}: {percent(output.sparsity)} of the target weights pruned"
    data = Map(rows, list(short.values()), by_cell, domain, unit)
    return heat_map(f"{kind}-{_slug(output.label)}", output.label, data, caption if kind == "sparsity" else "")


def _lost(gathered: Gathered) -> Section | None:
    known = {
        output.label: {cell.place: cell.lost for cell in output.cells if cell.lost is not None}
        for output in gathered.outputs
    }
    shown = [output for output in gathered.outputs if known[output.label]]
    if not shown:
        return None
    text = [words.LOST]
    if missing := [output.label for output in gathered.outputs if not output.lost]:
        text.append(f"Not known of {', '.join(missing)}, whose run folder was not given.")
    domain = domain_of([value for output in shown for value in known[output.label].values()])
    figures = [_map(output, "lost", known[output.label], domain, "scores lost") for output in shown]
    return Section("lost", "What each layer lost", text, figures)


def _quality(figures: Sequence[Measured]) -> Section | None:
    if not figures:
        return None
    charts = []
    for kind, subject in dict.fromkeys((figure.kind, figure.subject) for figure in figures):
        here = [figure for figure in figures if (figure.kind, figure.subject) == (kind, subject)]
        dense = next((figure.value for figure in here if figure.series == DENSE), None)
        lines: dict[str, list[Point]] = {}
        for figure in here:
            if figure.sparsity is None or figure.series == DENSE:
                continue
            line = f"{figure.series} {figure.pattern}" if ":" in figure.pattern else figure.series
            told = f"{line}, {figure.pattern}: {figure.value:.4g}"
            lines.setdefault(line, []).append(Point(figure.sparsity, figure.value, figure.low, figure.high, told))
        if lines:
            name, perplexity = f"{kind}-{_slug(subject)}", kind == PERPLEXITY
            charts.append(
                quality_chart(
                    name, f"{kind.capitalize()} of {subject}", kind, lines, dense=dense, logarithmic=perplexity
                )
            )
    text = [words.QUALITY]
    return Section("quality", "Quality against sparsity", text, charts, [quality(figures)])


def _along(searches: Sequence[Searched]) -> Section | None:
    figures = []
    for search in searches:
        slug = _slug(search.label)
        if search.losses:
            figures.append(
                steps_chart(
                    *(f"loss-{slug}", f"{search.label}: loss", "loss, nats per token", search.losses, "sample"),
                    logarithmic=False,
                )
            )
        thresholds = [value for value in search.thresholds if value < LARGEST_THRESHOLD]
        if any(thresholds):
            wide = max(thresholds) > 20 * min(value for value in thresholds if value > 0)
            figures.append(
                steps_chart(
                    *(f"threshold-{slug}", f"{search.label}: threshold", "threshold", thresholds, "step"),
                    logarithmic=wide,
                )
            )
    if not figures:
        return None
    text = [words.SEARCH]
    return Section("search", "Loss and threshold along the search", text, figures)


def _spreads(gathered: Gathered) -> Section | None:
    figures = []
    for search, scored in gathered.scored.items():
        for label, spreads in scored.spreads.items():
            name = label or search
            figures.append(histograms(f"scores-{_slug(name)}", name, spreads, masked=bool(label)))
    if not figures:
        return None
    text = [words.SCORES]
    return Section("scores", "Distribution of the scores", text, figures)


def _left_dense(gathered: Gathered) -> Section | None:
    table = left_dense(gathered)
    empty = [
        f"{output.label}: {overall['empty_rows']} output rows and {overall['empty_columns']} input columns are pruned "
        "whole."
        for output in gathered.outputs
        if "empty_rows" in (overall := output.report["overall"])
    ]
    if not table.rows and not empty:
        return None
    return Section("dense", "Left dense, and pruned whole", empty, tables=[table] if table.rows else [])


def _matrices(outputs: Sequence[Pruned]) -> Section | None:
    tables = [matrices(output) for output in outputs]
    return Section("matrices", "Every layer and projection", tables=tables) if tables else None


def _provenance(gathered: Gathered) -> Section:
    tables = [
        provenance(f"search-{_slug(search.label)}", f"Search {search.label}", _of_search(search))
        for search in gathered.searches
    ]
    for output in gathered.outputs:
        left = ("matrices", "overall", "written", "format", *(("provenance",) if output.search else ()))
        record = {"folder": str(output.path)}
        record |= {key: value for key, value in output.report.items() if key not in left}
        name, title = f"checkpoint-{_slug(output.label)}", f"Checkpoint {output.label}"
        tables.append(provenance(name, title, record, folded=bool(tables)))
    return Section("provenance", "Provenance", [words.PROVENANCE], tables=tables)


def _of_search(search: Searched) -> dict[str, object]:
    description = search.run.description
    return {"folder": str(search.path), **search.run.provenance, "files": description["files"]}


def _commands(gathered: Gathered, results: Sequence[Path]) -> Section:
    text = [words.COMMANDS]
    return Section("commands", "Commands", text, code="\n".join(commands_of(gathered, results)))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "all"
