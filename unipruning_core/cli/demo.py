"""The command that demonstrates pruning: demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipruning_core.cli.arguments import Command, add_backend, add_revision, add_sparsity, progress_from
from unipruning_core.cli.early import check_first
from unipruning_core.cli.parser import checked_by
from unipruning_core.errors import ConfigError
from unipruning_core.search.choice import settings_of
from unipruning_core.search.modes import DEFAULT_MODE
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity


def add_commands(command: Command) -> None:
    parser = command(
        "demo",
        _demo,
        "prune a small real model to several sparsities from one search and show before and after",
        "Downloads SmolLM2-135M-Instruct and two texts (95 MB) into the user's cache the first time.",
    )
    parser.add_argument("--model", help="prune another model: a folder or a hub id")
    add_revision(parser)
    parser.add_argument("--data", help="use another calibration text: a file or a data set")
    parser.add_argument("--eval-data", help="use another evaluation text: a file or a data set")
    add_sparsity(parser, "sparsities to prune to (default: 50%% 60%% 2:4)")
    parser.add_argument("--samples", type=int, default=32, help="calibration samples (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=512, help="tokens per calibration sample (default: %(default)s)")
    parser.add_argument(
        "--windows", type=int, default=16, help="evaluation windows of 1024 tokens (default: %(default)s)"
    )
    mode = checked_by(lambda name: settings_of(name, {}))
    parser.add_argument("--mode", type=mode, default=DEFAULT_MODE, help="mode of the search (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to keep run folder and checkpoints in, new or of an earlier demo (default: a temporary folder)",
    )
    add_backend(parser)


def _demo(options: argparse.Namespace) -> int:
    sparsities = options.sparsity or ["50%", "60%", "2:4"]
    check_distinct(map(parse_sparsity, sparsities))
    check_first(options, "backend", "model", "data", "eval_data")
    if options.revision and not options.model:
        raise ConfigError(f"--revision {options.revision!r} is for a model on the hub; name it with --model")
    from unipruning_core.tools.demo.demo import DemoChoice, run_demo

    choice = DemoChoice(
        model=options.model,
        revision=options.revision,
        data=options.data,
        eval_data=options.eval_data,
        sparsities=sparsities,
        samples=options.samples,
        seq_len=options.seq_len,
        windows=options.windows,
        mode=options.mode,
        out=options.out,
        backend=options.backend,
    )
    print(run_demo(choice, progress_from(options)))
    return 0
