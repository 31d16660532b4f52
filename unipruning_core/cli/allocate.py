"""The command that makes budgets from a search: allocate."""

from __future__ import annotations

import argparse
from fractions import Fraction
from functools import partial
from pathlib import Path

from unipruning_core.cli.arguments import Command, add_backend, add_model, write_result
from unipruning_core.errors import ConfigError, OutputError
from unipruning_core.progress import Bars
from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import parse_sparsity

DETAILS = """\
Writes a budget's file for 'unipruning project ... --sparsity @FILE'; the overall ratio is met exactly.

schemes
  owl     more sparsity where few Wanda scores of a decoder block are outliers, the same for all rows of a block
          (arXiv 2310.05175); RUN is a search of --mode frozen
  fisher  rows of a matrix by what the loss says of them; RUN is a search of
          --mode feedback --local-exponent 0 --ramp-sparsity 0 --learning-rate 0

example
  unipruning search ./model --out wanda --mode frozen --metric wanda
  unipruning allocate ./model wanda --scheme owl --sparsity 60% --out owl-60.json
  unipruning project ./model wanda --sparsity @owl-60.json --out pruned
"""


def add_commands(command: Command) -> None:
    parser = command(
        "allocate", _allocate, "divide a sparsity ratio among blocks or rows and write it as a budget", DETAILS
    )
    add_model(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="what 'unipruning search' wrote for this model")
    parser.add_argument("--scheme", required=True, choices=("owl", "fisher"), help="see above")
    parser.add_argument(
        "--sparsity", required=True, metavar="S", help="sparsity ratio of all weights together, such as 60%%"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the budget file to write")
    parser.add_argument(
        "--spread",
        default="0.08",
        metavar="X",
        help="λ: owl's ratios span 2λ, fisher's lie at most λ from the mean (default: %(default)s)",
    )
    parser.add_argument(
        "--outlier-multiple",
        type=float,
        default=5.0,
        metavar="X",
        help="M of owl, in multiples of a block's mean score (default: %(default)s)",
    )
    add_backend(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _allocate(options: argparse.Namespace) -> int:
    sparsity, spread = parse_sparsity(options.sparsity), _number(options.spread)
    if not isinstance(sparsity, Unstructured) or sparsity.scope != "auto":
        raise ConfigError(
            f"--sparsity of allocate is a ratio of all weights together, such as 60%, not {options.sparsity!r}"
        )
    if options.out.exists() and not (options.overwrite and options.out.is_file()):
        raise OutputError(f"{str(options.out)!r} exists; choose another file, or replace a file with --overwrite")
    from unipruning_core.jobs.prepared import OnDisk
    from unipruning_core.models.loading import ModelChoice
    from unipruning_core.projection.allocate import fisher_rows, owl
    from unipruning_core.search.run_folder import Run

    choice = ModelChoice(options.model, options.dtype, options.trust_remote_code)
    model = OnDisk(choice, options.backend, Bars())
    backend, checkpoint, run = model.backend, model.checkpoint, Run.open(options.run_folder)
    scheme = partial(owl, multiple=options.outlier_multiple) if options.scheme == "owl" else fisher_rows
    budget = scheme(checkpoint, run, sparsity.ratio, backend, spread=spread, progress=model.progress)
    budget.check(run.targets)
    write_result(options.out, budget.to_text())
    for pattern, cut in budget.rules:
        print(f"{cut!s:>24}  {pattern}")
    print(f"budget {options.out}: {sparsity} of {len(run.targets)} layers")
    print(f"next: unipruning project {options.model} RUN --sparsity @{options.out} --out DIR")
    return 0


def _number(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--spread must be a number such as 0.08, not {text!r}") from error
