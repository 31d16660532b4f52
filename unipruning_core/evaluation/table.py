"""The table of an evaluation, as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from unipruning_core.evaluation.measures import MEAN, Difference, Measure, difference, mean_difference, mean_of
from unipruning_core.storage.files import write_json, write_text


@dataclass(frozen=True)
class Row:
    """One figure of one checkpoint; None stands for what is unknown or the first checkpoint's own."""

    task: str
    metric: str
    model: str
    items: int  # tokens' windows for a perplexity; 0 for the mean of a group
    value: float  # infinite for a broken model's perplexity
    stderr: float | None
    difference: float | None  # to the first checkpoint
    difference_stderr: float | None  # over the same items, paired


def rows_of(measured: Mapping[str, Sequence[Measure]]) -> list[Row]:
    """Return the rows, figure by figure in the order of the first model, whose own come first."""
    models = list(measured)
    first = measured[models[0]]
    reference = {(one.task, one.metric): one for one in first}
    order = {key: place for place, key in enumerate(reference)}
    rows = [
        _row(one, model, None if model == models[0] else difference(one, reference.get((one.task, one.metric))))
        for model in models
        for one in measured[model]
    ]
    rows.sort(key=lambda row: order.get((row.task, row.metric), len(order)))
    for model in models:
        if (mean := mean_of(measured[model])) is not None:
            paired = None if model == models[0] else mean_difference(measured[model], first)
            rows.append(_row(mean, model, paired))
    return rows


def _row(measure: Measure, model: str, paired: Difference | None) -> Row:
    return Row(
        measure.task,
        measure.metric,
        model,
        len(measure.items),
        measure.value,
        measure.stderr,
        None if paired is None else paired.value,
        None if paired is None else paired.stderr,
    )


def to_text(rows: Sequence[Row]) -> str:
    """Format the table for a terminal, a block for each figure."""
    width = max(len("task"), *(len(row.task) for row in rows))
    named = max(len("model"), *(len(row.model) for row in rows))
    metrics = max(len("metric"), *(len(_metric(row)) for row in rows))
    lines = [
        f"{'task':{width}}  {'metric':{metrics}}  {'model':{named}}  {'items':>6} {'value':>9} {'s.e.':>8}"
        f" {'difference':>11} {'s.e.':>8}"
    ]
    before = None
    for row in rows:
        same = (row.task, row.metric) == before
        before = (row.task, row.metric)
        lines.append(
            f"{'' if same else row.task:{width}}  {'' if same else _metric(row):{metrics}}  {row.model:{named}}"
            f"  {row.items or '':>6} {_number(row.value, row):>9} {_number(row.stderr, row):>8}"
            f" {_number(row.difference, row, sign='+'):>11} {_number(row.difference_stderr, row):>8}".rstrip()
        )
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per row, with the fields of ``Row`` as header; unknown values are empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [item.name for item in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def write_results(path: Path, rows: Sequence[Row], fingerprints: Mapping[str, str]) -> None:
    """Write the rows by model as strict JSON, under lm-eval's names of figures; what is not finite is null."""
    content = []
    for model, fingerprint in fingerprints.items():
        tasks: dict[str, dict[str, float | None]] = {}
        perplexities: dict[str, dict[str, float | int | None]] = {}
        for row in rows:
            if row.model != model or row.task == MEAN:
                continue
            name, _, chosen = row.metric.partition(",")
            kinds = {
                "": row.value,
                "_stderr": row.stderr,
                "_difference": row.difference,
                "_difference_stderr": row.difference_stderr,
            }
            if chosen:
                figures = tasks.setdefault(row.task, {})
                figures |= {f"{name}{kind},{chosen}": _finite(value) for kind, value in kinds.items()}
            else:
                perplexities[row.task] = {
                    "windows": row.items,
                    **{f"{name}{kind}": _finite(value) for kind, value in kinds.items()},
                }
        content.append({"model": model, "fingerprint": fingerprint, "tasks": tasks, "perplexity": perplexities})
    write_json(path, {"models": content})


def _metric(row: Row) -> str:
    return row.metric.removesuffix(",none")


def _number(value: float | None, row: Row, sign: str = "") -> str:
    if value is None:
        return ""
    digits = 4 if "," in row.metric or row.task == MEAN else 3
    return f"{value:{sign}.{digits}f}" if abs(value) < 10000 else f"{value:{sign}.4g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
