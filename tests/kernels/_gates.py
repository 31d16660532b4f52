"""The performance bar: what every kernel costs, in perf_bar.json beside the kernels so that a change shows in its diff.

``python tests/kernels/_gates.py`` writes what the installed triton compiles to; with TRITON_INTERPRET=1 it writes the
memory traffic.  The tests compare against the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton
from _gates_cases import cases

from unipruning_kernels import reference
from unipruning_kernels.triton_launch import interpreted

BAR = Path(reference.__file__).with_name("perf_bar.json")
TRITON = "triton " + ".".join(triton.__version__.split(".")[:2])

Table = dict[str, dict[str, Any]]


def read_bar() -> dict[str, Table]:
    bar: dict[str, Table] = json.loads(BAR.read_text()) if BAR.exists() else {}
    return bar


def compiled_costs(architecture: str) -> Table:
    """Of every kernel as it would be launched, by "operation: kernel"."""
    from _gates_compile import measure, recorded

    costs: Table = {}
    seen = set()
    for case in cases():
        for launch in recorded(case):
            code = launch.name, str(launch.constants), str(launch.types)
            if code in seen:
                continue
            seen.add(code)
            place = f" bit {launch.constants['below']}" if launch.name.startswith("kth") else ""
            costs[f"{case.name}: {launch.name}{place}"] = measure(launch, architecture, case.loops)
    return costs


def traffic_costs() -> Table:
    from _gates_eager import STEPS, measure_step
    from _gates_traffic import measure

    return {case.name: measure(case) for case in cases()} | {step: measure_step(step) for step in STEPS}


def worse(measured: dict[str, Any], bar: dict[str, Any]) -> list[str]:
    """Which figures are worse than the bar: larger, but for widths and the efficiency of sectors."""
    better_large = ("load bits", "store bits", "sectors")
    return [
        f"{name} {value} against {bar[name]}"
        for name, value in measured.items()
        if (value < bar[name] if name in better_large else value > bar[name])
    ]


def write_bar() -> None:
    bar = read_bar()
    if interpreted():
        bar["traffic"] = traffic_costs()
    else:
        from _gates_compile import TARGETS

        for architecture in TARGETS:
            bar[f"{TRITON} {architecture}"] = compiled_costs(architecture)
    sections = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(kernel)}: {json.dumps(cost)}" for kernel, cost in table.items())
        + "\n  }"
        for name, table in sorted(bar.items())
    ]
    # a line a kernel, so that a diff reads as a table
    BAR.write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    write_bar()
