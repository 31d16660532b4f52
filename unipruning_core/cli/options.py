"""What each command takes, and how the words become settings; imports nothing heavy."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipruning_core.search.choice import Flag, flags, settings_of, spelled
from unipruning_core.search.modes import DEFAULT_MODE, MODES

if TYPE_CHECKING:
    from unipruning_core.jobs.jobs import DataChoice
    from unipruning_core.models.loading import ModelChoice
    from unipruning_core.search.settings import Settings
    from unipruning_core.sparsity.forms import Sparsity

Arguments = argparse._ActionsContainer  # a parser or a group of its options
Command = Callable[..., Any]
Handler = Callable[[argparse.Namespace], int]

SPARSITY_HELP = """how much to prune, may be given several times: 60%%/matrix of each matrix, 60%%/row of each output
row, 60%%/global of all matrices together, 60%% what suits the search, N:M such as 2:4, @FILE with a budget for
each matrix, or a choice for each, such as 2:4+dense@45%%"""
SEARCH_DETAILS = """\
A killed command resumes where it last saved when it is given again.

modes
{modes}

examples
  unipruning {examples}
"""
SEARCH_EXAMPLES = """\
search HuggingFaceTB/SmolLM2-135M --out run
  unipruning search ./model --out run --mode frozen --metric wanda --data calibration.jsonl"""
PRUNE_EXAMPLES = """\
prune HuggingFaceTB/SmolLM2-135M --sparsity 60% --out pruned
  unipruning prune ./model --sparsity 50% --sparsity 2:4 --out pruned --data calibration.jsonl --seq-len 1024"""
PROJECT_DETAILS = """\
Reads checkpoint and run folder as files; no model is built, one matrix is in memory at a time.  With one sparsity DIR
is the pruned checkpoint; with several each goes to a folder of its own inside DIR: 50, 60-row, 70-global, 2-4.
Each is a complete checkpoint that from_pretrained loads, with masks.safetensors and unipruning.json beside it.

example
  unipruning project ./model run --sparsity 50% --sparsity 60%/global --sparsity 2:4 --out pruned
"""
ALLOCATE_DETAILS = """\
Writes a budget's file for 'unipruning project ... --sparsity @FILE'; the overall share is met exactly.

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
PERPLEXITY_DETAILS = """\
The field's standard protocol: the text as one string, tokenised once, windows that do not overlap, the mean negative
log-likelihood over windows.  Figures compare only at the same text, tokenizer and --seq-len.

example
  unipruning perplexity pruned/60-row --data wikitext2 --seq-len 2048
"""


def search_details(examples: str) -> str:
    """What help says of a search, with a line for each mode."""
    modes = "\n".join(
        textwrap.fill(kind.summary, 118, initial_indent=f"  {mode:10}", subsequent_indent=" " * 12)
        for mode, kind in MODES.items()
    )
    return SEARCH_DETAILS.format(modes=modes, examples=examples)


def add_search(command: Command, run: Handler) -> None:
    details = search_details(SEARCH_EXAMPLES)
    parser = command("search", run, "find the saliency Γ of every weight and write it to a run folder", details)
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to write")
    _search_options(parser)


