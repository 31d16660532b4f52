"""The command that measures backends: bench."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import Command, add_revision
from unipruning_core.cli.parser import checked_by
from unipruning_core.errors import ConfigError, OutputError, reason_and_remedy
from unipruning_core.models.named import check_outline
from unipruning_core.storage.outputs import check_file, write_whole
from unipruning_core.tools.bench.names import check_baseline, check_dtypes, check_operation

if TYPE_CHECKING:
    from unipruning_core.tools.bench.run import Bench, BenchLine

DETAILS = """\
Every result is compared with the definition on the same inputs before it is timed; a wrong one is not timed, and the
command exits with 1.  Each time is shown beside that of a copy of the same bytes in the same run.

examples
  unipruning bench --baseline released
  unipruning bench mirror_step nm_mask --backend all --model llama-2-7b --json new.json --compare old.json
"""


def add_commands(command: Command) -> None:
    parser = command("bench", _bench, "measure the operations of a backend, each checked before it is timed", DETAILS)
    parser.add_argument(
        "operations",
        nargs="*",
        default=[],
        type=checked_by(check_operation),
        metavar="OP",
        help="operations to measure, see --list (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and their minimum memory traffic")
    parser.add_argument(
        "--static", action="store_true", help="print the costs of the kernels that are known without a device"
    )
    parser.add_argument(
        "--backend", default="auto", help="auto, all, or names separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--baseline",
        type=checked_by(check_baseline),
        help="also time another implementation: eager (the definition in plain torch), released (the eager formulation "
        "of the released code), or compile (the definition under torch.compile)",
    )
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument(
        "--model", help="take the shapes from a model: a built-in name, a folder or file with a config, or a hub id"
    )
    add_revision(parser)
    shapes.add_argument("--shape", action="append", metavar="RxC", help="shape of the matrix (default: 4096x4096)")
    parser.add_argument(
        "--dtype",
        type=checked_by(check_dtypes),
        default="bfloat16",
        help="dtypes of weights and activations, separated by commas (default: %(default)s)",
    )
    parser.add_argument("--repeat", type=int, default=7, help="timed samples of each operation (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write results and environment to this file")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="also plot the bandwidth to this file (needs matplotlib)"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="also compare with an earlier --json")


def _bench(options: argparse.Namespace) -> int:
    if options.model:
        check_outline(options.model, options.revision)
    elif options.revision:
        raise ConfigError(f"--revision {options.revision!r} is for a model on the hub; name it with --model")
    from unipruning_core.cli.choose_bench import choose_backends, choose_bench
    from unipruning_core.testing import oracle
    from unipruning_core.tools.bench.report import EXPLAINED, HEADER, compare, read_earlier, table_row, to_csv, to_json
    from unipruning_core.tools.bench.run import run, summed
    from unipruning_core.tools.environment import environment

    if options.static:
        return _static()
    for path in filter(None, (options.json, options.csv, options.plot)):
        check_file(path)
    bench = choose_bench(options)
    if options.list:
        return _list(bench)
    earlier = read_earlier(options.compare) if options.compare else None
    if options.plot:
        from unipruning_core.tools.bench.plot import check_drawer

        check_drawer()
    backends, devices = choose_backends(options.backend)
    surroundings = environment(devices)
    for name, detail in surroundings["devices"].items():
        print(f"{name}: {detail}")
    print(
        f"torch {surroundings['packages']['torch']}, {surroundings['threads']} threads, load {surroundings['load']}\n"
    )
    print(HEADER + (f"   {options.baseline} / this" if options.baseline else ""))
    lines: list[BenchLine] = []
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
        there = "; ".join(f"{name}: {detail}" for name, detail in earlier["environment"]["devices"].items())
        print(f"\ncompared with {earlier['environment']['date']}, {there}")
        print("\n".join(compare(lines, earlier)))
    written = to_json(lines, surroundings, model=options.model, baseline=options.baseline)
    if options.json:
        write_whole(options.json, json.dumps(written, indent=1, allow_nan=False) + "\n")
    if options.csv:
        write_whole(options.csv, to_csv(lines))
    if options.plot:
        _plot(lines, options.plot, ", ".join(surroundings["devices"].values()))
    return 1 if any(line.wrong for line in lines) else 0


def _plot(lines: Sequence[BenchLine], path: Path, title: str) -> None:
    from unipruning_core.tools.bench.plot import plot

    try:
        plot(lines, path, title)
    except OSError as error:
        reason = reason_and_remedy(error, "choose another file", path)
        raise OutputError(f"{str(path)!r} cannot be written: {reason}") from error


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
