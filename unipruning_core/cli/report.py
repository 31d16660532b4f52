"""The command that shows searches and pruned checkpoints on one page: report."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipruning_core.cli.arguments import Command, progress_from
from unipruning_core.errors import OutputError
from unipruning_core.report.folders import find_folders
from unipruning_core.startup import collector_at_rest
from unipruning_core.storage.outputs import check_apart, check_file, errors_as_output_errors

DETAILS = """\
One HTML file that needs no network and no other file: the sparsity ratio of every layer and projection, what each lost,
how the scores are spread, loss and threshold along the search, perplexity and accuracy against sparsity, what was left
dense and why, where everything comes from, and the commands.  What each layer lost and how its scores are spread needs
the run folder too.  A folder that holds one checkpoint for each sparsity stands for all of them.

examples
  unipruning report pruned-run pruned --out report.html
  unipruning report wanda-run wanda --results table/results.json --out report.html --figures figures
"""


def add_commands(command: Command) -> None:
    parser = command("report", _report, "show searches and pruned checkpoints on one page of HTML", DETAILS)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN|DIR", help="run folders and pruned checkpoints of one model"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the page to write, such as report.html"
    )
    parser.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="figures of quality to show: the results.json of compare or eval, or what 'perplexity --json' printed; "
        "may be repeated",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="folder for every figure by itself, as SVG and, with matplotlib, as PNG",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing page and existing figures")


def _report(options: argparse.Namespace) -> int:
    folders = find_folders(options.folders)
    given = [*folders.runs, *folders.outputs]
    with errors_as_output_errors(options.out, "file"):
        _check_free(options.out, options.out.is_file(), options.out.exists(), overwrite=options.overwrite)
        check_apart(options.out, "folder", given)
    check_file(options.out)
    if (drawn := options.figures) is not None:
        with errors_as_output_errors(drawn, "folder"):
            taken = drawn.exists() and not (drawn.is_dir() and not any(drawn.iterdir()))
            _check_free(drawn, drawn.is_dir(), taken, overwrite=options.overwrite)
            check_apart(drawn, "folder", given)
    with collector_at_rest(ours=True):
        from unipruning_core.report.job import write_report

    written = write_report(folders, options.results, options.out, drawn, progress_from(options))
    print(f"report {written.page}: {written.size / 1e3:.0f} kB, {len(written.figures)} figures")
    if drawn is not None:
        formats = (
            "as SVG and PNG" if written.png else "as SVG alone, since PNG needs matplotlib: pip install matplotlib"
        )
        print(f"figures in {drawn}, {formats}")
    return 0


def _check_free(path: Path, ours: bool, taken: bool, *, overwrite: bool) -> None:
    if taken and not (overwrite and ours):
        raise OutputError(f"{str(path)!r} exists; choose another, or pass --overwrite to replace what is in it")
