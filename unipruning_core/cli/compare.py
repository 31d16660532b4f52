"""The commands that compare methods: compare and compare-sparsegpt."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from unipruning_core.cli.arguments import (
    SEQ_LEN_HELP,
    Command,
    add_backend,
    add_calibration,
    add_flag,
    add_model,
    add_sparsity,
    add_targets,
    add_text,
    built_from,
    calibration_from,
    loading_from,
    progress_from,
    targets_from,
)
from unipruning_core.cli.early import check_first
from unipruning_core.cli.parser import OneSparsity, checked_by
from unipruning_core.cli.presets import check_list
from unipruning_core.compare.methods import KEEPS, PRESETS, SPECS, parse_methods, parse_ratios
from unipruning_core.compare.settings import SparseGptSettings
from unipruning_core.errors import ConfigError
from unipruning_core.models.choice import TargetChoice
from unipruning_core.search.choice import built, flags
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.startup import collector_at_rest

COMPARE_DETAILS = f"""\
A method is NAME[/BUDGET][:KEY=VALUE]...
  NAME        {", ".join(SPECS)}
  BUDGET      scope of unstructured sparsities: matrix, row or global (default: the one that suits the method)
  KEY=VALUE   a setting of the method's mode, or samples or seq_len of its calibration

One search per method and seed serves all its sparsities.  Every search and evaluation is kept in FOLDER: running the
same command again, even after it was killed, does only what is missing, and a command with more methods, sparsities or
seeds adds to it.  FOLDER/results.csv and results.json hold the table.

examples
  unipruning compare MODEL --methods wanda,drift,feedback --sparsity 50% 60% 2:4 --out FOLDER
  unipruning compare MODEL --methods wanda/row,wanda/matrix,feedback:local_exponent=0.5 --sparsity 60% --out FOLDER
  unipruning compare MODEL --preset ablation --preset sensitivity --sparsity 60% --seeds 0,1,2 --out FOLDER --plot
"""
SPARSEGPT_DETAILS = """\
SparseGPT (arXiv 2301.00774) prunes layer by layer and changes the kept weights to compensate for the pruned ones.  It
is included for comparison: one run gives one sparsity, its masks fit only its own weights, and an interrupted run
starts over.

example
  unipruning compare-sparsegpt MODEL --sparsity 60% --data calibration.jsonl --out DIR
"""
SPARSEGPT_FLAGS = {"sparsegpt": SparseGptSettings}


def add_commands(command: Command) -> None:
    _add_compare(command)
    _add_sparsegpt(command)


def _add_compare(command: Command) -> None:
    summary = "measure several methods at several sparsities in one resumable table"
    parser = command("compare", _compare, summary, COMPARE_DETAILS)
    add_model(parser)
    parser.add_argument(
        "--methods",
        type=checked_by(lambda names: parse_methods([names], [])),
        action="append",
        default=[],
        metavar="M[,M...]",
        help="methods to compare, see above",
    )
    parser.add_argument(
        "--preset",
        type=checked_by(check_list),
        action="append",
        default=[],
        metavar="NAME",
        help=f"a list of methods: {', '.join(PRESETS)}",
    )
    add_sparsity(parser, "60%% or N:M, one or more", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for searches, evaluations and the table"
    )
    text = add_calibration(parser, seed=False)
    text.add_argument(
        "--seeds",
        default="0",
        metavar="N[,N...]",
        help="seeds of the order of the text and of random subsets (default: %(default)s)",
    )
    add_targets(parser.add_argument_group("layers to prune (default: linear layers of the decoder blocks)"))
    measure = parser.add_argument_group("evaluation")
    add_text(measure, "wikitext2", split="test", prefix="eval-")
    measure.add_argument("--windows", type=int, help="number of windows, from the start (default: the whole text)")
    measure.add_argument("--eval-seq-len", type=int, help=f"tokens per window ({SEQ_LEN_HELP})")
    machine = parser.add_argument_group("machine")
    add_backend(machine)
    machine.add_argument(
        "--ranks",
        type=int,
        default=1,
        metavar="N",
        help="processes of this machine that share each search, projection and evaluation, started by torchrun "
        "(default: %(default)s)",
    )
    machine.add_argument(
        "--keep",
        choices=KEEPS,
        default="runs",
        help="what to keep on disk: results only, also run folders, or also pruned checkpoints (default: %(default)s)",
    )
    machine.add_argument(
        "--skip-nonfinite", action="store_true", help="leave what is NaN or infinite out of the searches"
    )
    machine.add_argument("--plot", action="store_true", help="draw FOLDER/perplexity.png (needs matplotlib)")
    parser.set_defaults(alone="starts ranks itself: give it --ranks, and")


def _add_sparsegpt(command: Command) -> None:
    summary = "prune with SparseGPT, which changes the kept weights"
    parser = command("compare-sparsegpt", _sparsegpt, summary, SPARSEGPT_DETAILS)
    add_model(parser)
    add_sparsity(parser, "60%% of each matrix, or N:M such as 2:4", required=True, action=OneSparsity, metavar="S")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    add_calibration(parser)
    add_targets(parser)
    for flag in flags(SPARSEGPT_FLAGS):
        add_flag(parser, flag)
    parser.add_argument("--overwrite", action="store_true", help="replace an output that an earlier command wrote")
    add_backend(parser)


def _compare(options: argparse.Namespace) -> int:
    try:
        seeds = [int(word) for word in options.seeds.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--seeds must be whole numbers separated by commas, such as 0,1,2, not {options.seeds!r}"
        ) from error
    parse_methods(options.methods, options.preset)
    parse_ratios(options.sparsity)
    targets = targets_from(options)
    check_first(options, "dtype", "backend", "model", "tokenizer", "data", "eval_data")
    with collector_at_rest(ours=True):
        from unipruning_core.compare.job import compare

    measured = ("eval_data", "eval_split", "eval_text_column", "windows", "eval_seq_len")
    names = (*measured, "keep", "ranks", "skip_nonfinite", "plot", "out")
    table = compare(
        options.model,
        methods=options.methods,
        presets=options.preset,
        sparsity=options.sparsity,
        seeds=seeds,
        **{name: getattr(options, name) for name in names},
        **targets,
        **calibration_from(options),
        **loading_from(options),
    )
    print(table)
    return 0


def _sparsegpt(options: argparse.Namespace) -> int:
    settings = built_from(options, flags(SPARSEGPT_FLAGS), partial(built, SparseGptSettings, owner="SparseGPT"))
    sparsity = parse_sparsity(options.sparsity)
    targets = TargetChoice(**targets_from(options))
    check_first(options, "dtype", "backend", "model", "tokenizer", "data")
    with collector_at_rest(ours=True):
        from unipruning_core.compare.sparsegpt_job import run_sparsegpt
        from unipruning_core.data.calibration import DataChoice
        from unipruning_core.data.text import TextChoice
        from unipruning_core.jobs.opened import OnDisk
        from unipruning_core.models.loading import ModelChoice

    text = TextChoice(options.data, options.split, options.text_column)
    choice = ModelChoice(
        options.model, options.dtype, options.trust_remote_code, options.tokenizer, targets, options.revision
    )
    done = run_sparsegpt(
        OnDisk(choice, options.backend, progress_from(options)),
        DataChoice(text, options.samples, options.seq_len, options.packing),
        settings,
        sparsity,
        options.out,
        overwrite=options.overwrite,
    )
    print(
        f"{done.sparsity!s:>12}  {done.path}  pruned {done.pruned} of {done.total} target weights, "
        f"{done.pruned / done.model_weights:.4%} of the model's {done.model_weights}; others changed"
    )
    return 0
