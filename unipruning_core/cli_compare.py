"""The command that compares methods; a part of the command line."""

from __future__ import annotations

import argparse

from unipruning_core.cli_progress import TerminalProgress
from unipruning_core.options import Command
from unipruning_core.options_compare import add_compare, compare_choice


def add_commands(command: Command) -> None:
    """Declare it."""
    add_compare(command, _compare)


def _compare(options: argparse.Namespace) -> int:
    from unipruning_core.compare import run_compare

    choice, remarks = compare_choice(options)
    print(run_compare(choice, remarks, plot=options.plot, progress=TerminalProgress()))
    return 0
