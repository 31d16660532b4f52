"""The commands that show a pruned checkpoint to others: card and push."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipruning_core.cli.arguments import Command, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.startup import collector_at_rest

CARD_DETAILS = """\
Every pruned checkpoint has a model card, README.md: base model and licence, method, sparsity, calibration, and the
commands that make it.  This puts what 'unipruning eval' has measured of exactly these weights between its two lines
<!-- figures --> and <!-- end of figures -->; all else in the card stays as it is.

example
  unipruning card pruned --results evaluation/results.json
"""
PUSH_DETAILS = """\
Sends the checkpoint, its card, masks and report to a repository of the hub, which is made if there is none.  The report
and the masks are checked first.  --dry-run lists the files and needs no network.

examples
  unipruning push pruned NAME/model-60-pruned --dry-run
  unipruning push pruned NAME/model-60-pruned --results evaluation/results.json --private
"""


def add_commands(command: Command) -> None:
    card = command("card", _card, "put measured figures into the model card of a pruned checkpoint", CARD_DETAILS)
    _add_pruned(card)
    card.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="the results.json of 'unipruning eval'"
    )
    push = command("push", _push, "send a pruned checkpoint with its model card to the hub", PUSH_DETAILS)
    _add_pruned(push)
    push.add_argument("repository", metavar="REPO", help="OWNER/NAME on the hub, or NAME of the user who is logged in")
    push.add_argument("--results", type=Path, metavar="FILE", help="figures for the card first, from 'unipruning eval'")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--branch", metavar="NAME", help="branch to commit to, made if there is none (default: main)")
    push.add_argument("--message", metavar="TEXT", help="message of the commit (default: what it is pruned to)")
    push.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def _add_pruned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pruned", type=Path, metavar="DIR", help="a folder that 'unipruning project' wrote")


def _card(options: argparse.Namespace) -> int:
    check_first(options, "pruned")
    with collector_at_rest(ours=True):
        from unipruning_core.sharing.figures import add_figures

    add_figures(options.pruned, options.results)
    print(f"figures of {options.results} are in {options.pruned / 'README.md'}")
    return 0


def _push(options: argparse.Namespace) -> int:
    check_first(options, "pruned")
    with collector_at_rest(ours=True):
        from unipruning_core.progress import size_text
        from unipruning_core.sharing.push import push

    names = ("repository", "results", "private", "branch", "message", "dry_run")
    sent = push(options.pruned, **{name: getattr(options, name) for name in names}, progress=progress_from(options))
    print("\n".join(f"  {name}" for name in sent.files))
    total = f"{len(sent.files)} files, {size_text(sent.size)}"
    print(f"{total}: {sent.address}" if sent.address else f"{total}, would go to {sent.repository}")
    return 0
