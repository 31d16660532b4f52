"""The commands that prune: prune, search and project."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipruning_core.cli.arguments import (
    Command,
    add_backend,
    add_calibration,
    add_model,
    add_model_files,
    add_settings,
    add_sparsity,
    add_targets,
    calibration_from,
    loading_from,
    note_unused_dtype,
    progress_from,
    settings_from,
    targets_from,
)
from unipruning_core.cli.dequantize import model_of
from unipruning_core.cli.early import check_first
from unipruning_core.cli.parser import checked_by
from unipruning_core.cli.places import place_of, placed
from unipruning_core.cli.presets import PRESETS, check_preset, described
from unipruning_core.models.layout import OFFLOADS, size_of
from unipruning_core.progress import size_text
from unipruning_core.search.intervals import SAVE_EVERY, Interval
from unipruning_core.search.modes import MODES
from unipruning_core.search.settings import RECOMPUTATION
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.sparsity.per_row import check_keep_per_row
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.files import bytes_in
from unipruning_core.storage.outputs import folder_beside

SEARCH_DETAILS = """\
A command that was killed, or stopped by Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2, goes on from where it last
saved when run again.

modes
{modes}

presets, of which any option that is given beats its part
{presets}

examples
  unipruning {examples}
"""
SEARCH_EXAMPLES = """\
search HuggingFaceTB/SmolLM2-135M --out run
  unipruning search ./model --out run --mode frozen --metric wanda --data calibration.jsonl
  torchrun --nproc-per-node 8 -m unipruning_core search ./model --out run --batch-size 8      # docs/distributed.md"""
PRUNE_EXAMPLES = """\
prune HuggingFaceTB/SmolLM2-135M --sparsity 60% --out pruned
  unipruning prune ./model --sparsity 50% 2:4 --out pruned --data calibration.jsonl --seq-len 1024"""
PROJECT_DETAILS = """\
Reads checkpoint and run folder as files: no model is built, and only one matrix is in memory at a time.  With one
sparsity DIR is the pruned checkpoint; with several, each goes to its own folder in DIR: 50, 60-row, 70-global, 40-model
or 2-4.  Each is a complete checkpoint that from_pretrained loads, with its masks and unipruning.json beside it.
Under torchrun each process prunes some of the matrices; the result is the same to the byte.

example
  unipruning project ./model run --sparsity 50% 60%/global 2:4 --out pruned
"""
SEARCHED = ("dtype", "backend", "model", "tokenizer", "data")  # what a search is given and can be checked first
OVERWRITE_HELP = "replace an output that an earlier command wrote"


def add_commands(command: Command) -> None:
    prune = command("prune", _prune, "search, then project, in one command", _search_details(PRUNE_EXAMPLES))
    add_model(prune)
    _sparsity_and_out(prune)
    prune.add_argument(
        "--run", dest="run_folder", type=Path, metavar="RUN", help="folder to keep the search in (default: DIR-run)"
    )
    _search_options(prune)

    summary = "find the saliency Γ of every weight and write it to a run folder"
    search = command("search", _search, summary, _search_details(SEARCH_EXAMPLES))
    add_model(search)
    search.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to write")
    _search_options(search)

    project = command(
        "project", _project, "write pruned checkpoints of any sparsity from a finished search", PROJECT_DETAILS
    )
    add_model_files(project)
    project.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder that 'unipruning search' wrote for this model"
    )
    _sparsity_and_out(project)
    add_backend(project)
    project.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    for parser in (prune, search, project):
        parser.set_defaults(over_ranks=True)


def _search_details(examples: str) -> str:
    modes = "\n".join(
        textwrap.fill(kind.summary, 118, initial_indent=f"  {mode:10}", subsequent_indent=" " * 12)
        for mode, kind in MODES.items()
    )
    return SEARCH_DETAILS.format(modes=modes, presets=described(), examples=examples)


