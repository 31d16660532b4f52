"""What compare takes; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unipruning_core.cli.options import Command, Handler, add_backend, add_data, add_model
from unipruning_core.compare.methods import PRESETS, RECIPES

if TYPE_CHECKING:
    from unipruning_core.compare.plan import CompareChoice

COMPARE_DETAILS = f"""\
A method is NAME[/BUDGET][:KEY=VALUE]...
  NAME        {", ".join(RECIPES)}
  BUDGET      of unstructured sparsities: matrix, row or global; without one, what suits the method
  KEY=VALUE   any setting of the search, and samples or seq_len of its calibration

One search a method and seed serves all its sparsities.  Every search and every evaluation is kept in FOLDER: the same
command again, also after a kill, makes only what is missing, and a command with more methods, sparsities or seeds adds
to it.  FOLDER/results.csv and results.json hold the table.

examples
  unipruning compare MODEL --methods wanda,drift,feedback --sparsity 50% 60% 2:4 --out FOLDER
  unipruning compare MODEL --methods wanda/row,wanda/matrix,feedback:exponent=0.5 --sparsity 60% --out FOLDER
  unipruning compare MODEL --preset ablation --preset sensitivity --sparsity 60% --seeds 0,1,2 --out FOLDER --plot
"""


def add_compare(command: Command, run: Handler) -> None:
    parser = command(
        "compare", run, "measure several methods at several sparsities in one resumable table", COMPARE_DETAILS
    )
    add_model(parser)
    parser.add_argument("--methods", action="append", default=[], metavar="M[,M...]", help="see above")
    parser.add_argument(
        "--preset", action="append", default=[], metavar="NAME", help=f"a list of methods: {', '.join(PRESETS)}"
    )
    parser.add_argument(
        "--sparsity", action="extend", nargs="+", required=True, metavar="S", help="60%% or N:M, as many as you like"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where everything is kept")
    text = parser.add_argument_group("calibration")
    add_data(text, default="c4")
    text.add_argument("--samples", type=int, default=128, help="sequences (default: %(default)s)")
    text.add_argument("--seq-len", type=int, help="tokens a sequence (default: 2048, or all the model has)")
    text.add_argument("--packing", choices=("packed", "document"), default="packed", help="see 'unipruning search'")
    text.add_argument("--seeds", default="0", metavar="N[,N...]", help="of text and subsets (default: %(default)s)")
    measure = parser.add_argument_group("evaluation")
    measure.add_argument("--eval-data", default="wikitext2", help="as --data (default: %(default)s)")
    measure.add_argument("--eval-split", help="of a data set of the hub (default: test)")
    measure.add_argument("--eval-field", help="the column that holds the text (default: text)")
    measure.add_argument("--windows", type=int, help="stop after so many windows (default: the whole text)")
    measure.add_argument("--eval-seq-len", type=int, help="tokens a window (default: 2048, or all the model has)")
    machine = parser.add_argument_group("machine")
    add_backend(machine)
    machine.add_argument(
        "--keep",
        choices=("results", "runs", "checkpoints"),
        default="runs",
        help="what stays on the disk: figures alone, run folders too, or pruned checkpoints too (default: %(default)s)",
    )
    machine.add_argument("--plot", action="store_true", help="draw FOLDER/perplexity.png (needs matplotlib)")


def compare_choice(options: argparse.Namespace) -> tuple[CompareChoice, dict[str, str]]:
    """What the words ask for, and what the presets say of their methods.

    Raises:
        ConfigError: a method, sparsity or seed cannot be read.
    """
    from unipruning_core.compare.methods import parse_methods, parse_shares
    from unipruning_core.compare.plan import CompareChoice, TextChoice
    from unipruning_core.errors import ConfigError

    methods, remarks = parse_methods(options.methods, options.preset)
    try:
        seeds = [int(word) for word in options.seeds.split(",")]
    except ValueError as error:
        raise ConfigError(f"seeds are whole numbers with commas, such as 0,1,2, not {options.seeds!r}") from error
    choice = CompareChoice(
        options.model,
        options.dtype,
        options.trust_remote_code,
        options.backend,
        methods,
        parse_shares(options.sparsity),
        seeds,
        TextChoice(options.data, options.split, options.field),
        options.samples,
        options.seq_len,
        options.packing,
        TextChoice(options.eval_data, options.eval_split, options.eval_field),
        options.windows,
        options.eval_seq_len,
        options.out,
        options.keep,
    )
    return choice, remarks
