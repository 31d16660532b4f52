"""The entry point: all commands, and every error as one sentence.  Only commands that compute import torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from unipruning_core.cli import allocate, bench, compare, demo, machine, perplexity, plan, prune
from unipruning_core.errors import UnipruningError
from unipruning_core.extensions import REMEDY, root_cause

USAGE_ERROR = 2
INTERRUPTED = 130
EARLIER_NAMES = {"reference-sparsegpt": "compare-sparsegpt"}  # of commands, accepted but not shown
AUTOLOAD_FAILED = "Failed to load the backend extension"
DESCRIPTION = """\
Prune a large language model: one search over a little text yields a saliency for every weight, from which masks
of any sparsity, unstructured or N:M, are read off afterwards.  The original weights are never changed.

  unipruning prune MODEL --sparsity 60% --out DIR       search, then project: the one-liner
  unipruning search MODEL --out RUN                     only the search, once per model
  unipruning project MODEL RUN --sparsity 2:4 --out DIR any sparsity, as often as you like
  unipruning perplexity DIR --data wikitext2            what it cost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 with one sentence on standard error."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    command = next((position for position, word in enumerate(argv) if not word.startswith("-")), None)
    if command is not None:
        argv[command] = EARLIER_NAMES.get(argv[command], argv[command])
    options = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # warnings of transformers are for those who write models, not for those who prune them
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return int(options.run(options))
    except UnipruningError as error:
        if options.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted; the same command resumes an unfinished search", file=sys.stderr)
        return INTERRUPTED
    # on import torch loads every installed device extension, and fails with the first that does
    except RuntimeError as error:
        if AUTOLOAD_FAILED not in str(error) or options.traceback:
            raise
        print(
            f"error: torch cannot be imported because a device extension fails ({root_cause(error)}); {REMEDY}; "
            "see 'unipruning backends'",
            file=sys.stderr,
        )
        return USAGE_ERROR


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    parser = argparse.ArgumentParser(
        "unipruning", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"unipruning {version('unipruning')}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = "") -> Any:
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    for part in (prune, allocate, perplexity, demo, machine, compare, bench, plan):
        part.add_commands(command)
    return parser
