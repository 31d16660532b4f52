"""Reports of a benchmark: a table, JSON, CSV, and the comparison with an earlier JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from unipruning_core.errors import ConfigError, reason_and_remedy
from unipruning_core.storage.documents import CHECKSUM, member, quoted, read_object, sealed, unsealed
from unipruning_core.tools.bench.cases import OPERATION_KINDS, Case
from unipruning_core.tools.bench.run import BenchLine

SCHEMA = "unipruning-bench-1"
PARTS = ("schema", "environment", "model", "baseline", "lines")  # of the document
DERIVED = ("ns_per_element", "gb_per_second", "percent_of_copy", "bytes_at_copy_speed", "speedup")
HEADER = (
    f"{'backend':8} {'operation':20} {'shape':>12} {'dtype':8} {'median ms':>10} {'p20':>9} {'p80':>9} {'ns/el':>7} "
    f"{'GB/s':>8} {'% of copy':>9} {'B/el':>6} {'at copy':>8}"
)
EXPLAINED = (
    "B/el: the minimum bytes per element that any implementation moves, which GB/s counts; at copy: what a copy moves "
    "in the same time"
)


def table_row(line: BenchLine) -> str:
    """Format one line of the table, without a time if the result is wrong."""
    start = f"{line.backend:8} {line.operation:20} {_shape(line):>12} {line.dtype:8}"
    if line.median is None or line.p20 is None or line.p80 is None:
        return f"{start} WRONG: {line.wrong}"
    times = f"{line.median * 1e3:10.3f} {line.p20 * 1e3:9.3f} {line.p80 * 1e3:9.3f} {line.ns_per_element:7.3f}"
    memory = f"{line.gb_per_second:8.1f} {line.percent_of_copy:9.1f} {line.least_bytes:6.2f}"
    ratio = f"   {line.speedup:.1f}x" if line.speedup else ""
    return f"{start} {times} {memory} {line.bytes_at_copy_speed:8.2f}{ratio}"


def _shape(line: BenchLine) -> str:
    return f"{line.layers} layers" if line.shape == "sum" else line.shape


def to_json(lines: Sequence[BenchLine], environment: dict[str, Any], *, model: str | None, baseline: str | None) -> Any:
    """Return the versioned document that ``--compare`` reads."""
    rows = [asdict(line) | {name: getattr(line, name) for name in DERIVED} for line in lines]
    return sealed(dict(zip(PARTS, (SCHEMA, environment, model, baseline, rows), strict=True)))


def to_csv(lines: Sequence[BenchLine]) -> str:
    """Return CSV text with one row per line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [*(field.name for field in fields(BenchLine)), *DERIVED]
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()


def read_earlier(path: Path) -> dict[str, Any]:
    """Read what an earlier ``--json`` wrote.

    Raises:
        ConfigError: the file is missing, or of another kind.
    """
    try:
        earlier = read_object(path)
        if (schema := earlier.get("schema")) != SCHEMA:
            raise ConfigError(
                f"{str(path)!r} does not have the schema {SCHEMA!r} but {quoted(schema)}; pass a file that --json wrote"
            )
        return _checked(earlier)
    except OSError as error:
        reason = reason_and_remedy(error, "pass a file that --json wrote", path)
        raise ConfigError(f"{str(path)!r} cannot be compared with: {reason}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} cannot be compared with: {error}; pass a file that --json wrote") from error


def _checked(earlier: dict[str, Any]) -> dict[str, Any]:
    """Return a whole and valid document without its checksum, which those of before 0.2.0 lack."""
    if CHECKSUM in earlier:
        earlier = unsealed(earlier)
    # the name of the checksum may be what is damaged
    if unknown := sorted(earlier.keys() - set(PARTS)):
        raise ValueError(f"{unknown[0]!r} is unknown")
    surroundings = member(earlier, "environment", dict)
    member(surroundings, "date", str)
    devices = member(surroundings, "devices", dict)
    for name in devices:
        member(devices, name, str)
    for line in member(earlier, "lines", list):
        for name in ("backend", "operation", "shape", "dtype"):
            member(line, name, str)
        if member(line, "layers", int) < 1:
            raise ValueError(f"'layers' is {quoted(line['layers'])}")
        times = [member(line, name, int | float | None) for name in ("median", "p20", "p80")]
        if times != [None] * 3 and any(time is None or time <= 0 for time in times):
            raise ValueError(f"the times of {line['operation']!r} are {quoted(times)}")
    return earlier


def compare(lines: Sequence[BenchLine], earlier: dict[str, Any]) -> list[str]:
    """Return each line's speedup over its earlier time; where p20 to p80 overlap no difference is claimed."""
    before = {_key(row): row for row in earlier["lines"]}
    rows = []
    for line in lines:
        label = f"{line.backend:8} {line.operation:20} {_shape(line):>12} {line.dtype:8}"
        old = before.get(_key(asdict(line)))
        if line.median is None or line.p20 is None or line.p80 is None:
            rows.append(f"{label} wrong now")
        elif old is None or old["median"] is None:
            rows.append(f"{label} has no earlier time")
        else:
            previous = {name: old[name] * line.layers / old["layers"] for name in ("median", "p20", "p80")}
            change = "slower" if line.p20 > previous["p80"] else "faster" if line.p80 < previous["p20"] else None
            ratio = previous["median"] / line.median
            rows.append(
                f"{label} {previous['median'] * 1e3:10.3f} ms before, {ratio:5.2f}x, {change or 'no difference shown'}"
            )
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    # a layer compares with the same shape in another model, a sum only with a sum over as many layers
    layers = row["layers"] if row["shape"] == "sum" else None
    return row["backend"], row["operation"], row["shape"], row["dtype"], layers


def listing(cases: Sequence[Case]) -> list[str]:
    """List what can be measured, with its minimum bytes per element."""
    rows = [f"{case.operation:20} {case.least_bytes:6.2f} bytes per element" for case in cases]
    return [
        *rows,
        f"{len(OPERATION_KINDS)} in all; a step is the metric and the mirror step, and in drift AdamW as well",
    ]


def static_table(bar: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """List the costs of the kernels that are known without a device, one line per kernel."""
    rows = []
    for section, kernels in bar.items():
        rows.append(section)
        for kernel, figures in kernels.items():
            rows.append(f"  {kernel:52} " + "  ".join(f"{name} {value:g}" for name, value in figures.items()))
    return rows
