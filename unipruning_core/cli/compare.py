"""The commands that compare with other methods; a part of the command line."""

from __future__ import annotations

import argparse

from unipruning_core.cli.options import Command, data_choice, given, model_choice
from unipruning_core.cli.options_compare import add_compare, compare_choice
from unipruning_core.cli.options_sparsegpt import add_sparsegpt
from unipruning_core.cli.progress import TerminalProgress


def add_commands(command: Command) -> None:
    """Declare the two."""
    add_compare(command, _compare)
    add_sparsegpt(command, _sparsegpt)


def _compare(options: argparse.Namespace) -> int:
    from unipruning_core.compare.job import run_compare

    choice, remarks = compare_choice(options)
    print(run_compare(choice, remarks, plot=options.plot, progress=TerminalProgress()))
    return 0


def _sparsegpt(options: argparse.Namespace) -> int:
    from unipruning_core.compare.settings import SparseGptSettings
    from unipruning_core.compare.sparsegpt_job import run_sparsegpt
    from unipruning_core.search.choice import built, flags
    from unipruning_core.sparsity.parse import parse_sparsity

    done = run_sparsegpt(
        model_choice(options),
        data_choice(options),
        built(SparseGptSettings, given(options, flags({"sparsegpt": SparseGptSettings})), "SparseGPT"),
        parse_sparsity(options.sparsity),
        options.out,
        backend=options.backend,
        overwrite=options.overwrite,
        progress=TerminalProgress(),
    )
    print(f"{done.sparsity!s:>12}  {done.path}  pruned {done.pruned} of {done.total} weights, others changed")
    return 0