def _sparsity_and_out(parser: argparse.ArgumentParser) -> None:
    add_sparsity(parser, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--keep-per-row",
        type=int,
        default=0,
        metavar="K",
        help="keep the K largest scores of every output row, with the same total: no output is pruned whole "
        "(default: %(default)s)",
    )


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dequantize",
        type=Path,
        metavar="DIR",
        help="write a quantised MODEL in bfloat16 to DIR first, or take it from there, and prune that",
    )
    parser.add_argument(
        "--preset", type=checked_by(check_preset), metavar="NAME", help=f"{', '.join(PRESETS)}; see above"
    )
    add_calibration(parser)
    add_targets(parser.add_argument_group("layers to prune (default: linear layers of the decoder blocks)"))
    add_settings(parser)
    machine = parser.add_argument_group("machine")
    add_backend(machine)
    machine.add_argument(
        "--save-every",
        type=checked_by(Interval.of),
        default=SAVE_EVERY,
        metavar="TIME",
        help="save an unfinished search this often: 90s, 10min or 2h, or less often where that would take more than "
        "3%% of the time; or exactly after every 32samples (default: %(default)s)",
    )
    machine.add_argument(
        "--checkpoint-activations",
        choices=RECOMPUTATION,
        default=RECOMPUTATION[0],
        help="on: compute activations again in the backward pass, for less memory, more time and the same result; "
        "auto: if they seem not to fit (default: %(default)s)",
    )
    machine.add_argument(
        "--offload",
        choices=OFFLOADS,
        default=OFFLOADS[0],
        help="where weights and state lie while another block computes: cpu (pinned memory of the host) or disk (files "
        "in the run folder) let a search larger than the device run, one block at a time; auto: only if it does not "
        "fit (default: %(default)s)",
    )
    machine.add_argument(
        "--copies",
        type=int,
        default=1,
        help="copies of the model over the ranks that torchrun starts, each divided among an equal number of them, "
        "such as those of one node (default: %(default)s)",
    )
    machine.add_argument(
        "--max-memory",
        type=checked_by(size_of),
        metavar="SIZE",
        help="most memory of each device to use, such as 22GiB (default: what is free)",
    )
    machine.add_argument(
        "--skip-nonfinite",
        action="store_true",
        help="leave out samples whose loss or activations, and steps whose gradient, are NaN or infinite, and name "
        "them (default: the first one ends the search)",
    )
    machine.add_argument(
        "--compile",
        action="store_true",
        help="run the decoder blocks compiled by torch.compile, all but their matrices, which takes a minute at the "
        "start and rounds in another way; in one process only (default: they run as they are)",
    )
    machine.add_argument(
        "--overwrite",
        action="store_true",
        help=f"{OVERWRITE_HELP}, once the new one is whole; an unfinished search goes on if it is the same",
    )


def _prune(options: argparse.Namespace) -> int:
    sparsities, settings, targets = _sparsities(options), settings_from(options), targets_from(options)
    check_first(options, *SEARCHED)
    options.model = model_of(options)
    with collector_at_rest(ours=True):
        from unipruning_core.jobs import api

    run_folder = options.run_folder or folder_beside(options.out)
    projected = api.prune(
        options.model,
        sparsity=sparsities,
        out=options.out,
        keep_per_row=options.keep_per_row,
        run=run_folder,
        mode=settings,
        **_how(options),
        **targets,
        **calibration_from(options),
        **loading_from(options),
    )
    _print_projected(projected)
    print(
        f"other sparsities from the same search, kept in {_sized(run_folder)}: "
        f"unipruning project {options.model} {run_folder} --sparsity ..."
    )
    return 0


def _search(options: argparse.Namespace) -> int:
    settings, targets = settings_from(options), targets_from(options)
    check_first(options, *SEARCHED)
    options.model = model_of(options)
    with collector_at_rest(ours=True):
        from unipruning_core.jobs import api

    run = api.search(
        options.model,
        out=options.out,
        mode=settings,
        **_how(options),
        **targets,
        **calibration_from(options),
        **loading_from(options),
    )
    weights = sum(target.size for target in run.targets)
    of_model = f", {weights / run.model_weights:.1%} of the model" if run.model_weights else ""
    print(f"run folder {_sized(run.folder)}: Γ of {len(run.targets)} layers with {weights} weights{of_model}")
    print(f"next: unipruning project {options.model} {run.folder} --sparsity 60% --out DIR")
    return 0


def _how(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a search that are neither of its model, text and targets nor settings of its mode."""
    names = ("save_every", "checkpoint_activations", "copies", "offload", "max_memory", "skip_nonfinite", "compile")
    return {name: getattr(options, name) for name in (*names, "overwrite")}


def _project(options: argparse.Namespace) -> int:
    sparsities = _sparsities(options)
    check_first(options, "backend", "model", "run_folder")
    note_unused_dtype(options)
    with collector_at_rest(ours=True):
        from unipruning_core.jobs import results

    projected = results.project(
        options.model,
        options.run_folder,
        sparsity=sparsities,
        out=options.out,
        keep_per_row=options.keep_per_row,
        backend=options.backend,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        overwrite=options.overwrite,
        progress=progress_from(options),
    )
    _print_projected(projected)
    return 0


def _sparsities(options: argparse.Namespace) -> list[Any]:
    with placed(place_of(options, "sparsity")):
        parsed = [parse_sparsity(text) for text in options.sparsity]
        check_distinct(parsed)
    check_keep_per_row(options.keep_per_row, parsed)
    return parsed


def _sized(folder: Path) -> str:
    """Return the name of a folder with what it takes on disk."""
    return f"{folder} ({size_text(bytes_in(folder))})"


def _print_projected(projected: Sequence[Any]) -> None:
    for result in projected:
        ratio, of_model = result.pruned / result.total, result.pruned / result.model_weights
        print(
            f"{result.sparsity!s:>12}  {_sized(result.path)}  pruned {result.pruned} of {result.total} target weights "
            f"({ratio:.4%}), {of_model:.4%} of the model's {result.model_weights}; zeros {result.zero_fraction:.4%}"
        )