def add_project(command: Command, run: Handler) -> None:
    parser = command("project", run, "write pruned checkpoints of any sparsity from a finished search", PROJECT_DETAILS)
    add_model(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="what 'unipruning search' wrote for this model")
    _sparsity_and_out(parser)
    add_backend(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an output that an earlier command wrote")


def add_allocate(command: Command, run: Handler) -> None:
    parser = command("allocate", run, "divide a share among blocks or rows and write it as a budget", ALLOCATE_DETAILS)
    add_model(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="what 'unipruning search' wrote for this model")
    parser.add_argument("--scheme", required=True, choices=("owl", "fisher"), help="see above")
    parser.add_argument(
        "--sparsity", required=True, metavar="S", help="the share of all weights to prune, such as 60%%"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the budget's file to write")
    parser.add_argument(
        "--spread",
        default="0.08",
        help="λ: owl's shares span 2λ, fisher's lie at most λ from the mean (default: %(default)s)",
    )
    parser.add_argument(
        "--outlier-multiple", type=float, default=5.0, help="owl: M, of the mean of a block (default: %(default)s)"
    )
    add_backend(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def add_prune(command: Command, run: Handler) -> None:
    parser = command("prune", run, "search, then project, in one command", search_details(PRUNE_EXAMPLES))
    add_model(parser)
    _sparsity_and_out(parser)
    parser.add_argument(
        "--run", dest="run_folder", type=Path, metavar="RUN", help="where the search is kept (default: DIR-run)"
    )
    _search_options(parser)


def add_perplexity(command: Command, run: Handler) -> None:
    parser = command("perplexity", run, "measure the perplexity of a checkpoint on a text", PERPLEXITY_DETAILS)
    add_model(parser)
    add_data(parser, default="wikitext2")
    parser.add_argument("--seq-len", type=int, help="tokens a window (default: 2048, or all the model has)")
    parser.add_argument("--windows", type=int, help="stop after so many windows (default: the whole text)")
    add_backend(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, each window's loss included")


def add_demo(command: Command, run: Handler) -> None:
    parser = command(
        "demo",
        run,
        "prune a small real model at several sparsities from one search and show before and after",
        "Fetches SmolLM2-135M-Instruct and two texts (95 MB) into the user's cache the first time.",
    )
    parser.add_argument("--model", help="another model: a folder or a hub id")
    parser.add_argument("--data", help="another calibration text: a file or a data set")
    parser.add_argument("--eval-data", help="another evaluation text: a file or a data set")
    parser.add_argument("--sparsity", action="append", help="default: 50%%, 60%% and 2:4")
    parser.add_argument("--samples", type=int, default=32, help="calibration windows (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens a calibration window (default: %(default)s)")
    parser.add_argument(
        "--windows", type=int, default=16, help="evaluation windows of 1024 tokens (default: %(default)s)"
    )
    parser.add_argument("--mode", default=DEFAULT_MODE, help="the search mode (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="keep run folder and checkpoints here (default: a temporary folder)")
    add_backend(parser)


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """Which model the words name."""
    from unipruning_core.models.loading import ModelChoice

    return ModelChoice(options.model, options.dtype, options.trust_remote_code)


def data_choice(options: argparse.Namespace) -> DataChoice:
    """Which text the words name; a command without samples takes the whole of it."""
    from unipruning_core.jobs.jobs import DataChoice

    sampling = {name: getattr(options, name) for name in ("samples", "packing") if hasattr(options, name)}
    return DataChoice(options.data, options.split, options.field, seq_len=options.seq_len, **sampling)


def search_settings(options: argparse.Namespace) -> Settings:
    """The settings the words name, checked; what was not said keeps its default."""
    return settings_of(options.mode, given(options, flags()))


def sparsities(options: argparse.Namespace) -> list[Sparsity]:
    """The sparsities the words name, each once."""
    from unipruning_core.sparsity.parse import check_distinct, parse_sparsity

    parsed = [parse_sparsity(text) for text in options.sparsity]
    check_distinct(parsed)
    return parsed


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder with safetensors weights, or a hub id")
    parser.add_argument("--dtype", default="auto", help="of the loaded weights: auto, float32, bfloat16 or float16")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")


def add_backend(parser: Arguments) -> None:
    parser.add_argument("--backend", help="see 'unipruning backends' (default: $UNIPRUNING_BACKEND, else the best)")


def _sparsity_and_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sparsity", action="append", required=True, metavar="S", help=SPARSITY_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")


def add_data(parser: Arguments, default: str) -> None:
    parser.add_argument(
        "--data",
        default=default,
        help="a .jsonl, .parquet or plain text file, wikitext2, c4, or a data set of the hub (default: %(default)s)",
    )
    parser.add_argument("--split", help="of a data set of the hub (default: train to calibrate, test to evaluate)")
    parser.add_argument("--field", help="the column that holds the text (default: text)")


def add_calibration(parser: argparse.ArgumentParser) -> None:
    text = parser.add_argument_group("calibration")
    add_data(text, default="c4")
    text.add_argument("--samples", type=int, default=128, help="sequences (default: %(default)s)")
    text.add_argument("--seq-len", type=int, help="tokens a sequence (default: 2048, or all the model has)")
    text.add_argument(
        "--packing",
        choices=("packed", "document"),
        default="packed",
        help="packed: documents end to end, cut to windows; document: one document a sample (default: %(default)s)",
    )
    text.add_argument("--seed", metavar="N", help="seed of the order of the text and of random subsets (default: 0)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The mode and every setting of any mode but the seed, those of one mode alone in a group of their own."""
    method = parser.add_argument_group("method (defaults of what was published are the published values)")
    method.add_argument("--mode", help=f"{', '.join(MODES)}; see above (default: {DEFAULT_MODE})")
    groups = {mode: parser.add_argument_group(f"only --mode {mode}") for mode in MODES}
    for flag in flags():
        add_flag(groups[flag.modes[0]] if len(flag.modes) == 1 else method, flag)


def add_flag(parser: Arguments, flag: Flag) -> None:
    """One setting and, hidden, its earlier names; the seed stands beside the text it orders."""
    if flag.name == "seed":
        return
    parser.add_argument(flag.spelled, dest=flag.name, metavar=flag.metavar, help=flag.help)
    for name in flag.formerly:
        parser.add_argument(spelled(name), dest=flag.name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def given(options: argparse.Namespace, offered: Iterable[Flag]) -> dict[str, str]:
    """The words said for some settings, by field; for one that was not said there is none."""
    said = {flag.name: getattr(options, flag.name, None) for flag in offered}
    return {name: word for name, word in said.items() if word is not None}


def _search_options(parser: argparse.ArgumentParser) -> None:
    add_calibration(parser)
    add_settings(parser)
    machine = parser.add_argument_group("machine")
    add_backend(machine)
    machine.add_argument(
        "--save-every",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="save an unfinished search this often, but for at most a twentieth of the time (default: %(default)s)",
    )
    machine.add_argument(
        "--overwrite", action="store_true", help="replace what was written there; an unfinished search starts over"
    )
