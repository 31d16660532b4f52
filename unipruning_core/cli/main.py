"""The entry point: all commands, and every error as one sentence.  Only commands that compute import torch.

What is imported here comes before any error is caught, so all else is imported where it is needed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from unipruning_core.cli.parser import Parser

USAGE_ERROR = 2
INTERRUPTED = 130
SILENCE = 5.0  # seconds that a process leaves to the one that tells of the same error
EARLIER_NAMES = {"reference-sparsegpt": "compare-sparsegpt"}  # of commands, accepted but not shown
DESCRIPTION = """\
Prune a large language model: one search over a little text yields a saliency for every weight, from which masks
of any sparsity, unstructured or N:M, are read off afterwards.  The original weights are never changed.

  unipruning targets MODEL                              what would be pruned
  unipruning prune MODEL --sparsity 60% --out DIR       search, then project: the one-liner
  unipruning search MODEL --out RUN                     only the search, once per model
  unipruning project MODEL RUN --sparsity 2:4 --out DIR any sparsity, as often as you like
  unipruning perplexity DIR --data wikitext2            what it cost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 with one sentence on standard error, or 130 if interrupted."""
    try:
        # what tells of an error comes first: without memory nothing can be imported any more
        from unipruning_core.cli.net import interruption, sentence
        from unipruning_core.cli.streams import exit_code, standard_streams
        from unipruning_core.distributed.launched import launched_rank
        from unipruning_core.stopping import as_stopped

        argv = list(sys.argv[1:] if arguments is None else arguments)
        with standard_streams():
            try:
                return exit_code(_run(argv))
            # the parser's, for --help and for words that it does not know
            except SystemExit as leaving:
                if leaving.code:
                    raise
                raise SystemExit(exit_code(0)) from None
            except BaseException as error:
                if "--traceback" in argv:
                    import traceback

                    traceback.print_exception(error)
                if (interrupted := interruption(error)) is not None:
                    stopped = as_stopped(interrupted)
                    if not launched_rank():  # every rank stops at the same sample
                        print(stopped, file=sys.stderr)
                    return stopped.exit_code
                _tell(sentence(error))
                return USAGE_ERROR
    # at a moment outside the two statements above
    except KeyboardInterrupt:
        return INTERRUPTED
    # too little is left to make a sentence
    except MemoryError:
        os.write(2, b"error: memory is exhausted; use a machine with more, or a smaller model or --seq-len\n")
        return USAGE_ERROR
    finally:
        _leave_other_ranks()
        # the command is over: an interruption ends the interpreter's own end, without a traceback
        if arguments is None:
            _end_at_an_interruption()


def _leave_other_ranks() -> None:
    if "unipruning_core.distributed.world" in sys.modules:
        from unipruning_core.distributed.world import leave

        leave()


def _tell(told: str) -> None:
    """Print what is wrong, once where several processes find the same."""
    from unipruning_core.distributed.launched import launched_rank, speaks_for_its_machine

    rank = launched_rank()
    if rank and "unipruning_core.distributed.peers" in sys.modules:
        from unipruning_core.distributed.peers import is_joined, is_told

        if is_told(told):
            return
        if is_joined():
            told = told if told.startswith("rank ") else f"rank {rank}: {told}"
            print(f"error: {told}", file=sys.stderr)
            return
    # what is wrong between ranks may be seen by one alone
    if speaks_for_its_machine() or told.startswith("rank "):
        print(f"error: {told}", file=sys.stderr)
    else:
        import time

        # a launcher ends the others with the first that ends, even before one has spoken
        time.sleep(SILENCE)
    if "unipruning_core.distributed.peers" in sys.modules:
        from unipruning_core.distributed.peers import wait_to_be_heard

        wait_to_be_heard()


def _end_at_an_interruption() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(argv: list[str]) -> int:
    import logging

    command = next((position for position, word in enumerate(argv) if not word.startswith("-")), None)
    if command is not None:
        argv[command] = EARLIER_NAMES.get(argv[command], argv[command])
    from unipruning_core.cli.resolve import dumped, parsed

    options = parsed(parser := build_parser(), argv)
    if options.dump_config:
        print(dumped(options, parser.commands[options.name]), end="")
        return 0
    os.getcwd()  # libraries end the process, or find nothing, in a folder that is gone
    logging.basicConfig(format="%(message)s", level=logging.ERROR if options.quiet else logging.WARNING)
    # warnings of transformers are for those who write models, not for those who prune them
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # threads that wait for each other give way, or on cores with other work they keep each other from it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from unipruning_core.cli.arguments import progress_from
    from unipruning_core.distributed.launched import launched, only_the_first_speaks
    from unipruning_core.errors import ConfigError
    from unipruning_core.stopping import signals_as_exceptions

    if launched() and not options.over_ranks:
        raise ConfigError(f"{options.name} {options.alone} start it without torchrun")
    with signals_as_exceptions(), only_the_first_speaks():
        for remark in options.remarks:
            progress_from(options).note(f"{options.config}: {remark}")
        return int(options.run(options))


def build_parser() -> Parser:
    """Return the parser of all commands and their options."""
    import argparse

    from unipruning_core.cli import (
        allocate,
        bench,
        compare,
        demo,
        dequantize,
        evaluate,
        export,
        machine,
        perplexity,
        plan,
        prune,
        report,
        share,
        size,
        targets,
        zeros,
    )
    from unipruning_core.cli.parser import Parser, Version
    from unipruning_core.cli.resolve import add_config

    parser = Parser("unipruning", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action=Version)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from, before the sentence about it"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = "") -> Any:
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # after the command too, where one adds it to a command that has failed
        sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument(
            "-q", "--quiet", action="store_true", help="no progress and no notes: results and errors alone"
        )
        sub.set_defaults(run=run, name=name, over_ranks=False, alone="runs in one process;")
        parser.commands[name] = sub
        add_config(sub)
        return sub

    before = (targets, plan, prune, allocate, dequantize)
    after = (perplexity, evaluate, compare, report, size, zeros, export, share)
    for part in (*before, *after, demo, machine, bench):
        part.add_commands(command)
    return parser
