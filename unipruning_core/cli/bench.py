"""The commands that look at machines: bench, doctor and plan; a part of the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.options import Command, search_settings
from unipruning_core.cli.options_bench import add_bench, add_doctor, add_plan
from unipruning_core.errors import OutputError

if TYPE_CHECKING:
    from unipruning_core.tools.bench.run import Bench, Line
    from unipruning_core.tools.plan.plan import Plan

GIB, GB = 2**30, 1e9


def add_commands(command: Command) -> None:
    """Declare the three."""
    add_bench(command, _bench)
    add_doctor(command, _doctor)
    add_plan(command, _plan)


def _bench(options: argparse.Namespace) -> int:
    from unipruning_core.cli.choose_bench import choose_backends, choose_bench
    from unipruning_core.testing import oracle
    from unipruning_core.tools.bench.report import EXPLAINED, HEADER, compare, read_earlier, table_row, to_csv, to_json
    from unipruning_core.tools.bench.run import run, summed
    from unipruning_core.tools.environment import environment

    if options.static:
        return _static()
    bench = choose_bench(options)
    if options.list:
        return _list(bench)
    earlier = read_earlier(options.compare) if options.compare else None
    if options.plot:
        from unipruning_core.tools.bench.plot import check_drawer

        check_drawer()
    backends, devices = choose_backends(options.backend)
    around = environment(devices)
    for name, detail in around["devices"].items():
        print(f"{name}: {detail}")
    print(f"torch {around['packages']['torch']}, {around['threads']} threads, load {around['load']}\n")
    print(HEADER + (f"   {options.baseline} / this" if options.baseline else ""))
    lines: list[Line] = []
    pairs = [(backend, oracle.plain_torch(backend.device_type)) for backend in backends]
    for line in run(bench, pairs, lambda backend, name, call, rows: oracle.verify(backend, name, *call, rows)):
        lines.append(line)
        print(table_row(line), flush=True)
    if options.model:
        print()
        sums = summed(lines)
        lines += sums
        for line in sums:
            print(table_row(line))
    print(f"\n{EXPLAINED}")
    if earlier:
        print(f"\ncompared with {earlier['environment']['date']}, {earlier['environment']['devices']}")
        print("\n".join(compare(lines, earlier)))
    written = to_json(lines, around, model=options.model, baseline=options.baseline)
    if options.json:
        _write(options.json, json.dumps(written, indent=1) + "\n")
    if options.csv:
        _write(options.csv, to_csv(lines))
    if options.plot:
        _plot(lines, options.plot, ", ".join(around["devices"].values()))
    return 1 if any(line.wrong for line in lines) else 0


def _plot(lines: Sequence[Line], path: Path, title: str) -> None:
    from unipruning_core.tools.bench.plot import plot

    try:
        plot(lines, path, title)
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}; choose another file") from error


def _list(bench: Bench) -> int:
    from unipruning_core.tools.bench.report import listing

    first = next(iter(bench.shapes))
    cases = [case for case, _ in bench.cases() if (case.rows, case.cols) == first and case.dtype == bench.dtypes[0]]
    print("\n".join(listing(cases)))
    return 0


def _static() -> int:
    from unipruning_core.testing.oracle import perf_bar
    from unipruning_core.tools.bench.report import static_table

    print("\n".join(static_table(perf_bar())))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from unipruning_core.extensions import load_extensions

    # before anything imports torch, which the doctor does
    extensions = load_extensions()
    from unipruning_core.tools.doctor import MARKS, examine

    report = examine(extensions)
    for check in report.checks:
        print(f"{MARKS[check.ok]:4} {check.name:28} {check.detail}")
    if options.json:
        _write(options.json, json.dumps(report.to_json(), indent=1) + "\n")
    return 0 if report.ok else 1


def _plan(options: argparse.Namespace) -> int:
    from unipruning_core.models.loading import window_length
    from unipruning_core.models.outline import outline
    from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
    from unipruning_core.tools.plan.plan import Machine, plan_search

    settings, sparsities = search_settings(options), [parse_sparsity(text) for text in options.sparsity]
    if sparsities:
        check_distinct(sparsities)
    found = outline(options.model, dtype=options.dtype, trust_remote_code=options.trust_remote_code)
    plan = plan_search(
        found,
        settings,
        backend=options.backend,
        samples=options.samples,
        seq_len=window_length(found.config, options.seq_len),
        sparsities=sparsities,
        machine=Machine(
            options.bandwidth and options.bandwidth * 1e9,
            options.flops and options.flops * 1e12,
        ),
    )
    _show_plan(plan)
    if options.json:
        _write(options.json, json.dumps(plan.to_json(), indent=1) + "\n")
    return 0


def _show_plan(plan: Plan) -> None:
    print(
        f"{plan.model}, {plan.dtype}: {plan.parameters / 1e9:.2f} G parameters, "
        f"{plan.targets} targets with {plan.weights / 1e9:.2f} G weights; {len(plan.left_out)} matrices stay dense"
    )
    print(f"\nmemory at the peak {plan.held / GIB:12.1f} GiB")
    for part, size in plan.memory.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    print(f"\none sample of {plan.seq_len} tokens, {plan.samples} in all")
    print(f"  {'the model, operations':32} {plan.model_flops / 1e12:8.2f} TFLOP")
    print(f"  {'the model, traffic':32} {plan.model_bytes / GB:8.2f} GB")
    moved = sum(plan.step_bytes.values())
    print(f"\none step, {plan.steps} in all: {moved * plan.weights / GB:.2f} GB, at least {moved:.1f} bytes a weight")
    for part, least in plan.step_bytes.items():
        print(f"  {part:32} {least:8.2f} B/weight")
    if plan.reference:
        print(f"  backend {plan.backend} leaves to the reference, which moves more: {', '.join(plan.reference)}")
    print("\non disk")
    for part, size in plan.files.items():
        print(f"  {part:32} {size / GIB:8.2f} GiB")
    for sparsity, pruned in plan.pruned.items():
        print(f"  {sparsity} prunes {pruned} of {plan.weights} weights ({pruned / plan.weights:.4%})")
    _show_seconds(plan)


def _show_seconds(plan: Plan) -> None:
    from unipruning_core.tools.plan.plan import FORMULA

    if plan.seconds is None:
        print("\nno time is predicted: say what the device does with --bandwidth GB/S and --flops TFLOP/S")
        return
    parts = ", ".join(f"{part} {taken:.1f} s" for part, taken in plan.seconds.items() if part != "all")
    print(f"\npredicted, at best: {plan.seconds['all']:.1f} s ({parts})\n  = {FORMULA}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}; choose another file") from error
