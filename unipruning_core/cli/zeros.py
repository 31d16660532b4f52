"""The command that says what a quantiser, a merge or training has left of the zeros: check-zeros."""

from __future__ import annotations

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import Command, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.errors import CheckpointError, ConfigError
from unipruning_core.startup import collector_at_rest

if TYPE_CHECKING:
    from unipruning_core.tools.zeros.check import Checked, Zeros

DETAILS = """\
Compares the masks beside PRUNED with what was made of it, one matrix at a time: how many of the pruned weights are
still exactly zero, how many kept weights became zero, and whether N:M holds.  RESULT is a folder or a file of
safetensors (plain, FP8 or int8 with scales, packed codes and bitmasks of compressed-tensors, MXFP4), or a GGUF file,
which needs pip install gguf.  docs/after-pruning.md says which formats keep zeros.

examples
  unipruning check-zeros pruned tuned
  unipruning check-zeros pruned model-Q4_0.gguf --require 100%
"""


def add_commands(command: Command) -> None:
    summary = "count the pruned weights that are still zero in a quantised, merged or tuned result"
    parser = command("check-zeros", _check_zeros, summary, DETAILS)
    parser.add_argument("pruned", type=Path, metavar="PRUNED", help="a folder that 'unipruning project' wrote")
    parser.add_argument("result", type=Path, metavar="RESULT", help="what was made of it")
    parser.add_argument(
        "--require", metavar="P%", help="exit with 1 if fewer of the pruned weights are zero, such as 100%%"
    )
    parser.add_argument("--all", action="store_true", help="list every matrix by itself")
    parser.add_argument("--json", action="store_true", help="print JSON, with every matrix")


def _check_zeros(options: argparse.Namespace) -> int:
    required = _required(options.require)
    check_first(options, "pruned")
    if not options.result.exists():
        raise CheckpointError(f"result {str(options.result)!r} does not exist; pass a folder or a file")
    with collector_at_rest(ours=True):
        from unipruning_core.tools.zeros.check import check_zeros

    checked = check_zeros(options.pruned, options.result, progress_from(options))
    if options.json:
        print(json.dumps(checked.to_json(), indent=1, allow_nan=False))
    else:
        _show(checked, each=options.all)
    overall = checked.overall
    return 0 if overall.still_zero >= required * overall.masked else 1


def _required(text: str | None) -> Fraction:
    if text is None:
        return Fraction(0)
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?%", text) or (required := Fraction(text[:-1]) / 100) > 1:
        raise ConfigError(f"--require must be a percentage of at most 100%, not {text!r}")
    return required


def _show(checked: Checked, *, each: bool) -> None:
    from unipruning_core.tools.listing import NUMBER
    from unipruning_core.tools.zeros.check import together

    groups: dict[tuple[str, str], list[Zeros]] = {}
    for matrix in checked.matrices:
        pattern = matrix.name if each else NUMBER.sub("*", matrix.name)
        groups.setdefault((pattern, matrix.stored), []).append(matrix)
    print(f"{'matrices':>8} {'stored':>8} {'pruned':>12} {'still zero':>11} {'kept, now zero':>14} {'N:M':>12}  name")
    for (name, _), members in groups.items():
        _show_line(together(members[0].name if len(members) == 1 else name, members))
    _show_line(checked.overall)


def _show_line(zeros: Zeros) -> None:
    held = f"{zeros.pattern} {'broken' if zeros.broken_groups else 'holds'}" if zeros.pattern else "-"
    print(
        f"{zeros.matrices:>8} {zeros.stored:>8} {zeros.masked:>12} {_percent(zeros.still_zero, zeros.masked):>11} "
        f"{_percent(zeros.became_zero, zeros.kept):>14} {held:>12}  {zeros.name}"
    )


def _percent(part: int, whole: int) -> str:
    """Return a percentage that says 100 or 0 of all and of none only."""
    if not whole:
        return "-"
    shown = f"{part / whole:.4%}"
    if part not in (0, whole) and shown in ("100.0000%", "0.0000%"):
        return ">99.9999%" if part * 2 > whole else "<0.0001%"
    return shown
