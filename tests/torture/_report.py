"""What the torture found: one line a case, a table by class, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One case: what was done to what, and the fault, if any."""

    group: str  # kill, signal, damage, crafted, pair
    kind: str
    where: str
    fault: str | None
    detail: str = ""
    outcome: str = "right"  # right, same, other input, refused


def table(results: Sequence[Result]) -> str:
    """Return the table by class, and every fault below it."""
    lines = [f"{'class':52} {'tried':>6} {'right':>6} {'faults':>6}  outcomes"]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.group, result.kind), []).append(result)
    for (group, kind), cases in sorted(groups.items()):
        lines.append(_line(f"{group}: {kind}", cases))
    lines += ["", *(_line(f"all of {group}", _of(group, results)) for group in sorted({r.group for r in results}))]
    faults = [result for result in results if result.fault]
    lines += ["", *(f"{r.group}: {r.kind}, {r.where}: {shortened(r.fault)}" for r in faults)]
    return "\n".join(lines)


def shortened(text: str | None) -> str:
    return " ".join((text or "").split())[:240]


def _of(group: str, results: Iterable[Result]) -> list[Result]:
    return [result for result in results if result.group == group]


def _line(label: str, cases: Sequence[Result]) -> str:
    faults = sum(case.fault is not None for case in cases)
    outcomes = Counter(case.outcome for case in cases if case.fault is None and case.outcome != "right")
    shown = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"{label[:52]:52} {len(cases):6} {len(cases) - faults:6} {faults:6}  {shown}".rstrip()


def write(results: Sequence[Result], path: Path, about: dict[str, object]) -> None:
    """Write every case as JSON."""
    path.write_text(json.dumps({**about, "cases": [asdict(result) for result in results]}, indent=1) + "\n")
