"""The command that lists what a search would prune: targets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unipruning_core.cli.arguments import Command, add_outline, add_revision, add_targets, targets_from
from unipruning_core.models.choice import TargetChoice
from unipruning_core.models.named import check_outline
from unipruning_core.startup import collector_at_rest

if TYPE_CHECKING:
    from unipruning_core.tools.listing import Group, Listing

DETAILS = """\
Reads the config, and the names of the tensors where MODEL is a folder with weights; nothing is loaded, so a model of
any size is listed in seconds.  Matrices whose names differ in numbers alone are one line, whose name is a pattern for
--include and --exclude: the same flags of prune, search and compare choose what you see here.

A pattern is compared with the whole name of a weight in the checkpoint or in the model, with or without its last part
(".weight"): * matches anything, dots too, ? one character, [...] one of several; re: begins a regular expression.

  --exclude '*.down_proj.weight'    as by default, but these stay dense
  --include '*.experts.*'           nothing but the experts
  --include '*' --exclude lm_head   every linear layer, wherever it is, but the last

examples
  unipruning targets ./model
  unipruning targets llama-2-7b --exclude 're:model\\.layers\\.(0|31)\\..*'
"""


def add_commands(command: Command) -> None:
    summary = "list what would be pruned, what stays dense and why, with the fractions of the model"
    parser = command("targets", _targets, summary, DETAILS)
    add_outline(parser)
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add_revision(parser)
    add_targets(parser)
    parser.add_argument("--all", action="store_true", help="list every matrix by itself")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _targets(options: argparse.Namespace) -> int:
    choice = TargetChoice(**targets_from(options))
    check_outline(options.model, options.revision)
    with collector_at_rest(ours=True):
        from unipruning_core.models.outline import outline
        from unipruning_core.tools.listing import listing

    model = outline(
        options.model,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        choice=choice,
        headers=True,
    )
    found = listing(model, each=options.all)
    if options.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _show(found)
    return 0


def _show(found: Listing) -> None:
    print(
        f"{found.model}, {found.dtype}: {_short(found.weights)} weights, {_short(found.outside)} of them outside "
        f"embeddings\n\npruned: {found.matrices} matrices with {_short(found.pruned)} weights, "
        f"{found.pruned / found.weights:.1%} of the model, {found.pruned / found.outside:.1%} outside embeddings"
    )
    _show_groups(found.targets, found.weights)
    print(f"\nleft dense: {_short(found.weights - found.pruned)} weights")
    _show_groups(found.dense, found.weights)


def _show_groups(groups: Iterable[Group], weights: int) -> None:
    print(f"  {'matrices':>8} {'shape':>18} {'weights':>9} {'of model':>8}  name")
    for group in groups:
        shape = " x ".join(map(str, group.shape))
        why = f"  ({group.why})" if group.why else ""
        print(
            f"  {group.count or '':>8} {shape:>18} {_short(group.weights):>9} {group.weights / weights:>8.2%}  "
            f"{group.name}{why}"
        )


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
