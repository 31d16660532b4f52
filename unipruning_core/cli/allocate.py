"""The command that makes budgets from a search: allocate."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from unipruning_core.cli.arguments import (
    Command,
    add_backend,
    add_model_files,
    add_sparsity,
    note_unused_dtype,
    progress_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.cli.parser import OneSparsity
from unipruning_core.errors import ConfigError, OutputError
from unipruning_core.sparsity.allocation import check_multiple, parse_spread
from unipruning_core.sparsity.forms import Unstructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.outputs import check_apart, check_file, errors_as_output_errors, write_whole

DETAILS = """\
Writes a budget file for 'unipruning project ... --sparsity @FILE'; the overall ratio is met exactly.

schemes
  owl     prunes decoder blocks more if fewer of their Wanda scores are outliers, at one ratio for all rows of a block
          (arXiv 2310.05175); needs a RUN of --mode frozen
  fisher  keeps more weights in those rows of a matrix that have more Fisher information; needs a RUN of
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
    add_model_files(parser)
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder that 'unipruning search' wrote for this model"
    )
    parser.add_argument("--scheme", required=True, choices=("owl", "fisher"), help="how to divide the ratio, see above")
    about = "sparsity ratio over all weights, such as 60%%"
    add_sparsity(parser, about, required=True, action=OneSparsity, metavar="S")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the budget file to write")
    parser.add_argument(
        "--spread",
        default="0.08",
        metavar="X",
        help="λ: the ratios of owl span 2λ, those of fisher lie within λ of the mean (default: %(default)s)",
    )
    parser.add_argument(
        "--outlier-multiple",
        type=float,
        default=5.0,
        metavar="X",
        help="M of owl: outliers exceed M times the mean score of their block (default: %(default)s)",
    )
    add_backend(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _allocate(options: argparse.Namespace) -> int:
    sparsity, spread = parse_sparsity(options.sparsity), parse_spread(options.spread)
    check_multiple(options.outlier_multiple)
    if not isinstance(sparsity, Unstructured) or sparsity.scope != "auto":
        raise ConfigError(
            f"--sparsity of allocate must be a ratio of all weights together, such as 60%, not {options.sparsity!r}"
        )
    with errors_as_output_errors(options.out, "file"):
        if options.out.exists() and not (options.overwrite and options.out.is_file()):
            raise OutputError(
                f"{str(options.out)!r} exists; choose another file, or pass --overwrite to replace a file"
            )
        check_apart(options.out, "run folder", [options.run_folder])
        if os.path.isdir(options.model):
            check_apart(options.out, "model", [Path(options.model)])
    check_file(options.out)
    check_first(options, "backend", "model", "run_folder")
    note_unused_dtype(options)
    with collector_at_rest(ours=True):
        from unipruning_core.jobs.opened import OnDisk
        from unipruning_core.models.loading import ModelChoice
        from unipruning_core.projection.allocate import fisher_rows, owl
        from unipruning_core.search.run_folder import Run

    choice = ModelChoice(options.model, trust_remote_code=options.trust_remote_code, revision=options.revision)
    model = OnDisk(choice, options.backend, progress_from(options))
    model.check_apart(options.out)
    backend, checkpoint, run = model.backend, model.checkpoint, Run.open(options.run_folder)
    scheme = partial(owl, multiple=options.outlier_multiple) if options.scheme == "owl" else fisher_rows
    budget = scheme(checkpoint, run, sparsity.ratio, backend, spread=spread, progress=model.progress)
    budget.check(run.targets)
    write_whole(options.out, budget.to_text())
    for pattern, cut in budget.rules:
        print(f"{cut!s:>24}  {pattern}")
    print(f"budget {options.out}: {sparsity} of {len(run.targets)} layers")
    print(f"next: unipruning project {options.model} RUN --sparsity @{options.out} --out DIR")
    return 0
