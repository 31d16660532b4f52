"""The command that says what a pruned checkpoint takes on disk, and would take in other forms: size."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import Command, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.startup import collector_at_rest

if TYPE_CHECKING:
    from unipruning_core.tools.size import Sizes

DETAILS = """\
One table of bytes: the checkpoint as it is, with its masks and kept values alone, in 2:4 with half of the values where
the masks allow it, and compressed by zstd; then in formats of fewer bits, by the arithmetic of bits a weight.  Nothing
is written.  docs/after-pruning.md says which of these formats keep zeros.

example
  unipruning size pruned
"""


def add_commands(command: Command) -> None:
    parser = command("size", _size, "say what a pruned checkpoint takes, packed, compressed and quantised too", DETAILS)
    parser.add_argument("pruned", type=Path, metavar="DIR", help="a folder that 'unipruning project' wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _size(options: argparse.Namespace) -> int:
    check_first(options, "pruned")
    with collector_at_rest(ours=True):
        from unipruning_core.tools.size import sizes_of

    found = sizes_of(options.pruned, progress_from(options))
    if options.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _show(found)
    return 0


def _show(found: Sizes) -> None:
    dense = found.rows[0]
    print(f"{found.matrices} matrices with {found.weights} weights, {found.kept} of them kept\n")
    print(f"{'targets':>14} {'bits':>6} {'checkpoint':>14} {'of now':>7}  how         form")
    for row in found.rows:
        unfit = f" ({row.unfit} matrices do not fit and stay as they are)" if row.unfit else ""
        bits = 8 * row.targets / found.weights
        print(
            f"{row.targets:>14} {bits:>6.3f} {row.total:>14} {row.total / dense.total:>7.1%}  {row.how:11} "
            f"{row.name}{unfit}"
        )
    if found.left_out:
        print(f"\n{found.left_out}")
